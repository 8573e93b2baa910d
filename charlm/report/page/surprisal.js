// A text coloured by surprisal: the likeliest alternatives where one points, a threshold, the least expected words.
// `charlm score --html` and the page of a model show it alike.

import {HeatMap} from './heatmap.js';
import {shown} from './text.js';
import {button, labelled, make, percent, table} from './views.js';

const MOST = 65535 / 500;  // bits that packed figures hold

// Its figures have functions of a unit besides its length: bits, its number of tokens, and of its first token own (its id)
// and alternatives (a list of [id, probability], best first). `levels` are the bounds of the colours, `levelNames` what
// they are called, and `names` gives a token's name.
export class SurprisalMap extends HeatMap {
  level(unit) {
    const mean = this.figures.bits(unit) / this.figures.length(unit);
    return this.levels.filter(bound => mean >= bound).length;
  }

  classOf(unit) {
    return 'c' + this.level(unit);
  }

  tell(span) {
    const {figures, names} = this, unit = span.unit, bits = figures.bits(unit), tokens = figures.tokens(unit);
    const title = make('p'), own = figures.own(unit), others = figures.alternatives(unit), said = [title];
    title.append(make('b', '', span.textContent.replace(/ /g, '\u2423')), bits >= MOST ? ' over 131 bits' :
      ` ${bits.toFixed(2)} bits`, tokens === 1 ? `, ${percent(2 ** -bits)}` : `, of ${tokens} tokens`);
    if (others.length && tokens > 1) said.push(make('p', '', 'most likely first tokens:'));
    for (const [id, p] of others) said.push(row(names(id), p, id === own));
    if (others.length && tokens === 1 && !others.some(([id]) => id === own))
      said.push(make('div', '', '\u2026'), row(names(own), 2 ** -bits, true));
    return said;
  }

  // Controls above the text: from which level on it is coloured, and what to look for.
  controls() {
    const bar = make('div', 'controls'), {levels, levelNames, block} = this;
    bar.setAttribute('role', 'group');
    bar.setAttribute('aria-label', 'Threshold and search');
    const least = document.createElement('select'), said = make('span', 'said');
    levelNames.forEach((name, level) => least.add(new Option(level ? `from ${levels[level - 1]} bits` : 'all levels', level)));
    said.setAttribute('role', 'status');
    least.addEventListener('change', () => block.dataset.least = least.value);
    const surprising = unit => this.level(unit) >= (+least.value || 4);  // where there is no threshold, 4 bits
    bar.append(labelled('Colour', least), button('◂', () => this.hop(-1, surprising, said), 'previous character above the threshold'),
      button('▸', () => this.hop(1, surprising, said), 'next character above the threshold'), ...this.finder(said), said);
    return bar;
  }

  // A button for a word, which goes to its next occurrence.
  wordButton(word, label) {
    return button(label, () => {
      const found = this.find(word, true), from = this.current?.unit ?? -1;
      if (found.length) this.mark(found.find(units => units[0] > from) ?? found[0]);
    });
  }

  // The words with the most bits per character, as a table of [word, count, bits per character, mean, total].
  wordTable(words) {
    const columns = ['word', 'count', 'bits per character', 'mean bits', 'total bits'];
    const rows = words.map(([word, ...cells]) => [this.wordButton(word, shown(cut(word))), ...cells]);
    const found = table('Least expected words', columns, rows);
    found.className = 'words';
    return found;
  }
}

const cut = word => {
  const signs = Array.from(word);
  return signs.length > 60 ? signs.slice(0, 59).join('') + '…' : word;
};

function row(label, p, own) {
  const line = make('div', own ? 'row own' : 'row'), bar = make('div', 'bar'), fill = make('i');
  fill.style.width = 100 * p + '%';
  bar.append(fill);
  line.append(make('bdi', '', label), bar, make('span', '', percent(p)));
  return line;
}
