'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const tip = document.getElementById('tip');
const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};
const percent = p => p >= 0.001 ? (100 * p).toFixed(p >= 0.01 ? 1 : 2) + ' %' : '< 0.1 %';

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.packed), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  let at = 0;
  return text.widths.map(width => {
    const from = at;
    at += width * text.units;
    return unit => {
      let value = 0;
      for (let plane = width - 1; plane >= 0; plane--) value = 256 * value + raw[from + plane * text.units + unit];
      return value;
    };
  });
}

function colour(line, columns) {  // its text becomes an element for each unit, once
  if (line.coloured) return;
  line.coloured = true;
  const signs = [];
  for (const node of line.childNodes)
    if (node.nodeType === 3) signs.push(...Array.from(node.data, c => [c, '']));
    else signs.push([node.textContent, node.dataset.c === '9' ? ' tab' : '']);
  const parts = document.createDocumentFragment();
  for (let at = 0, unit = +line.dataset.unit; at < signs.length; unit++) {
    const length = columns[1](unit), own = signs.slice(at, at + length), bits = columns[0](unit) / 500;
    const level = data.levels.filter(bound => bits / length >= bound).length;
    const span = make('span', 'c' + level + (length === 1 ? own[0][1] : ''), own.map(sign => sign[0]).join(''));
    span.unit = unit;
    span.tabIndex = -1;
    parts.append(span);
    at += length;
  }
  line.replaceChildren(parts);
}

function row(label, p, own) {
  const line = make('div', own ? 'row own' : 'row'), bar = make('div', 'bar'), fill = make('i');
  fill.style.width = 100 * p + '%';
  bar.append(fill);
  line.append(make('span', '', label), bar, make('span', '', percent(p)));
  return line;
}

let shown = null;
function hide() {
  if (shown) shown.removeAttribute('aria-describedby'), shown.classList.remove('at');
  shown = null;
  tip.hidden = true;
}

function show(span, columns) {
  if (span === shown) return;
  hide();
  shown = span;
  span.classList.add('at');
  span.setAttribute('aria-describedby', 'tip');
  const unit = span.unit, q = columns[0](unit), own = columns[3](unit), tokens = columns[2](unit);
  const k = (columns.length - 4) / 2, title = make('p');
  title.append(make('b', '', span.textContent.replace(/ /g, '\u2423')), q === 65535 ? ' over 131 bits' :
    ` ${(q / 500).toFixed(2)} bits`, tokens === 1 ? `, ${percent(2 ** (-q / 500))}` : `, of ${tokens} tokens`);
  tip.replaceChildren(title);
  if (k && tokens > 1) tip.append(make('p', '', 'most likely first tokens:'));
  let found = false;
  for (let j = 0; j < k; j++) {
    const id = columns[4 + j](unit);
    found ||= id === own;
    tip.append(row(data.names[id], (columns[4 + k + j](unit) / 4095) ** 2, id === own));
  }
  if (k && !found && tokens === 1) tip.append(make('div', '', '\u2026'), row(data.names[own], 2 ** (-q / 500), true));
  tip.hidden = false;
  place();
}

function place() {
  const at = shown.getClientRects()[0], width = tip.offsetWidth, height = tip.offsetHeight;
  const below = at.bottom + 8 + height <= innerHeight || at.top < height + 8;
  tip.style.left = Math.max(4, Math.min(at.left, innerWidth - width - 8)) + 'px';
  tip.style.top = (below ? at.bottom + 8 : at.top - height - 8) + 'px';
}

function follow(block, columns) {
  const lines = [...block.querySelectorAll('.line')];
  const watch = new IntersectionObserver(seen => {
    for (const one of seen) if (one.isIntersecting) watch.unobserve(one.target), colour(one.target, columns);
  }, {rootMargin: '800px'});
  for (const line of lines) +line.dataset.unit < 3000 ? colour(line, columns) : watch.observe(line);
  addEventListener('beforeprint', () => lines.forEach(line => colour(line, columns)));
  const unitAt = event => event.target.unit === undefined ? null : event.target;
  block.addEventListener('mouseover', event => unitAt(event) ? show(event.target, columns) : hide());
  block.addEventListener('mouseleave', hide);
  block.addEventListener('click', event => unitAt(event) && go(event.target));
  block.addEventListener('focusin', event => unitAt(event) && show(event.target, columns));
  block.addEventListener('focusout', hide);
  let current = null;
  function go(span) {  // one of them can be reached with Tab, the others with arrows from there
    if (current) current.tabIndex = -1;
    current = span;
    span.tabIndex = 0;
    span.focus();
  }
  function into(line, column) {
    if (!line) return;
    colour(line, columns);
    go(line.children[Math.min(column, line.children.length - 1)]);
  }
  block.addEventListener('keydown', event => {
    const span = unitAt(event);
    if (!span || event.ctrlKey || event.altKey || event.metaKey) return;
    const line = span.parentNode, at = lines.indexOf(line), column = [...line.children].indexOf(span);
    const move = {
      ArrowRight: () => span.nextSibling ? go(span.nextSibling) : into(lines[at + 1], 0),
      ArrowLeft: () => span.previousSibling ? go(span.previousSibling) : into(lines[at - 1], Infinity),
      ArrowDown: () => into(lines[at + 1], column), ArrowUp: () => into(lines[at - 1], column),
      Home: () => into(line, 0), End: () => into(line, Infinity), Escape: hide,
    }[event.key];
    if (move) event.preventDefault(), move();
  });
  if (lines.length) current = lines[0].firstChild, current.tabIndex = 0;
}

document.querySelectorAll('.text').forEach(async block => follow(block, await unpack(data.texts[block.dataset.text])));
addEventListener('scroll', () => shown && (shown === document.activeElement ? place() : hide()), {passive: true});
