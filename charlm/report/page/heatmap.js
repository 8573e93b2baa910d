// A text, each unit of which is coloured: what is known of a unit where one points, and ways to move through it.
// `surprisal.js` colours by surprisal, `activity.js` by what a cell does.

import {IDEOGRAPH} from './text.js';
import {button, labelled, make} from './views.js';

const SETTLED = 300;  // milliseconds
const AT_ONCE = 3000;  // units that are coloured before they come into view

// Whether a word goes on with this character, or with undefined, where a text ends.
const continues = character => character !== undefined && /[^\s\x03]/u.test(character) && !IDEOGRAPH.test(character);

// What colours it is a subclass with `classOf(unit)` and `tell(span)`, the elements that say what is known of its unit.
export class HeatMap {
  // `block` has a .line for each line of the text, with the number of its first unit. `figures` has the number of `units`
  // and `length(unit)`, in characters, besides what a subclass reads of it; `others` become properties.
  constructor(block, figures, others = {}) {
    Object.assign(this, {block, figures, tip: document.getElementById('tip')}, others);
    this.lines = [...block.querySelectorAll('.line')];
    this.firsts = this.lines.map(line => +line.dataset.unit);
    this.shown = this.current = null;
    this.moved = -Infinity;  // when it last went to a place by itself
    this.watchLines();
    this.listen();
    if (this.lines.length) this.current = this.lines[0].firstChild, this.current.tabIndex = 0;
  }

  watchLines() {
    const watch = new IntersectionObserver(seen => {
      for (const one of seen) if (one.isIntersecting) watch.unobserve(one.target), this.colour(one.target);
    }, {rootMargin: '800px'});
    this.lines.forEach((line, i) => this.firsts[i] < AT_ONCE ? this.colour(line) : watch.observe(line));
    addEventListener('beforeprint', () => this.lines.forEach(line => this.colour(line)));
  }

  // A line's text becomes an element for each unit, once.
  colour(line) {
    if (line.coloured) return;
    line.coloured = true;
    line.original = textOf(line);
    const signs = [];
    for (const node of line.childNodes)
      if (node.nodeType === 3) signs.push(...Array.from(node.data, c => [c, '']));
      else signs.push([node.textContent, node.dataset.c === '9' ? ' tab' : '']);
    const parts = document.createDocumentFragment();
    for (let at = 0, unit = +line.dataset.unit; at < signs.length; unit++) {
      const length = this.figures.length(unit), own = signs.slice(at, at + length), kind = length === 1 ? own[0][1] : '';
      const span = make('span', this.classOf(unit) + kind, own.map(sign => sign[0]).join(''));
      span.unit = unit;
      span.kind = kind;
      span.tabIndex = -1;
      parts.append(span);
      at += length;
    }
    line.replaceChildren(parts);
  }

  // Colours anew what is coloured, after what `classOf` goes by has changed.
  repaint() {
    for (const line of this.lines) if (line.coloured) for (const span of line.children) {
      const marks = ['at', 'found'].filter(mark => span.classList.contains(mark));
      span.className = [this.classOf(span.unit) + span.kind, ...marks].join(' ');
    }
  }

  // The text as it is, not as it is shown.
  get text() {
    return this.whole ??= this.lines.map(line => line.original ?? textOf(line)).join('');
  }

  hide() {
    const {shown, tip} = this;
    if (shown) shown.removeAttribute('aria-describedby'), shown.classList.remove('at');
    this.shown = null;
    tip.hidden = true;
  }

  show(span) {
    if (span === this.shown) return;
    this.hide();
    this.shown = span;
    span.classList.add('at');
    span.setAttribute('aria-describedby', 'tip');
    this.tip.replaceChildren(...this.tell(span));
    this.tip.removeAttribute('aria-hidden');
    this.tip.hidden = false;
    this.place();
  }

  place() {
    const {tip} = this, at = this.shown.getClientRects()[0], width = tip.offsetWidth, height = tip.offsetHeight;
    const below = at.bottom + 8 + height <= innerHeight || at.top < height + 8;
    tip.style.left = Math.max(4, Math.min(at.left, document.documentElement.clientWidth - width - 8)) + 'px';
    tip.style.top = (below ? at.bottom + 8 : at.top - height - 8) + 'px';
  }

