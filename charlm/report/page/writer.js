// A text that the model writes: charlm/generation/generate.py. Token t of text k has the random number u(seed, k, t).

import {Sampler, uniform} from './sampling.js';
import {endOf} from './text.js';

const LINES = 1e-4;  // probability of a line end after the start input; below it the text seems to have no lines
const PLAIN = {temperature: 1, topK: 0, topP: 1, minP: 0};

export class Writer {
  constructor(model, tokenizer, records) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.end = endOf(records);
    this.sampler = new Sampler(tokenizer.size);
  }

  // Begins text k with a prime; an empty one begins where a line or a record does. A generator that pauses after each
  // token that is read.
  *begin(prime, seed, number = 0) {
    const {model, tokenizer} = this;
    this.seed = seed;
    this.number = number;
    this.position = 0;
    this.ended = false;
    this.decode = tokenizer.stream();
    model.reset();
    model.read(tokenizer.size);
    for (const id of tokenizer.encode(prime)) {
      model.read(id);
      yield;
    }
    if (prime || this.end) return;
    const [line, ...more] = tokenizer.encode('\n');
    if (more.length || line >= tokenizer.size) return;
    const total = this.sampler.distribution(model.logits, PLAIN);
    if (this.sampler.p[line] / total >= LINES) model.read(line);
  }

  // The text that this token completes, perhaps none; the end of a record ends the text, and is not part of it.
  add(id) {
    this.model.read(id);
    const text = this.decode(id);
    if (this.end && text === this.end) {
      this.ended = true;
      return '';
    }
    return text;
  }

  // Samples the next token and adds it.
  next(options) {
    const u = uniform(this.seed, this.position++, this.number);
    return this.add(this.sampler.sample(this.model.logits, u, options));
  }
}
