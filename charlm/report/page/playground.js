// A text that the model writes, and the distribution of the next token, from which one can be chosen by hand.

import {shown, sign, wellFormed} from './text.js';
import {count, inSlices, make, percent} from './views.js';
import {Writer} from './writer.js';

const BARS = 12;
const AGAIN = 250;  // milliseconds between two looks at the distribution while it writes
const SEEDS = 1e9;  // from which a fresh one is taken, as charlm sample does
const FIELDS = {  // name: lowest, highest, whole number, option of charlm sample, what it is where nothing is given
  temperature: [0, 1e9, false, '--temperature', 1],
  top_k: [0, 1e9, true, '--top-k', 0],
  top_p: [Number.MIN_VALUE, 1, false, '--top-p', 1],
  min_p: [0, 1, false, '--min-p', 0],
  length: [1, 1e7, true, '--length', 500],
};
const quoted = text => /^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
// What a person sees of a text: signs for what would command, line ends and tabs as they are.
const visible = text => Array.from(text, c => c === '\n' || c === '\t' ? c : sign(c)).join('');

export class Playground {
  constructor(section, model, tokenizer, {records, run, precision}) {
    this.part = name => section.querySelector(`[name=${name}], #${name}`);
    Object.assign(this, {tokenizer, records, run, precision});
    this.writer = new Writer(model, tokenizer, records);
    this.task = 0;  // the number of what is being done; what was begun before stops
    this.seed = 0n;
    this.number = 0;
    this.text = '';  // what was written, after the beginning
    this.form = this.part('options');
    this.bars = this.makeBars();
    this.form.addEventListener('submit', event => {
      event.preventDefault();
      this.write();
    });
    this.part('stop').addEventListener('click', () => this.stop());
    this.part('more').addEventListener('click', () => this.more());
    this.part('beginning').addEventListener('input', () => {
      clearTimeout(this.waiting);
      this.task++;
      this.working(true);  // until then nothing can be added to the beginning of before
      this.waiting = setTimeout(() => this.begin(), 200);
    });
    for (const name of [...Object.keys(FIELDS), 'seed']) this.part(name).addEventListener('input', () => this.lookAgain());
    this.begin();
  }

  // The options as they stand in their fields; null where one is wrong, which is said.
  options() {
    const found = {};
    let wrong = '';
    for (const [name, [least, most, whole]] of Object.entries(FIELDS)) {
      const field = this.part(name), value = Number(field.value), right = field.value.trim() !== '' && value >= least
        && value <= most && (!whole || Number.isInteger(value));
      field.setAttribute('aria-invalid', !right);
      if (!right) wrong ||= `${field.dataset.name} must be ${whole ? 'a whole number ' : ''}from ${least < 1e-9 && least ?
        'above 0' : least} to ${count(most)}`;
      found[name] = value;
    }
    const seed = this.part('seed').value.trim(), right = /^\d{0,19}$/.test(seed) && BigInt(seed || 0) < 2n ** 63n;
    this.part('seed').setAttribute('aria-invalid', !right);
    if (!right) wrong ||= 'the seed must be a whole number below 2^63, or nothing for a fresh one';
    this.part('wrong').textContent = wrong;
    const {temperature, top_k: topK, top_p: topP, min_p: minP, length} = found;
    return wrong ? null : {temperature, topK, topP, minP, length, seed};
  }

  lookAgain() {
    const options = this.options();
    if (options) this.look(options);
  }

  get beginning() {
    return wellFormed(this.part('beginning').value);
  }

  // Reads the beginning, and shows nothing but that.
  async begin(seed = 0n) {
    const task = ++this.task, work = this.writer.begin(this.beginning, seed, this.number = 0);
    this.seed = seed;
    this.text = '';
    this.given = make('span', 'given', visible(this.beginning));
    this.part('written').replaceChildren(this.given, this.fresh = new Text());
    this.working(true);
    await inSlices(work, () => {}, () => task === this.task);
    if (task !== this.task) return false;
    this.working(false);
    this.say(this.unseen());
    this.lookAgain();
    return true;
  }

  unseen() {
    const count = this.tokenizer.encode(this.beginning).filter(id => id >= this.tokenizer.size).length;
    return count ? `${count} character${count > 1 ? 's' : ''} of the beginning not in the vocabulary` : '';
  }

  async write() {
    const options = this.options();
    clearTimeout(this.waiting);
    if (!options) return;
    const seed = options.seed === '' ? BigInt(crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS) : BigInt(options.seed);
    if (await this.begin(seed)) await this.goOn(options);
  }

