// Elements, numbers and charts. Text from the server only ever becomes text nodes and attribute values.

const SVG = 'http://www.w3.org/2000/svg';

/** An element with properties (`class`, `data-…` and other attributes, `on…` handlers) and children. */
export function el(tag, properties = {}, ...children) {
  return made(document.createElement(tag), properties, children);
}

/** The same in SVG. */
export function svg(tag, properties = {}, ...children) {
  return made(document.createElementNS(SVG, tag), properties, children);
}

function made(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const two = new Intl.NumberFormat('en', { maximumSignificantDigits: 2 });

export const number = (value) => (value >= 100000 ? short.format(value) : whole.format(value));
export const rate = (value) => (value >= 10 || value === 0 ? number(value) : two.format(value));
export const percent = (share) => `${two.format(100 * share)} %`;
export const clock = (seconds, exact = false) => new Date(seconds * 1000).toLocaleTimeString('en-GB', {
  hour: '2-digit', minute: '2-digit', ...(exact ? { second: '2-digit' } : {}),
});

/** Seconds as a length of time. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 1) return `${two.format(1000 * seconds)} ms`;
  if (seconds < 100) return `${two.format(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** How long ago something was. */
export const ago = (then, now) => (now - then < 2 ? 'now' : `${span(Math.round(now - then))} ago`);

/** A time that a machine can read, too. */
export function time(seconds, exact = false) {
  const stamp = new Date(seconds * 1000);
  const title = stamp.toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'long' });
  return el('time', { datetime: stamp.toISOString(), title }, clock(seconds, exact));
}

/** A level of suspicion; 0 is nothing to look at. */
export const level = (value) => (value === null || value === undefined ? '–'
  : value ? el('span', { class: `raised at${value}` }, String(value)) : '0');

/** A share as a bar beside its number. */
export const share = (value) => el('span', { class: 'share', 'aria-hidden': 'true' },
  svg('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none' },
    svg('rect', { width: Math.max(1, 100 * value), height: 10 })));

/**
 * A table. `columns` are [title, class]; a row is a list of cells, the first of which names it, and may have
 * attributes in `row.is`. It scrolls by itself where it is too wide; more than `most` rows wait for a button.
 */
export function table(caption, columns, rows, empty = '', most = Infinity) {
  if (!rows.length && empty) return [el('h3', {}, caption), el('p', { class: 'empty' }, empty)];
  const head = columns.map(([title, kind]) => el('th', { scope: 'col', class: kind }, title));
  const body = rows.map((row, at) => el('tr', { hidden: at >= most && !opened.has(caption) ? '' : null, ...row.is }, row.map((cell, i) => (i
    ? el('td', { class: columns[i][1] }, cell)
    : el('th', { scope: 'row', class: columns[i][1] }, cell)))));
  const title = el('h3', {}, caption);
  const holder = el('div', { class: 'scroll', role: 'region', 'aria-label': caption },
    el('table', { 'aria-label': caption }, el('thead', {}, el('tr', {}, head)), el('tbody', {}, body)));
  if (rows.length <= most || opened.has(caption)) return [title, holder];
  const more = el('button', { type: 'button', class: 'more', 'data-focus': 'more', onclick: () => {
    opened.add(caption);
    body.forEach((row) => { row.hidden = false; });
    more.remove();
    body[most].firstChild.tabIndex = -1;
    body[most].firstChild.focus();
  } }, `Show all ${number(rows.length)}`);
  return [title, holder, more];
}
const opened = new Set(); // captions of tables that are shown whole

/** Reasons: what they say opens where there is more to say; codes such as `key_drift` are put together by subject. */
export function reasons(list) {
  if (!list.length) return '–';
  if (!list[0].text) {
    const by = Map.groupBy(list, (code) => code.split('_')[0]);
    return [...by].map(([of, codes]) => el('span', { class: 'codes', title: codes.join(', ') }, el('span', { class: 'of' }, `${of} `),
      codes.map((code) => el('span', { class: 'code' }, code.slice(of.length + 1) || code))));
  }
  return el('details', { class: 'why-more' }, el('summary', { class: 'codes' }, list.map((one) => el('span', { class: 'code' }, one.code))),
    el('ul', {}, list.map((one) => el('li', {}, el('b', {}, one.code), ` ${one.text}`))));
}

