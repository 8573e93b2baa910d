// Runs the page's own modules in Node.js for tests/test_page_model.py: a task as JSON on standard input, an answer on
// standard output.

import {readFileSync, writeFileSync} from 'node:fs';
import {levelOf, scaleOf} from './activity.js';
import {Model} from './model.js';
import {philox, uniform, Sampler, likeliest} from './sampling.js';
import {judge} from './judge.js';
import {recordsOf, sign, tokenizerOf} from './text.js';
import {trace} from './trace.js';
import {Writer} from './writer.js';

const task = JSON.parse(readFileSync(0, 'utf8'));
const bytes = task.weights ? Uint8Array.from(Buffer.from(task.weights, 'base64')) : null;
const open = () => new Model(task.network, bytes, {fast: task.fast ?? true});

const answers = {
  philox: () => task.counters.map(counter => philox(...counter)),
  uniform: () => task.places.map(([seed, position, number]) => uniform(BigInt(seed), position, number)),
  tokens: () => {
    const sampler = new Sampler(task.logits[0].length);
    return task.logits.map((logits, i) => sampler.sample(Float32Array.from(logits), task.uniforms[i], task.options));
  },
  likeliest: () => {
    const ids = new Int32Array(task.k), values = new Float32Array(task.k);
    const total = likeliest(Float32Array.from(task.logits), task.k, ids, values, 0);
    return [Array.from(ids), Array.from(values), total];
  },
  read: () => {
    const model = open();
    model.reset();
    return {fast: !!model.arena.fast, logits: task.ids.map(id => (model.read(id), Array.from(model.logits)))};
  },
  again: () => {  // the logits after the last id, read on from a state that was saved after `keep` ids
    const model = open();
    model.reset();
    let kept;
    task.ids.forEach((id, i) => {
      if (i === task.keep) kept = model.save();
      model.read(id);
    });
    const first = Array.from(model.logits);
    model.restore(kept);
    const then = Array.from(model.logits);
    for (const id of task.ids.slice(task.keep)) model.read(id);
    return [first, Array.from(model.logits), then, Array.from(kept.logits)];
  },
  write: () => {
    const writer = new Writer(open(), tokenizerOf(task.tokenizer), task.records ?? 'none');
    for (const _ of writer.begin(task.prime, BigInt(task.seed), task.number ?? 0));
    let text = '';
    for (let i = 0; i < task.tokens && !writer.ended; i++) text += writer.next(task.options);
    return [text, writer.ended];
  },
  judge: () => {
    const steps = judge(open(), tokenizerOf(task.tokenizer), task.text, task.records ?? 'none', task.k);
    let step = steps.next();
    while (!step.done) step = steps.next();
    const {text, units, bits, own, tokens, ids, probabilities, unknown} = step.value;
    return {text, units, bits: Array.from(bits), own: Array.from(own), tokens: Array.from(tokens), unknown,
      ids: Array.from(ids), probabilities: Array.from(probabilities)};
  },
  trace: () => {
    const steps = trace(open(), tokenizerOf(task.tokenizer), task.text, task.records ?? 'none');
    let step = steps.next();
    while (!step.done) step = steps.next();
    const {characters, all, of} = step.value;
    return {text: characters.join(''), all, cells: task.cells.map(([layer, unit]) => Array.from(of(layer, unit)))};
  },
  levels: () => {
    const values = Float32Array.from(task.values), scale = scaleOf(values);
    return Array.from(values, value => levelOf(value, scale) + 3);
  },
  signs: () => Array.from(task.text, sign),
  records: () => recordsOf(task.text, task.records),
};
writeFileSync(1, JSON.stringify(answers[task.what]()));
