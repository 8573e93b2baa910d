// The surprisal of a text, character by character: charlm/evaluation/surprisal.py.

import {likeliest} from './sampling.js';
import {recordsOf} from './text.js';

// A generator that pauses after each character, with the share that is done, and returns the figures of all units, which
// are characters here: bits, the id of the first token, the number of tokens, and of the first token the k likeliest ids
// and their probabilities [units, k].
export function* judge(model, tokenizer, given, records, k) {
  const parts = recordsOf(given, records), text = parts.join(''), characters = Array.from(text), units = characters.length;
  const bits = new Float64Array(units), own = new Int32Array(units), tokens = new Uint8Array(units);
  k = Math.min(k, tokenizer.size);
  const ids = new Int32Array(units * k), probabilities = new Float32Array(units * k), known = Math.exp(-tokenizer.knownNats);
  const one = new Int32Array(1), top = new Float32Array(1);  // where the likeliest is enough
  let unit = 0, unknown = 0;
  for (const part of parts) {
    model.reset();
    model.read(tokenizer.size);
    for (const character of part) {
      const spelt = tokenizer.encode(character);
      let nats = 0;
      spelt.forEach((id, place) => {
        const first = place === 0, total = first ? likeliest(model.logits, k, ids, probabilities, unit * k)
          : likeliest(model.logits, 1, one, top, 0);
        if (id < tokenizer.size) nats += total - model.logits[id] + tokenizer.knownNats;
        else {
          nats += tokenizer.unseenNats;
          unknown++;
        }
        model.read(id);
      });
      for (let i = unit * k; i < (unit + 1) * k; i++) probabilities[i] *= known;
      bits[unit] = nats / Math.LN2;
      own[unit] = spelt[0];
      tokens[unit] = spelt.length;
      unit++;
      yield unit / units;
    }
  }
  return {text, characters, units, bits, own, tokens, ids, probabilities, k, unknown};
}