/** Put children into a node if `data` is not what it was, and give the focus back to what had it. */
export function fill(node, data, children) {
  const now = JSON.stringify(data);
  if (node.filled === now) return;
  node.filled = now;
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  const mark = focused?.dataset.focus;
  const region = [...node.querySelectorAll('.scroll')].indexOf(focused);
  const scrolled = [...node.querySelectorAll('.scroll')].map((one) => one.scrollLeft);
  node.replaceChildren(...[children()].flat(2).filter((child) => child !== null));
  node.querySelectorAll('.scroll').forEach((one, i) => { one.scrollLeft = scrolled[i] ?? 0; });
  reachable(node);
  if (mark !== undefined) [...node.querySelectorAll('[data-focus]')].find((n) => n.dataset.focus === mark)?.focus();
  else if (region >= 0) node.querySelectorAll('.scroll')[region]?.focus();
}

/** Let the keyboard reach what is wider than its place, and only that. */
function reachable(root) {
  for (const one of root.querySelectorAll('.scroll')) {
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
    else one.removeAttribute('tabindex');
  }
}
window.addEventListener('resize', () => reachable(document));

/** The next round number at or above `value` that four whole steps divide. */
function ceiling(value) {
  for (let unit = 1; ; unit *= 10) {
    for (const n of [1, 2, 3, 5]) if (4 * n * unit >= value) return 4 * n * unit;
  }
}

/**
 * Stacked bars over minutes, in a figure that keeps its caption. `layers` are [key, word] from below; `strip` names
 * a value of 0 to 4 that is drawn as a colored line below. Pointer and arrow keys read single minutes out.
 */
