// Rows of dots with intervals. Positions are percents of the width, so that a row stretches without being drawn again.
const GOES_ON = 'An arrow marks an interval that goes on; a hollow mark lies outside the picture. The table has the numbers.';

// `inner` is always inside, `far` is where the picture ends whatever the values, `room` is kept free beyond `inner`.
function dotScale(values, inner, far, room = [0.04, 0.04]) {
  const known = values.filter(present);
  const low = Math.max(far[0], known.reduce((a, b) => Math.min(a, b), inner[0]));
  const high = Math.min(far[1], known.reduce((a, b) => Math.max(a, b), inner[1]));
  const part = high - low;
  const [from, to] = [Math.min(low - 0.04 * part, inner[0] - room[0] * part), Math.max(high + 0.04 * part, inner[1] + room[1] * part)];
  const at = (value) => `${(100 * (Math.max(low, Math.min(high, value)) - from) / (to - from)).toFixed(2)}%`;
  const beyond = known.some((value) => value < low || value > high);
  return { low, high, at, beyond };
}

// Tick labels over a column of rows; `names` says what a tick stands for.
function dotTicks({ at }, values, write, names = {}) {
  return el('span', { class: 'dot-ticks' }, ...values.map((tick) =>
    el('span', { style: { left: at(tick) } }, write(tick), tick in names ? el('b', null, names[tick]) : null)));
}

// One row, as high as its cell. references: {value, kind}; dots: {value, low, high, d, y, kind}, of which two may be joined.
// `lines` is what it says in the tooltip; it joins `marks`, which the arrow keys move through.
function dotPlot(scale, references, dots, lines, marks, joined = false) {
  const { at } = scale;
  const image = svg('svg', { class: 'dot-plot', role: 'img', 'aria-label': lines.join('. ') });
  for (const { value, kind = 'reference' } of references) image.append(svg('line', { class: kind, x1: at(value), x2: at(value), y1: 0, y2: '100%' }));
  const shown = dots.filter((dot) => present(dot.value)).map((dot) => ({ y: '50%', ...dot }));
  if (joined && shown.length === 2) {
    const [a, b] = shown;
    image.append(svg('line', { class: 'joined', x1: at(a.value), y1: a.y, x2: at(b.value), y2: b.y }));
  }
  for (const dot of shown) image.append(...dotMark(scale, dot));
  marks.push({ node: image, lines });
  return el('span', { class: 'dot-box' }, image);
}

function dotMark({ low, high, at }, { value, low: from, high: to, d, y, kind = '' }) {
  const put = (where, shape, name) => svg('svg', { x: at(where), y, overflow: 'visible' }, svg('path', { class: name, d: shape }));
  const parts = [];
  if (present(from) && present(to)) {
    parts.push(svg('line', { class: `range ${kind}`, x1: at(from), x2: at(to), y1: y, y2: y }),
      put(from, from < low ? 'M4,-4L-2,0L4,4' : 'M0,-4V4', `range ${kind}`), put(to, to > high ? 'M-4,-4L2,0L-4,4' : 'M0,-4V4', `range ${kind}`));
  }
  const outside = value < low || value > high;
  if (outside) parts.push(put(value, value < low ? 'M-8,-3.5L-11.5,0L-8,3.5' : 'M8,-3.5L11.5,0L8,3.5', `range ${kind}`));
  parts.push(put(value, d, `mark ${kind}${outside ? ' outside' : ''}`));
  return parts;
}

// What a mark means, for the line above the rows.
function keyMark(kind, d, label) {
  return el('span', null, svg('svg', { width: 30, height: 14, viewBox: '-15 -7 30 14', 'aria-hidden': 'true' },
    svg('path', { class: `range ${kind}`, d: 'M-13,0H13' }), svg('path', { class: `mark ${kind}`, d })), label);
}

// The name of an arm with its line's swatch; `more` stands under it.
function armName(task, arm, ...more) {
  const line = lineOfArm(task, arm);
  const known = DATA.tasks.find((item) => item.name === task);
  const role = line && line.control ? ' control' : known && arm === known.none ? ' undefended' : null;
  return el('span', { class: 'arm-name' }, line ? swatch(line) : el('span', { class: 'no-line' }),
    el('span', null, el('b', null, breakable(arm)), role ? el('small', null, role) : null, ...more));
}
const colorOfArm = (task, arm) => { const line = lineOfArm(task, arm); return line ? look(line.kind).color : 'var(--ink)'; };
const shapeOfArm = (task, arm) => { const line = lineOfArm(task, arm); return line ? markerOf(line) : look('').markers[0]; };

// At most `limit` rows, and a button for the rest.
function firstRows(rows, limit, state, what, draw) {
  const shown = state.all ? rows : rows.slice(0, limit);
  const more = shown.length < rows.length
    ? [el('button', { type: 'button', class: 'quiet', onclick: () => { state.all = true; draw(); } }, `Show all ${rows.length} ${what}`)] : [];
  return { shown, more };
}
