// Products of a matrix with a vector: the work of a recurrent network. WebAssembly multiplies four numbers at once; where
// a browser lacks that, JavaScript does the same.
//
// A matrix is stored in blocks of 16 rows, [rows / 16][columns][16], so that each weight is read once and in order, and
// no sum runs across a vector. Rows are padded to whole blocks with zeros. Sums are of 32-bit floats in WebAssembly, of
// 64-bit floats in JavaScript.

export const BLOCK = 16;
const PAGE = 65536;

const I32 = 0x7f, V128 = 0x7b, VOID = 0x40;
const LOOP = 0x03, END = 0x0b, BRANCH_IF = 0x0d, GET = 0x20, SET = 0x21, TEE = 0x22, CONST = 0x41, ADD = 0x6a, SUB = 0x6b;
const vector = code => [0xfd, ...unsigned(code)];
const LOAD = vector(0), SPLAT_LOAD = vector(9), STORE = vector(11), SPLAT = vector(17), PLUS = vector(0xe4), TIMES = vector(0xe6);

function unsigned(value) {  // as LEB128
  const bytes = [];
  for (; value > 127; value >>>= 7) bytes.push(value & 127 | 128);
  return [...bytes, value];
}

const part = (number, ...content) => {
  const bytes = content.flat(Infinity);
  return [number, ...unsigned(bytes.length), ...bytes];
};
const name = text => [text.length, ...Array.from(text, letter => letter.charCodeAt(0))];

// A module with one function, product(w, x, y, rows, columns), that sets y = W x; w, x, y are places in memory in bytes.
function assemble() {
  const w = 0, x = 1, y = 2, rows = 3, columns = 4, at = 5, left = 6, factor = 7, sums = [8, 9, 10, 11];
  const aligned = offset => [0, ...unsigned(offset)];
  const move = (local, code, step) => [GET, local, CONST, step, code];
  const code = [
    [2, 2, I32, 5, V128],  // locals: at, left; factor and four sums
    LOOP, VOID,  // over blocks
    CONST, 0, SPLAT, sums.map((sum, i) => [i < 3 ? TEE : SET, sum]),
    GET, x, SET, at, GET, columns, SET, left,
    LOOP, VOID,  // over columns
    GET, at, SPLAT_LOAD, aligned(0), SET, factor,
    sums.map((sum, i) => [GET, sum, GET, factor, GET, w, LOAD, aligned(16 * i), TIMES, PLUS, SET, sum]),
    GET, w, CONST, 0xc0, 0x00, ADD, SET, w,  // 64 bytes on
    move(at, ADD, 4), SET, at,
    move(left, SUB, 1), TEE, left, BRANCH_IF, 0, END,
    sums.map((sum, i) => [GET, y, GET, sum, STORE, aligned(16 * i)]),
    GET, y, CONST, 0xc0, 0x00, ADD, SET, y,
    move(rows, SUB, BLOCK), TEE, rows, BRANCH_IF, 0, END,
    END,
  ].flat(Infinity);
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    part(1, 1, 0x60, 5, I32, I32, I32, I32, I32, 0),
    part(2, 1, name('page'), name('memory'), 2, 0, 1),
    part(3, 1, 0),
    part(7, 1, name('product'), 0, 0),
    part(10, 1, unsigned(code.length), code),
  ].flat(Infinity));
}

// Memory for so many numbers, and the product.
export class Arena {
  constructor(numbers, fast = true) {
    const bytes = 4 * numbers + 1024;
    this.used = 0;
    try {
      if (!fast) throw new Error('not wanted');
      const memory = new WebAssembly.Memory({initial: Math.ceil(bytes / PAGE)});
      const {exports} = new WebAssembly.Instance(new WebAssembly.Module(assemble()), {page: {memory}});
      this.buffer = memory.buffer;
      this.fast = exports.product;
    } catch {
      this.buffer = new ArrayBuffer(bytes);
      this.fast = null;
    }
  }

  floats(count) {
    const array = new Float32Array(this.buffer, this.used, count);
    this.used += 4 * BLOCK * Math.ceil(count / BLOCK);
    return array;
  }

  // A matrix [rows, columns] of numbers that stand row by row.
  matrix(values, rows, columns) {
    const blocks = Math.ceil(rows / BLOCK), weights = this.floats(blocks * BLOCK * columns);
    for (let row = 0; row < rows; row++) {
      let to = (row - row % BLOCK) * columns + row % BLOCK;
      for (let from = row * columns, end = from + columns; from < end; from++, to += BLOCK) weights[to] = values[from];
    }
    return {weights, rows: blocks * BLOCK, columns};
  }

  // y = W x, with vectors of this arena; y has room for padded rows.
  product({weights, rows, columns}, x, y) {
    if (!rows) return;
    if (this.fast) this.fast(weights.byteOffset, x.byteOffset, y.byteOffset, rows, columns);
    else for (let row = 0; row < rows; row += 8) eight(weights, (row - row % BLOCK) * columns + row % BLOCK, x, y, row, columns);
  }
}

// Eight rows of a block.
function eight(w, at, x, y, row, columns) {
  let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
  for (let k = 0; k < columns; k++, at += BLOCK) {
    const value = x[k];
    a += w[at] * value;
    b += w[at + 1] * value;
    c += w[at + 2] * value;
    d += w[at + 3] * value;
    e += w[at + 4] * value;
    f += w[at + 5] * value;
    g += w[at + 6] * value;
    h += w[at + 7] * value;
  }
  y[row] = a;
  y[row + 1] = b;
  y[row + 2] = c;
  y[row + 3] = d;
  y[row + 4] = e;
  y[row + 5] = f;
  y[row + 6] = g;
  y[row + 7] = h;
}