export class Bars {
  constructor(figure, layers, strip) {
    Object.assign(this, { figure, layers, strip, rows: [], at: null });
    this.plot = el('div', { class: 'plot', tabindex: '0', role: 'group' });
    this.readout = el('p', { class: 'readout', 'aria-live': 'polite' });
    this.legend = el('ul', { class: 'legend' }, [
      ...layers.map(([key, word]) => el('li', {}, el('i', { class: key }), word)),
      ...(strip ? [1, 2, 3, 4].map((n) => el('li', {}, el('i', { class: `level${n}` }), `level ${n}`)) : []),
    ]);
    figure.append(this.plot, this.readout, this.legend);
    this.plot.addEventListener('pointermove', (event) => this.point(event));
    this.plot.addEventListener('pointerleave', () => this.read(null));
    this.plot.addEventListener('blur', () => this.read(null));
    this.plot.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  show(rows) {
    this.rows = rows;
    this.draw();
  }

  total(row) {
    return this.layers.reduce((sum, [key]) => sum + row[key], 0);
  }

  draw() {
    const { rows, layers } = this;
    const width = this.plot.clientWidth;
    if (!rows.length || !width) return;
    const [left, right, top, bottom] = [44, 4, 8, this.strip ? 32 : 20];
    const height = 168 + (this.strip ? 12 : 0);
    const most = ceiling(Math.max(...rows.map((row) => this.total(row))));
    this.box = { left, step: (width - left - right) / rows.length };
    const y = (value) => top + (height - top - bottom) * (1 - value / most);
    const gap = this.box.step > 4 ? 1 : 0;
    const parts = [0, 1, 2, 3, 4].map((n) => [
      svg('line', { class: 'grid', x1: left, x2: width - right, y1: y(most * n / 4), y2: y(most * n / 4) }),
      svg('text', { x: left - 6, y: y(most * n / 4) + 4, 'text-anchor': 'end' }, number(most * n / 4)),
    ]);
    rows.forEach((row, i) => {
      const x = left + i * this.box.step;
      let sum = 0;
      for (const [key] of layers) {
        if (!row[key]) continue;
        parts.push(svg('rect', { class: key, x, width: this.box.step - gap, y: y(sum + row[key]), height: y(sum) - y(sum + row[key]) }));
        sum += row[key];
      }
      if (this.strip && row[this.strip]) {
        parts.push(svg('rect', { class: `level${row[this.strip]}`, x, width: this.box.step, y: height - bottom + 4, height: 8 }));
      }
    });
    parts.push(this.hours(rows, width, height, left));
    this.cursor = svg('rect', { class: 'cursor', y: top, height: height - top - bottom, width: this.box.step, visibility: 'hidden' });
    this.plot.replaceChildren(svg('svg', { viewBox: `0 0 ${width} ${height}`, height, 'aria-hidden': 'true' }, parts.flat(), this.cursor));
    const sum = rows.reduce((all, row) => all + this.total(row), 0);
    this.plot.setAttribute('aria-label', `${this.figure.querySelector('figcaption').textContent}: ${number(sum)} in ${rows.length} minutes, at most ${number(Math.max(...rows.map((row) => this.total(row))))} in one. Arrow keys read single minutes.`);
    this.read(this.at === null ? null : Math.min(this.at, rows.length - 1));
  }

  hours(rows, width, height, left) {
    const every = [5, 10, 15, 30, 60, 120, 240].find((n) => (this.box.step * n) >= 62) ?? 480;
    return rows.flatMap((row, i) => {
      const stamp = new Date(row.at * 1000);
      if ((stamp.getHours() * 60 + stamp.getMinutes()) % every) return [];
      const x = left + (i + 0.5) * this.box.step;
      if (x > width - 16 || x < left + 8) return [];
      return [svg('text', { x, y: height - 4, 'text-anchor': 'middle' }, clock(row.at))];
    });
  }

  point(event) {
    const x = event.clientX - this.plot.getBoundingClientRect().left - this.box.left;
    const at = Math.floor(x / this.box.step);
    this.read(at >= 0 && at < this.rows.length ? at : null);
  }

  key(event) {
    const last = this.rows.length - 1;
    const from = this.at ?? last + 1;
    const to = { ArrowLeft: Math.max(0, from - 1), ArrowRight: Math.min(last, from + 1), Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.read(to);
  }

  read(at) {
    this.at = at;
    if (at === null || !this.rows[at]) {
      this.cursor?.setAttribute('visibility', 'hidden');
      this.readout.replaceChildren(el('span', { class: 'none' }, 'Point at a minute to read it.'));
      return;
    }
    const row = this.rows[at];
    this.cursor.setAttribute('x', this.box.left + at * this.box.step);
    this.cursor.setAttribute('visibility', 'visible');
    const said = this.layers.map(([key, word]) => `${number(row[key])} ${word}`);
    if (this.strip && row[this.strip] !== undefined) said.push(`level ${row[this.strip]}`);
    this.readout.replaceChildren(`${clock(row.at)}: ${said.join(', ')}`);
  }
}

/** Counts by buckets of seconds, as bars with their bounds; the last bucket is what is above all bounds. */
export function histogram(figure, overhead) {
  let holder = figure.querySelector('.holder-plot');
  if (!holder) {
    holder = el('div', { class: 'holder-plot' });
    figure.append(holder);
    new ResizeObserver(() => histogram(figure, figure.overhead)).observe(holder);
  }
  figure.overhead = overhead;
  const width = holder.clientWidth;
  if (!width) return;
  const total = overhead.counts.reduce((a, b) => a + b, 0);
  if (!total) {
    holder.replaceChildren(el('p', { class: 'empty' }, 'No requests in the last hour.'));
    return;
  }
  const [height, bottom, top] = [168, 20, 18];
  const most = Math.max(...overhead.counts);
  const step = width / overhead.counts.length;
  const words = overhead.bounds.map((bound) => (bound < 1 ? `${1000 * bound}` : '1 s'));
  const parts = overhead.counts.flatMap((count, i) => {
    const tall = (height - bottom - top) * count / most;
    const word = i < words.length ? words[i] : '+';
    return [
      svg('line', { class: 'grid', x1: i * step, x2: (i + 1) * step, y1: height - bottom, y2: height - bottom }),
      svg('rect', { class: 'answered', x: i * step + 1, width: step - 2, y: height - bottom - tall, height: tall }),
      count ? svg('text', { x: (i + 0.5) * step, y: height - bottom - tall - 4, 'text-anchor': 'middle' }, count / total < 0.005 ? '<1%' : `${Math.round(100 * count / total)}%`) : null,
      width > 460 || i % 2 === 0 ? svg('text', { x: (i + 1) * step - (i < words.length ? 0 : step / 2), y: height - 4, 'text-anchor': 'middle' }, word) : null,
    ];
  });
  const said = `Half of the requests took less than ${span(overhead.p50)}, 95 % less than ${span(overhead.p95)}, 99 % less than ${span(overhead.p99)}; ${span(overhead.mean)} on average.`;
  holder.replaceChildren(
    svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img', 'aria-label': said }, parts),
    el('p', { class: 'readout' }, el('span', { class: 'none' }, 'in milliseconds; a bar holds those up to the number at its right')),
    el('p', { class: 'readout' }, said),
  );
}
