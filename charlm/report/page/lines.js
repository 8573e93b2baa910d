// A text as a block of lines, which a heat map colours.

import {sign} from './text.js';
import {make} from './views.js';

// An element for each line of the characters, whose margin is `margin(number, first, last)`, with `heading` above it.
// Lines end with \n and with `end`, that of a record.
export function blockOf(characters, end, heading, margin) {
  const block = make('div', 'text'), columns = make('p', 'columns', heading);
  block.setAttribute('role', 'group');
  block.setAttribute('aria-label', 'The text; arrow keys move through it');
  columns.setAttribute('aria-hidden', 'true');
  block.append(columns);
  for (let first = 0, number = 1; first < characters.length; number++) {
    let last = first;
    do last++; while (characters[last - 1] !== '\n' && characters[last - 1] !== end && last < characters.length);
    const line = make('div', 'line');
    line.dir = 'auto';
    line.dataset.unit = first;
    line.dataset.margin = margin(number, first, last);
    fill(line, characters.slice(first, last));
    block.append(line);
    first = last;
  }
  return block;
}

function fill(line, characters) {
  let plain = '';
  for (const character of characters) {
    const seen = sign(character);
    if (seen === character) plain += character;
    else {
      const element = make('b', '', seen);
      element.dataset.c = character.codePointAt(0).toString(16);
      line.append(plain, element);
      plain = '';
    }
  }
  line.append(plain);
}
