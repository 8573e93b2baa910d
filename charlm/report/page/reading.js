// The surprisal of a text that is pasted, as a heat map.

import {judge} from './judge.js';
import {blockOf} from './lines.js';
import {Reader} from './reader.js';
import {SurprisalMap} from './surprisal.js';
import {endOf, IDEOGRAPH, SPACE} from './text.js';
import {count, make, table} from './views.js';

const ALTERNATIVES = 10;
const WORDS = 10;
const MOST = 200_000;  // characters

export class Reading extends Reader {
  constructor(section, model, tokenizer, {records, levels, levelNames, text}) {
    super(section, {form: 'reading', field: 'pasted', stop: 'stop-reading', said: 'read-said', place: 'read'});
    Object.assign(this, {model, tokenizer, records, levels, levelNames});
    if (text) this.begin(text);
  }

  async read(text) {
    this.clear();
    if (!text) return this.working(false, 'paste a text first');
    if (text.length > 2 * MOST || Array.from(text).length > MOST)
      return this.working(false, `a text of more than ${count(MOST)} characters is for charlm score`);
    const found = await this.finish(judge(this.model, this.tokenizer, text, this.records, ALTERNATIVES));
    if (!found) return;
    this.working(false, `${count(found.units)} characters read`);
    if (found.units) this.show(found);
  }

  show(found) {
    const {bits, own, tokens, ids, probabilities, k, units, characters} = found, {tokenizer} = this;
    const figures = {
      units,
      bits: unit => bits[unit],
      length: () => 1,
      tokens: unit => tokens[unit],
      own: unit => own[unit],
      alternatives: unit => Array.from({length: k}, (_, j) => [ids[unit * k + j], probabilities[unit * k + j]]),
    };
    const margin = (...cells) => [6, 9, 11].map((width, i) => cells[i].padStart(width)).join(''), end = endOf(this.records);
    const block = blockOf(characters, end, margin('line', 'bits', 'bits/char'), (number, first, last) => {
      const sum = bits.slice(first, last).reduce((total, one) => total + one, 0);
      return margin(count(number), sum.toFixed(1), (sum / (last - first)).toFixed(2));
    });
    const legend = make('p', 'legend');
    legend.append(make('small', '', 'bits per character:'), ...this.levelNames.map((name, level) => make('span', 'c' + level, name)));
    const tables = make('div', 'figures');
    this.place.append(tables, legend, block);
    const {levels, levelNames} = this, map = new SurprisalMap(block, figures, {levels, levelNames, names: id => tokenizer.name(id)});
    tables.append(this.totals(found));
    const words = worstWords(characters, bits, end).slice(0, WORDS);
    if (words.length) tables.append(map.wordTable(words));
    block.before(map.controls());
  }

  totals({bits, units, unknown}) {
    const total = bits.reduce((sum, one) => sum + one, 0), mean = total / units;
    return table('Totals', [], [['characters', count(units)], ['unknown characters', count(unknown)], ['bits', total.toFixed(1)],
      ['bits per character', mean.toFixed(4)], ['perplexity per character', (2 ** mean).toFixed(3)]]);
  }
}

// [word, count, bits per character, mean bits, total bits], the worst first: charlm/evaluation/surprisal.py.
function worstWords(characters, bits, end) {
  const words = new Map();
  let word = '', sum = 0;
  for (let i = 0; i <= characters.length; i++) {
    const character = characters[i] ?? ' ', blank = SPACE.test(character) || character === end;
    if (word && (blank || IDEOGRAPH.test(character) || IDEOGRAPH.test(characters[i - 1]))) {
      const [times, before] = words.get(word) ?? [0, 0];
      words.set(word, [times + 1, before + sum]);
      word = '', sum = 0;
    }
    if (!blank) word += character, sum += bits[i];
  }
  const rows = Array.from(words, ([own, [times, total]]) => [own, times, total / times / Array.from(own).length, total]);
  rows.sort((a, b) => b[2] - a[2] || b[3] - a[3] || (a[0] < b[0] ? -1 : 1));
  return rows.map(([own, times, mean, total]) => [own, count(times), mean.toFixed(2), (total / times).toFixed(2), total.toFixed(2)]);
}