  // Goes on where the text is; a model of records begins the next one.
  async more() {
    const options = this.options();
    if (!options) return;
    if (this.writer.ended) {
      const before = this.text + (this.records === 'line' ? '\n' : '\n\n'), work = this.writer.begin('', this.seed, ++this.number);
      for (const _ of work);
      this.show(before);
    }
    await this.goOn(options);
  }

  stop() {
    this.task++;
    this.working(false);
    this.say(`stopped after ${count(this.length)} characters, seed ${this.seed}`);
    this.lookAgain();
  }

  async goOn(options) {
    const task = ++this.task, {writer} = this, begun = performance.now(), before = this.length;
    let fresh = '', left = options.length, seen = 0;
    function* work() {
      while (left > 0 && !writer.ended) {
        const text = writer.next(options);
        if (text) left -= text.length === 1 ? 1 : Array.from(text).length;
        fresh += text;
        yield;
      }
    }
    const flush = () => {
      this.show(this.text + fresh, fresh);
      fresh = '';
    };
    this.working(true);
    this.command(options);
    this.say('writing');
    await inSlices(work(), () => {
      flush();
      const now = performance.now();
      if (now - seen > AGAIN) this.look(options), seen = now;
    }, () => task === this.task);
    if (task !== this.task) return;
    flush();
    this.working(false);
    const seconds = (performance.now() - begun) / 1000, written = this.length - before;
    this.speed = written / seconds;
    this.say(`${count(written)} characters, seed ${this.seed}${writer.ended ? ', to the end of the record' : ''}` +
      (written > 50 ? `, ${count(Math.round(this.speed))} a second` : ''));
    this.look(options);
  }

  get length() {
    return Array.from(this.text).length;
  }

  // Shows a text, of which the last part is new, and stays at its end unless somebody has scrolled away from it.
  show(text, fresh = text.slice(this.text.length)) {
    const box = this.part('written'), following = box.scrollTop + box.clientHeight > box.scrollHeight - 40;
    this.text = text;
    this.fresh.appendData(visible(fresh));
    if (following) box.scrollTop = box.scrollHeight;
  }

  working(yes) {
    this.part('stop').disabled = !yes;
    this.part('more').disabled = yes;
    this.bars.forEach(bar => bar.button.disabled = yes);
  }

  say(text) {
    this.part('said').textContent = text;
  }

  command({temperature, topK, topP, minP, length}) {
    const values = {temperature, top_k: topK, top_p: topP, min_p: minP, length}, parts = ['charlm sample', quoted(this.run)];
    if (this.beginning) parts.push('--prime', quoted(this.beginning));
    for (const [name, [, , , option, usual]] of Object.entries(FIELDS))
      if (values[name] !== usual && !(name === 'length' && this.records !== 'none')) parts.push(option, String(values[name]));
    if (this.precision !== 'fp32') parts.push('--precision', this.precision);
    this.part('command').textContent = visible([...parts, '--seed', String(this.seed)].join(' '));
  }

  makeBars() {
    const list = this.part('next');
    return Array.from({length: BARS}, () => {
      const item = make('li'), control = make('button'), name = make('bdi'), bar = make('span', 'bar'), fill = make('i');
      const share = make('span', 'share');
      control.type = 'button';
      bar.append(fill);
      control.append(name, bar, share);
      item.append(control);
      list.append(item);
      const made = {item, button: control, name, fill, share, id: 0};
      control.addEventListener('click', () => this.choose(made.id));
      return made;
    });
  }

  // Shows the most probable tokens after the text, as these options leave them.
  look(options) {
    const {sampler, model, ended} = this.writer, total = sampler.distribution(model.logits, options), {p} = sampler;
    const order = Array.from(p.keys()).sort((a, b) => p[b] - p[a] || a - b);
    let rest = 1;
    this.bars.forEach((bar, i) => {
      const id = order[i], share = p[id] / total || 0;
      bar.item.hidden = ended || !(share > 0);
      if (bar.item.hidden) return;
      rest -= share;
      bar.id = id;
      bar.name.textContent = this.tokenizer.name(id);
      bar.fill.style.width = 100 * share + '%';
      bar.share.textContent = percent(share);
    });
    const others = p.reduce((found, value) => found + (value > 0), 0) - BARS;
    this.part('others').textContent = ended ? 'the record has ended' : others > 0 ?
      `${count(others)} others: ${percent(Math.max(0, rest))}` : '';
  }

  // Adds a token that was chosen by hand.
  choose(id) {
    this.show(this.text + this.writer.add(id));
    this.say(`added ${shown(this.tokenizer.name(id))}`);
    this.part('command').textContent = '';
    this.lookAgain();
  }
}
