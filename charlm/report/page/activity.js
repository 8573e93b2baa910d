// A text coloured by the activity of a cell, and the choice of that cell. The page of a model and that of `charlm inspect
// cells` show it alike.
//
// Seven levels, as in charlm/report/cells.py: the middle one is around 0. What is below 0 has a line below it, what is
// above 0 a line above it, for who cannot see the colours.

import {HeatMap} from './heatmap.js';
import {shown} from './text.js';
import {button, labelled, make} from './views.js';

const SIDE = 3;  // levels on either side of the middle one
const USUAL = 0.99;  // of the characters are within the scale
const SPOKEN = {'␣': 'space', '↵': 'line end', '␉': 'tab'};

// The size that all but one value in a hundred stay below.
export function scaleOf(values) {
  const sizes = values.map(Math.abs).sort(), at = USUAL * (sizes.length - 1), low = sizes[Math.floor(at)];
  return low + (sizes[Math.ceil(at)] - low) * (at % 1) || 1;
}

export const levelOf = (value, scale) => Math.max(-SIDE, Math.min(SIDE, Math.round(SIDE * value / scale)));

const signed = value => (value < 0 ? '\u2212' : '+') + Math.abs(value).toFixed(3);

// `values` are those of the cell at each character; `said` is where they are told.
class ActivityMap extends HeatMap {
  classOf(unit) {
    return 'd' + (SIDE + levelOf(this.values[unit], this.scale));
  }

  tell(span) {
    const title = make('p');
    title.append(make('b', '', span.textContent.replace(/ /g, '\u2423')), ` ${signed(this.values[span.unit])}`);
    return [title];
  }

  show(span) {
    super.show(span);
    span.removeAttribute('aria-describedby');  // the value is read out, and not twice
    this.tip.setAttribute('aria-hidden', 'true');
    const character = shown(span.textContent);
    this.said.textContent = `${SPOKEN[character] ?? character}: ${signed(this.values[span.unit])}`;
  }
}

// The text of a block, coloured by a cell at a time. `found` lists cells to choose from, each [layer, unit, what it
// follows]; where there are `layers`, each of so many `units`, any of them can be chosen. `of(layer, unit)` has the values.
export class CellView {
  constructor(block, {state, found, of, layers = 0, units = 0}) {
    Object.assign(this, {state, found, of, layers, units});
    this.said = make('span', 'said');
    this.said.setAttribute('role', 'status');
    this.legend = make('p', 'legend');
    const [layer, unit] = found[0] ?? [1, 1], values = of(layer, unit), figures = {units: values.length, length: () => 1};
    this.map = new ActivityMap(block, figures, {values, scale: scaleOf(values), said: this.said});
    block.before(this.controls(), this.legend);
    this.choose(layer, unit);
  }

  // Colours the text by this cell.
  choose(layer, unit) {
    const values = this.of(layer, unit), scale = scaleOf(values), name = `${layer}:${unit}`;
    const about = this.found.find(one => one[0] === layer && one[1] === unit)?.[2];
    Object.assign(this.map, {values, scale}).repaint();
    this.select.value = about === undefined ? '' : name;
    this.layer.value = layer;
    this.unit.value = unit;
    for (const field of [this.layer, this.unit]) field.setAttribute('aria-invalid', 'false');
    const levels = Array.from({length: 2 * SIDE + 1}, (_, level) =>
      make('span', 'd' + level, level === SIDE ? 'around 0' : signed((level - SIDE) * scale / SIDE)));
    this.legend.replaceChildren(make('small', '', `${this.state} of unit ${name}:`), ...levels);
    this.said.textContent = `${this.state} of unit ${name}${about ? ', ' + about : ''}`;
  }

  controls() {
    const bar = make('div', 'controls'), {found, layers, units, said} = this;
    bar.setAttribute('role', 'group');
    bar.setAttribute('aria-label', 'Cell and search');
    this.select = document.createElement('select');
    for (const [layer, unit, about] of found) this.select.add(new Option(`${layer}:${unit} ${about}`, `${layer}:${unit}`));
    if (layers) this.select.add(new Option('another', ''));
    this.select.addEventListener('change', () => {
      if (this.select.value) this.choose(...this.select.value.split(':').map(Number));
      else this.unit.focus();
    });
    [this.layer, this.unit] = [layers, units].map(most => {
      const field = make('input');
      Object.assign(field, {type: 'number', min: 1, max: most, step: 1});
      field.addEventListener('input', () => this.chosen());
      return field;
    });
    if (found.length) bar.append(labelled('Cell', this.select));
    if (layers) bar.append(labelled('Layer', this.layer), labelled('Unit', this.unit));
    const {map} = this, far = unit => Math.abs(levelOf(map.values[unit], map.scale)) === SIDE, hop = step => map.hop(step, far, said);
    bar.append(button('◂', () => hop(-1), 'previous character where the cell is far from 0'),
      button('▸', () => hop(1), 'next character where the cell is far from 0'), ...map.finder(said), said);
    return bar;
  }

  // The cell of the two fields, where there is one.
  chosen() {
    const wrong = [[this.layer, this.layers], [this.unit, this.units]].filter(([field, most]) => {
      const value = Number(field.value), right = Number.isInteger(value) && value >= 1 && value <= most;
      field.setAttribute('aria-invalid', !right);
      return !right;
    });
    if (wrong.length) this.said.textContent = `there are layers 1 to ${this.layers} of units 1 to ${this.units}`;
    else this.choose(Number(this.layer.value), Number(this.unit.value));
  }
}
