// A recurrent network that reads one token after the other: charlm/generation/decoder.py and the steps of
// charlm/models/cells.py.
//
// The states of all layers, `states`, and `logits` are there to be looked at: what shows the cells over a text reads them.
// Weights come as charlm/report/page/weights.py packs them. With 8-bit weights a row is whole numbers with a scale, and the
// hidden state that it is multiplied with is rounded to multiples of 1/127; both are kept as floats, whose sums are exact.

import {Arena, BLOCK} from './product.js';

const STEPS = 127;
const FORKS = 4;  // texts that can be read side by side
const sigmoid = x => 1 / (1 + Math.exp(-x));

// One step of each cell: a = W_i x + biases [G H], b = W_h h [G H], states [H] that it changes, other vectors [..].
const CELLS = {
  lstm(a, b, [h, c]) {
    const n = h.length;
    for (let i = 0, f = n, g = 2 * n, o = 3 * n; i < n; i++, f++, g++, o++) {
      c[i] = sigmoid(a[f] + b[f]) * c[i] + sigmoid(a[i] + b[i]) * Math.tanh(a[g] + b[g]);
      h[i] = sigmoid(a[o] + b[o]) * Math.tanh(c[i]);
    }
  },
  gru(a, b, [h], inner) {
    const units = h.length;
    for (let r = 0, z = units, n = 2 * units; r < units; r++, z++, n++) {
      const fresh = Math.tanh(a[n] + sigmoid(a[r] + b[r]) * (b[n] + inner[r]));
      h[r] = fresh + sigmoid(a[z] + b[z]) * (h[r] - fresh);
    }
  },
  rnn(a, b, [h]) {
    for (let i = 0; i < h.length; i++) h[i] = Math.tanh(a[i] + b[i]);
  },
  leaky(a, b, [h], rate) {
    for (let i = 0; i < h.length; i++) h[i] += sigmoid(rate[i]) * (Math.tanh(a[i] + b[i]) - h[i]);
  },
  mingru(a, b, [h]) {
    for (let z = 0, c = h.length; z < h.length; z++, c++) h[z] += sigmoid(a[z]) * (a[c] - h[z]);
  },
};

// The arrays in the packed bytes, by name.
function unpack(tensors, bytes) {
  const found = {};
  let at = 0;
  for (const {name, type, shape} of tensors) {
    const count = shape.reduce((product, side) => product * side, 1), Kind = type === 'i8' ? Int8Array : Float32Array;
    found[name] = {values: new Kind(bytes.buffer, bytes.byteOffset + at, count), shape};
    at += count * Kind.BYTES_PER_ELEMENT;
  }
  return found;
}

export class Model {
  // `about` is the page's description of the network, `bytes` its weights (a Uint8Array at a multiple of 4).
  constructor(about, bytes, {fast = true} = {}) {
    const tensors = unpack(about.tensors, bytes), {layers, hidden, skip} = about;
    const sizes = about.tensors.map(({shape}) => shape.reduce((all, side, i) => all * (i ? side : side + BLOCK), 1));
    const vectors = FORKS * (4 * about.vocabulary + 64 * (layers + 4) * (hidden + BLOCK));  // with room to spare
    const arena = this.arena = new Arena(sizes.reduce((all, one) => all + one, vectors), fast);
    const matrix = name => {
      const {values, shape: [rows, columns]} = tensors[name], scale = tensors[name + '.scale'];
      return {...arena.matrix(values, rows, columns), scale: scale && scale.values.map(one => one / STEPS)};
    };
    const vector = name => tensors[name].values;
    this.size = about.vocabulary;
    this.hidden = hidden;
    this.skip = skip;
    this.step = CELLS[about.cell];
    this.embedding = tensors.embedding;  // [V + 2, E], or the first product of each id [V + 2, G H]
    this.layers = [];
    for (let i = 0; i < layers; i++)
      this.layers.push({
        input: `${i}.input` in tensors ? matrix(`${i}.input`) : null,
        recurrent: matrix(`${i}.recurrent`),
        bias: vector(`${i}.bias`),
        inner: vector(`${i}.inner`),
      });
    this.head = matrix('head');
    this.headBias = vector('head.bias');
    this.parts = about.states.length;
    this.open();
  }

  // Makes a state and room for what is computed from it.
  open() {
    const {arena, hidden, size} = this, widest = Math.max(this.layers[0].bias.length, size) + BLOCK;
    this.states = this.layers.map(() => Array.from({length: this.parts}, () => arena.floats(hidden)));
    this.a = arena.floats(widest);
    this.b = arena.floats(widest);
    this.x = arena.floats(Math.max(this.layers[0].input ? this.embedding.shape[1] : 0, hidden));  // what a layer reads
    this.rounded = arena.floats(hidden);
    this.scores = arena.floats(widest);
    this.logits = this.scores.subarray(0, size);  // after the last token
  }

  // The same network with a state of its own.
  fork() {
    const other = Object.assign(Object.create(Model.prototype), this);
    other.open();
    return other;
  }

  // The zero state.
  reset() {
    for (const layer of this.states) for (const state of layer) state.fill(0);
  }

  // Reads one id and fills `logits`; makes no array.
  read(id) {
    const {x, a, b, skip} = this;
    for (let number = 0; number < this.layers.length; number++) {
      const layer = this.layers[number], states = this.states[number], h = states[0], {bias} = layer;
      if (number) this.product(layer.input, x, a);
      else this.enter(id, layer.input);
      this.product(layer.recurrent, h, b);
      for (let i = 0; i < bias.length; i++) a[i] += bias[i];
      this.step(a, b, states, layer.inner);
      if (skip && number) for (let i = 0; i < h.length; i++) x[i] += h[i];
      else x.set(h);
    }
    this.product(this.head, x, this.scores);
    for (let i = 0; i < this.size; i++) this.logits[i] += this.headBias[i];
  }

  // The first layer's W_i x for an id goes to `a`.
  enter(id, input) {
    const {values, shape: [, width]} = this.embedding;
    const to = input ? this.x : this.a;
    for (let i = 0, from = id * width; i < width; i++, from++) to[i] = values[from];
    if (input) this.arena.product(input, this.x, this.a);
  }

  // y = W x, by whole numbers where W has a scale.
  product(matrix, x, y) {
    const {scale} = matrix;
    if (!scale) return this.arena.product(matrix, x, y);
    const rounded = this.rounded;
    for (let i = 0; i < rounded.length; i++) rounded[i] = Math.floor(Math.fround(x[i] * STEPS + 0.5));
    this.arena.product(matrix, rounded, y);
    for (let i = 0; i < scale.length; i++) y[i] *= scale[i];
  }

  // The state and the logits after the last token, as a copy that `restore` takes.
  save() {
    return {states: this.states.map(layer => layer.map(state => state.slice())), logits: this.logits.slice()};
  }

  restore({states, logits}) {
    this.states.forEach((layer, i) => layer.forEach((state, j) => state.set(states[i][j])));
    this.logits.set(logits);
  }
}
