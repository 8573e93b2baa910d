// Random numbers and sampling, as in charlm/runtime/random.py and charlm/generation/sampling.py: the same seed and
// options select the same tokens.

const LOW = 0xffffffffn;

// The low and the high 32 bits of the product of two 32-bit words, from products of 16-bit halves.
function high(a, b) {
  const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16;
  const middle = a1 * b0 + (a0 * b0 >>> 16);  // below 2^32
  const other = a0 * b1 + (middle & 0xffff);
  return (a1 * b1 + (middle >>> 16) + Math.floor(other / 65536)) >>> 0;
}

// Philox4x32-10 (Salmon et al. 2011): two words [w0, w1] for a counter of four words and a key of two.
export function philox(x0, x1, x2, x3, k0, k1) {
  for (let round = 0; round < 10; round++) {
    const high0 = high(x0, 0xd2511f53), low0 = Math.imul(x0, 0xd2511f53);
    const high1 = high(x2, 0xcd9e8d57), low1 = Math.imul(x2, 0xcd9e8d57);
    x0 = (high1 ^ x1 ^ k0) >>> 0;
    x1 = low1 >>> 0;
    x2 = (high0 ^ x3 ^ k1) >>> 0;
    x3 = low0 >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [x0, x1, x2, x3];
}

// A uniform number in [0, 1) with 53 random bits for a seed (a BigInt of 64 bits), a position, and the number of the
// text. The fourth word of the counter is the purpose, and that of sampling is 0.
export function uniform(seed, position, number) {
  const low = position >>> 0, upper = Math.floor(position / 4294967296);
  const [w0, w1] = philox(low, upper, number >>> 0, 0, Number(seed & LOW), Number(seed >> 32n & LOW));
  return ((w0 >>> 5) * 67108864 + (w1 >>> 6)) / 9007199254740992;
}

// Distributions over a vocabulary of this size. Buffers are made once.
export class Sampler {
  constructor(size) {
    this.p = new Float64Array(size);
    this.order = new Uint32Array(size);
    this.byProbability = (a, b) => this.p[b] - this.p[a] || a - b;
  }

  // Fills p with softmax(logits / temperature), truncated by top-k, top-p and min-p in this order, and not yet
  // normalised; returns its sum. Temperature 0 leaves the most probable token.
  distribution(logits, {temperature, topK, topP, minP}) {
    const p = this.p, size = p.length;
    let best = 0, total = 0;
    for (let i = 1; i < size; i++) if (logits[i] > logits[best]) best = i;
    if (temperature === 0) {
      p.fill(0);
      return p[best] = 1;
    }
    for (let i = 0; i < size; i++) p[i] = Math.exp((logits[i] - logits[best]) / temperature);
    if (topK || topP < 1 || minP > 0) this.truncate(topK, topP, minP);
    for (let i = 0; i < size; i++) total += p[i];
    return total;
  }

  truncate(topK, topP, minP) {
    const {p, order} = this, size = p.length;
    for (let i = 0; i < size; i++) order[i] = i;
    order.sort(this.byProbability);
    let keep = topK && topK < size ? topK : size;
    if (topP < 1) {
      let within = 0, sum = 0, enough = 0;
      for (let i = 0; i < keep; i++) within += p[order[i]];
      while (enough < keep - 1 && (sum += p[order[enough]] / within) < topP) enough++;
      keep = enough + 1;
    }
    let likely = 0;
    while (likely < keep && p[order[likely]] >= minP * p[order[0]]) likely++;
    for (let i = likely; i < size; i++) p[order[i]] = 0;
  }

  // The token that u in [0, 1) selects: the first whose cumulative probability exceeds u.
  sample(logits, u, options) {
    const wanted = u * this.distribution(logits, options), p = this.p, size = p.length;
    let last = 0, sum = 0;
    for (let i = 0; i < size && (i === 0 || sum <= wanted); i++)
      if (p[i] > 0) {
        sum += p[i];
        last = i;
      }
    return last;
  }
}

// The k most probable of n logits: ids and probabilities go to `ids` and `values` from `at` on, best first. Returns
// the natural logarithm of the sum of all e^logit.
export function likeliest(logits, k, ids, values, at) {
  let found = 0, total = 0, best = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    const x = logits[i];
    if (x > best) best = x;
    if (found === k && x <= values[at + k - 1]) continue;
    let place = found < k ? found++ : k - 1;
    for (; place > 0 && values[at + place - 1] < x; place--) {
      values[at + place] = values[at + place - 1];
      ids[at + place] = ids[at + place - 1];
    }
    values[at + place] = x;
    ids[at + place] = i;
  }
  for (let i = 0; i < logits.length; i++) total += Math.exp(logits[i] - best);
  const all = best + Math.log(total);
  for (let i = at; i < at + found; i++) values[i] = Math.exp(values[i] - all);
  return all;
}
