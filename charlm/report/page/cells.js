// Cells over a text: what one of the model's cells does at each character.

import {CellView} from './activity.js';
import {blockOf} from './lines.js';
import {endOf, wellFormed} from './text.js';
import {trace} from './trace.js';
import {button, count, inSlices} from './views.js';

const MARGIN = 6;

export class Cells {
  // `written` gives the text that the model has written.
  constructor(section, model, tokenizer, {records, text, cells}, written) {
    this.part = name => section.querySelector(`#${name}`);
    Object.assign(this, {model, tokenizer, records, ...cells});
    this.task = 0;
    this.part('cell-reading').addEventListener('submit', event => {
      event.preventDefault();
      this.read();
    });
    this.part('stop-cells').addEventListener('click', () => {
      this.task++;
      this.working(false, 'stopped');
    });
    this.part('use-written').addEventListener('click', () => {
      this.part('cell-text').value = written();
      this.read(written());
    });
    section.querySelectorAll('.found-cells tr').forEach(row => {  // those that were found lead to the text
      const place = row.querySelector('td'), [layer, unit] = place?.textContent.split(':').map(Number) ?? [];
      if (unit) place.replaceChildren(button(place.textContent, () => this.choose(layer, unit), `unit ${place.textContent}`));
    });
    if (text) {
      this.part('cell-text').value = text;
      this.read(text);
    }
  }

  choose(layer, unit) {
    if (!this.view) {
      this.working(false, 'paste a text first');
      return this.part('cell-text').focus();
    }
    this.view.choose(layer, unit);
    this.part('cells-read').scrollIntoView();
    this.view.map.current.focus({preventScroll: true});
  }

  working(yes, said) {
    this.part('stop-cells').disabled = !yes;
    this.part('cells-said').textContent = said;
  }

  async read(text = wellFormed(this.part('cell-text').value)) {
    const task = ++this.task, place = this.part('cells-read');
    place.replaceChildren();
    this.view = null;
    if (!text) return this.working(false, 'paste a text first');
    this.working(true, 'reading');
    const found = await inSlices(trace(this.model, this.tokenizer, text, this.records),
      share => this.part('cells-said').textContent = `reading: ${Math.floor(100 * share)} %`, () => task === this.task);
    if (!found || task !== this.task) return;
    const {characters, all, of} = found, length = characters.length;
    this.working(false, length < all ? `the first ${count(length)} of ${count(all)} characters read` : `${count(length)} characters read`);
    if (!length) return;
    const block = blockOf(characters, endOf(this.records), 'line'.padStart(MARGIN), number => count(number).padStart(MARGIN));
    block.classList.add('numbered');
    place.append(block);
    const {state, found: known, model} = this;
    this.view = new CellView(block, {state, found: known, of, layers: model.layers.length, units: model.hidden});
  }
}
