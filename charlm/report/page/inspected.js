// The page of `charlm inspect cells`: its text stands in the markup, what each cell does is packed.

import {CellView} from './activity.js';
import {decoded} from './views.js';

const {state, cells} = JSON.parse(document.getElementById('data').textContent), block = document.querySelector('.text');
const values = new Map(cells.map(({layer, unit, packed}) => [`${layer}:${unit}`, new Float32Array(decoded(packed).buffer)]));
const found = cells.map(({layer, unit, about}) => [layer, unit, about]);
if (block) new CellView(block, {state, found, of: (layer, unit) => values.get(`${layer}:${unit}`)});
