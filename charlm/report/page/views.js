// What several views have in common.

// An element with a class and a text.
export function make(tag, name = '', text = undefined) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

export const percent = p => p >= 0.001 ? (100 * p).toFixed(p >= 0.01 ? 1 : 2) + ' %' : p > 0 ? '< 0.1 %' : '0 %';

export const count = number => number.toLocaleString('en');

// The bytes of base64.
export function decoded(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// A labelled control; the label comes first.
export function labelled(text, control, name = '') {
  const label = make('label', name, text + ' ');
  label.append(control);
  return label;
}

export function button(text, act, label = '') {
  const element = make('button', '', text);
  element.type = 'button';
  if (label) element.setAttribute('aria-label', label);
  element.addEventListener('click', act);
  return element;
}

// A table with a caption; the first cell of each row, a text or an element, names it.
export function table(title, columns, rows) {
  const element = make('table');
  const row = (cells, scope, head) => {
    const line = element.insertRow();
    cells.forEach((cell, i) => {
      const part = make(head(i) ? 'th' : 'td'), inside = head(i) ? make('bdi') : part;
      if (head(i)) part.scope = scope, part.append(inside);
      inside.append(cell);
      line.append(part);
    });
  };
  element.append(make('caption', '', title));
  if (columns.length) row(columns, 'col', () => true);
  for (const cells of rows) row(cells, 'row', i => i === 0);
  return element;
}

const SLICE = 12;  // milliseconds of work between which a page answers

// Runs a generator in slices, and calls `show` after each with the last value. Returns what it returns; undefined where
// `wanted` says no.
export async function inSlices(work, show, wanted = () => true) {
  const channel = new MessageChannel(), port = channel.port1;
  const rest = () => new Promise(resolve => {
    port.onmessage = resolve;
    channel.port2.postMessage(null);
  });
  try {
    for (let step; wanted();) {
      const until = performance.now() + SLICE;
      do step = work.next(); while (!step.done && performance.now() < until);
      if (step.done) return step.value;
      show(step.value);
      await rest();
    }
  } finally {
    port.close();
  }
}
