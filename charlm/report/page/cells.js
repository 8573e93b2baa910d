// Cells over a text: what one of the model's cells does at each character.

import {CellView} from './activity.js';
import {blockOf} from './lines.js';
import {Reader} from './reader.js';
import {endOf} from './text.js';
import {trace} from './trace.js';
import {button, count} from './views.js';

const MARGIN = 6;

export class Cells extends Reader {
  // `written` gives the text that the model has written.
  constructor(section, model, tokenizer, {records, text, cells}, written) {
    super(section, {form: 'cell-reading', field: 'cell-text', stop: 'stop-cells', said: 'cells-said', place: 'cells-read'});
    Object.assign(this, {model, tokenizer, records, ...cells});
    this.part('use-written').addEventListener('click', () => this.begin(written()));
    section.querySelectorAll('.found-cells tr').forEach(row => {  // those that were found lead to the text
      const place = row.querySelector('td'), [layer, unit] = place?.textContent.split(':').map(Number) ?? [];
      if (unit) place.replaceChildren(button(place.textContent, () => this.choose(layer, unit), `unit ${place.textContent}`));
    });
    if (text) this.begin(text);
  }

  choose(layer, unit) {
    if (!this.view) {
      this.working(false, 'paste a text first');
      return this.field.focus();
    }
    this.view.choose(layer, unit);
    this.place.scrollIntoView();
    this.view.map.current.focus({preventScroll: true});
  }

  async read(text) {
    this.clear();
    this.view = null;
    if (!text) return this.working(false, 'paste a text first');
    const found = await this.finish(trace(this.model, this.tokenizer, text, this.records));
    if (!found) return;
    const {characters, all, of} = found, length = characters.length;
    this.working(false, length < all ? `the first ${count(length)} of ${count(all)} characters read` : `${count(length)} characters read`);
    if (!length) return;
    const block = blockOf(characters, endOf(this.records), 'line'.padStart(MARGIN), number => count(number).padStart(MARGIN));
    block.classList.add('numbered');
    this.place.append(block);
    const {state, found: known, model} = this;
    this.view = new CellView(block, {state, found: known, of, layers: model.layers.length, units: model.hidden});
  }
}
