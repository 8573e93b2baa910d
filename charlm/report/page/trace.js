// What every cell does while a text is read: charlm/inspection/trace.py.

import {recordsOf} from './text.js';

const NUMBERS = 16e6;  // that are kept: 64 MB
const MOST = 20_000;  // characters

// A generator that pauses after each character, with the share that is done. It returns the characters of the text, at
// most so many that what is kept of them has room, how many there are of the whole text, and `of(layer, unit)`, both from
// 1: the memory of a cell once each character has been read (c of an LSTM, h of any other).
export function* trace(model, tokenizer, given, records) {
  const parts = recordsOf(given, records).map(part => Array.from(part)), all = parts.reduce((sum, part) => sum + part.length, 0);
  const {hidden, states} = model, cells = states.length * hidden, length = Math.min(all, MOST, Math.floor(NUMBERS / cells));
  const values = new Float32Array(length * cells), characters = parts.flat().slice(0, length);
  let at = 0;
  for (const part of parts) {
    model.reset();
    model.read(tokenizer.size);
    for (const character of part) {
      if (at === length) break;
      for (const id of tokenizer.encode(character)) model.read(id);
      states.forEach((layer, number) => values.set(layer.at(-1), at * cells + number * hidden));
      at++;
      yield at / length;
    }
  }
  const of = (layer, unit) => Float32Array.from({length}, (_, i) => values[i * cells + (layer - 1) * hidden + unit - 1]);
  return {characters, all, of};
}