  listen() {
    const {block} = this, unitAt = event => event.target.unit === undefined ? null : event.target;
    const pointing = () => performance.now() > this.moved + SETTLED;  // not where the text has moved under the pointer
    block.addEventListener('mouseover', event => pointing() && (unitAt(event) ? this.show(event.target) : this.hide()));
    block.addEventListener('mouseleave', () => pointing() && this.hide());
    block.addEventListener('click', event => unitAt(event) && this.go(event.target));
    block.addEventListener('focusin', event => unitAt(event) && this.show(event.target));
    block.addEventListener('focusout', () => this.hide());
    block.addEventListener('keydown', event => {
      const span = unitAt(event);
      if (!span || event.ctrlKey || event.altKey || event.metaKey) return;
      const {lines} = this, line = span.parentNode, at = lines.indexOf(line), column = [...line.children].indexOf(span);
      const move = {
        ArrowRight: () => span.nextSibling ? this.go(span.nextSibling) : this.into(lines[at + 1], 0),
        ArrowLeft: () => span.previousSibling ? this.go(span.previousSibling) : this.into(lines[at - 1], Infinity),
        ArrowDown: () => this.into(lines[at + 1], column), ArrowUp: () => this.into(lines[at - 1], column),
        Home: () => this.into(line, 0), End: () => this.into(line, Infinity), Escape: () => this.hide(),
      }[event.key];
      if (move) event.preventDefault(), move();
    });
    addEventListener('scroll', () => this.shown && (this.shown === document.activeElement ? this.place() : this.hide()),
      {passive: true});
  }

  go(span) {  // one of them can be reached with Tab, the others with arrows from there
    if (this.current) this.current.tabIndex = -1;
    this.current = span;
    span.tabIndex = 0;
    span.focus();
  }

  into(line, column) {
    if (!line) return;
    this.colour(line);
    this.go(line.children[Math.min(column, line.children.length - 1)]);
  }

  spanOf(unit) {
    let low = 0;
    for (let high = this.firsts.length; high - low > 1;) {
      const middle = low + high >> 1;
      this.firsts[middle] <= unit ? low = middle : high = middle;
    }
    this.colour(this.lines[low]);
    return this.lines[low].children[unit - this.firsts[low]];
  }

  // Goes to the first of these units, and marks all.
  mark(units) {
    this.block.querySelectorAll('.found').forEach(span => span.classList.remove('found'));
    const spans = units.map(unit => this.spanOf(unit));
    spans.forEach(span => span.classList.add('found'));
    this.moved = performance.now();
    spans[0].scrollIntoView({block: 'center'});
    this.go(spans[0]);
  }

  // Where each occurrence begins, as a list of lists of units; of a whole word where white space or an ideograph is around it.
  find(wanted, word = false) {
    if (!wanted) return [];
    const {text} = this, found = [], unitOf = this.unitOf ??= this.places(), anywhere = !word || IDEOGRAPH.test(wanted);
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1)) {
      const end = at + wanted.length;
      const before = text.slice(Math.max(0, at - 2), at), after = text.slice(end, end + 2);
      if (!anywhere && (continues(Array.from(before).at(-1)) || continues(Array.from(after)[0]))) continue;
      const units = [];
      for (let unit = unitOf[at]; unit <= unitOf[end - 1]; unit++) units.push(unit);
      found.push(units);
    }
    return found;
  }

  // The unit of each UTF-16 code unit of the text.
  places() {
    const places = new Uint32Array(this.text.length);
    let unit = 0, left = this.figures.units ? this.figures.length(0) : 0, at = 0;
    for (const character of this.text) {
      while (left === 0) left = this.figures.length(++unit);
      for (let i = 0; i < character.length; i++) places[at++] = unit;
      left--;
    }
    return places;
  }

  // Goes to the next unit, or the one before, of which `wanted` holds; says so in `said` where there is none.
  hop(step, wanted, said) {
    const {units} = this.figures;
    let unit = this.current?.unit ?? -1;
    for (let tried = 0; tried < units; tried++) {
      unit = (unit + step + units) % units;
      if (wanted(unit)) return this.mark([unit]);
    }
    said.textContent = 'no such character';
  }

  // What searches the text, with buttons for the occurrences before and after.
  finder(said) {
    const wanted = make('input');
    wanted.type = 'search';
    wanted.dir = 'auto';
    wanted.size = 12;
    const search = step => {
      const found = this.find(wanted.value), from = this.current?.unit ?? -1;
      if (!found.length) return void (said.textContent = wanted.value ? 'not found' : '');
      let at = step > 0 ? found.findIndex(units => units[0] > from) : found.findLastIndex(units => units[0] < from);
      if (at < 0) at = step > 0 ? 0 : found.length - 1;
      this.mark(found[at]);
      said.textContent = `${at + 1} of ${found.length}`;
    };
    wanted.addEventListener('keydown', event => {
      if (event.key !== 'Enter') return;
      event.preventDefault();
      search(event.shiftKey ? -1 : 1);
    });
    return [labelled('Find', wanted), button('◂', () => search(-1), 'previous occurrence'),
      button('▸', () => search(1), 'next occurrence')];
  }
}

// Of a line that is not coloured yet; signs name the code points that they stand for.
function textOf(line) {
  return Array.from(line.childNodes, node =>
    node.nodeType === 3 ? node.data : String.fromCodePoint(parseInt(node.dataset.c, 16))).join('');
}
