// A text that is pasted into a form and read in slices: it can be stopped, and what has not ended gives way to what is read
// next. A view is a subclass with `read(text)`.

import {wellFormed} from './text.js';
import {inSlices} from './views.js';

export class Reader {
  // The names of the form, its field, the button that stops, what is said, and the place of the outcome.
  constructor(section, {form, field, stop, said, place}) {
    this.part = name => section.querySelector(`#${name}`);
    this.field = this.part(field);
    this.stop = this.part(stop);
    this.said = this.part(said);
    this.place = this.part(place);
    this.task = 0;
    this.part(form).addEventListener('submit', event => {
      event.preventDefault();
      this.read(wellFormed(this.field.value));
    });
    this.stop.addEventListener('click', () => {
      this.task++;
      this.working(false, 'stopped');
    });
  }

  // Reads this text, as it is: a field turns line ends of Windows into \n.
  begin(text) {
    this.field.value = text;
    this.read(text);
  }

  // Ends what is being read, and removes what was.
  clear() {
    this.task++;
    this.place.replaceChildren();
  }

  working(yes, said) {
    this.stop.disabled = !yes;
    this.said.textContent = said;
  }

  // What a generator of shares returns; nothing where it was stopped, or something else is read by then.
  async finish(work) {
    const {task} = this;
    this.working(true, 'reading');
    const found = await inSlices(work, share => this.said.textContent = `reading: ${Math.floor(100 * share)} %`,
      () => task === this.task);
    return task === this.task ? found : undefined;
  }
}
