// The page of `charlm score --html`: its texts stand in the markup, their figures are packed (packing.py).

import {SurprisalMap} from './surprisal.js';
import {decoded} from './views.js';

const data = JSON.parse(document.getElementById('data').textContent);

async function unpack({packed, widths, units}) {
  const stream = new Blob([decoded(packed)]).stream().pipeThrough(new DecompressionStream('deflate'));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  let at = 0;
  const columns = widths.map(width => {
    const from = at;
    at += width * units;
    return unit => {
      let value = 0;
      for (let plane = width - 1; plane >= 0; plane--) value = 256 * value + raw[from + plane * units + unit];
      return value;
    };
  });
  const [bits, length, tokens, own, ...others] = columns, k = others.length / 2;
  return {
    units, length, tokens, own,
    bits: unit => bits(unit) / 500,
    alternatives: unit => others.slice(0, k).map((id, j) => [id(unit), (others[k + j](unit) / 4095) ** 2]),
  };
}

document.querySelectorAll('.text').forEach(async block => {
  const text = data.texts[block.dataset.text];
  if (!text.units) return;
  const {levels, levelNames} = data;
  const map = new SurprisalMap(block, await unpack(text), {levels, levelNames, names: id => data.names[id]});
  block.before(map.controls());
  const rows = block.closest('section').querySelectorAll('.words th bdi');
  text.words.forEach((word, i) => rows[i].replaceChildren(map.wordButton(word, rows[i].textContent)));
});
