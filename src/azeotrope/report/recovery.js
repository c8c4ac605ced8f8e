// What adapting brings the thief: recovery per arm and attack, worst case first, and its price.
const PICTURE_ROWS = 60; // more would push the table off the page; a button shows the rest
const FAR = [-1, 2]; // recoveries beyond this end in an arrow: a small loss makes huge ratios

const idle = (row) => row.status !== 'ok' || !present(row.recovery);
const oneDecimal = (value) => { const text = (100 * value).toFixed(1); return minus(text === '-0.0' ? '0.0' : text); };
const bracket = (low, high, write) => (present(low) && present(high) ? `[${write(low)}, ${write(high)}]` : 'no interval');
const gainText = (row) => `${points(row.metric, row.gain)} ${bracket(row.gain_low, row.gain_high, (v) => points(row.metric, v))}`;
const recoveryText = (row) => `${oneDecimal(row.recovery)} % ${bracket(row.recovery_low, row.recovery_high, oneDecimal)}`;
// A label that may be wrapped before its settings.
const breakable = (label) => el('span', null, ...label.split(/(?<=\()/).flatMap((part, i) => (i ? [el('wbr'), part] : [part])));
const gainUnit = (metric) => (formOf(metric) === 'number' ? '' : ' points');

function recoveryView() {
  const host = byId('recovery-view');
  if (!host) return;
  const all = rowsOf(DATA.recovery);
  const keys = ['task', 'student', 'metric'];
  const labels = { task: 'task', student: 'student', metric: 'what the thief gets' };
  const state = { metric: DATA.headline, defense: '*', all: false };
  const bar = el('div', { class: 'controls' });
  const picture = el('div');
  const table = el('div');
  const options = (key) => unique(all.filter((row) => keys.slice(0, keys.indexOf(key)).every((k) => row[k] === state[k])).map((row) => row[key]));
  const defenseOf = (row) => { const line = lineOfArm(row.task, row.arm); return line ? line.label : row.arm; };
  const here = () => all.filter((row) => keys.every((key) => row[key] === state[key]));

  function controls() {
    for (const key of keys) if (!options(key).includes(state[key])) [state[key]] = options(key);
    const order = armOrder(state.task);
    const defenses = unique(here().sort((a, b) => order(a.arm) - order(b.arm)).map(defenseOf));
    if (!defenses.includes(state.defense)) state.defense = '*';
    const set = (key) => (value) => { state[key] = value; state.all = false; controls(); draw(); };
    bar.replaceChildren(...keys.map((key) => select(labels[key], options(key).map((value) => ({ value, label: key === 'metric' ? labelOf(value) : value })), state[key], set(key))),
      select('defense', [{ value: '*', label: 'all' }, ...defenses], state.defense, set('defense')));
  }
  function draw() {
    hideTip();
    const rows = worstFirst(here().filter((row) => state.defense === '*' || defenseOf(row) === state.defense), armOrder(state.task));
    drawRecovery(picture, rows, state, () => { state.all = true; draw(); });
    recoveryTable(table, rows);
  }
  host.replaceChildren(bar, picture, table);
  controls();
  draw();
}

// Arms in the order of the page; inside an arm the highest recovery first, then the highest gain where nothing was lost.
function worstFirst(rows, order) {
  const down = (a, b) => (b ?? -Infinity) - (a ?? -Infinity) || 0;
  return [...rows].sort((a, b) => order(a.arm) - order(b.arm) || a.arm.localeCompare(b.arm, 'en', { numeric: true }) ||
    idle(a) - idle(b) || (idle(a) ? down(a.gain, b.gain) : down(a.recovery, b.recovery)));
}

function drawRecovery(host, rows, state, showAll) {
  const groups = unique(rows.map((row) => row.arm)).map((arm) => rows.filter((row) => row.arm === arm));
  let count = 0;
  const shown = groups.filter((group, i) => { count += group.length; return state.all || i === 0 || count <= PICTURE_ROWS; });
  const visible = shown.flat();
  const scale = recoveryScale(visible.filter((row) => !idle(row)));
  const marks = [];
  const reach = Math.max(1e-9, ...visible.filter(idle).flatMap((row) => [row.gain_low, row.gain_high]).filter(present).map(Math.abs));
  host.replaceChildren(el('div', { class: 'recovery', role: 'group', 'aria-label': 'Recovery per arm and attack; use the arrow keys to move between rows' },
    ...(visible.some((row) => !idle(row)) ? [recoveryAxis(scale)] : []),
    ...shown.map((group) => armGroup(group, scale, reach, marks))),
  ...(shown.length < groups.length ? [el('button', { type: 'button', class: 'quiet', onclick: showAll }, `Show all ${groups.length} arms`)] : []),
  el('p', { class: 'count recovery-note' }, recoveryNote(visible, scale)));
  rove(marks.map((mark) => mark.node), (node) => showTip(node, marks.find((mark) => mark.node === node).lines));
}

// One scale for all rows, with both references inside.
function recoveryScale(rows) {
  const values = rows.flatMap((row) => [row.recovery, row.recovery_low, row.recovery_high]).filter(present);
  const low = Math.max(FAR[0], values.reduce((a, b) => Math.min(a, b), 0));
  const high = Math.min(FAR[1], values.reduce((a, b) => Math.max(a, b), 1));
  const part = high - low;
  const [from, to] = [Math.min(low - 0.04 * part, -0.09 * part), Math.max(high + 0.04 * part, 1 + 0.12 * part)]; // room for the names
  const at = (value) => `${(100 * (Math.max(low, Math.min(high, value)) - from) / (to - from)).toFixed(2)}%`;
  return { low, high, at };
}

function recoveryAxis({ low, high, at }) {
  const name = { 0: 'passive', 1: 'undefended' };
  return el('div', { class: 'recovery-row recovery-axis', 'aria-hidden': 'true' }, el('span', { class: 'attack' }, 'Recovery'), el('span', { class: 'recovery-ticks' },
    ...unique([0, 1, ...ticks(low, high, 4).filter((tick) => Math.abs(tick) > 0.3 && Math.abs(tick - 1) > 0.3)])
      .map((tick) => el('span', { style: { left: at(tick) } }, `${significant(100 * tick)} %`, tick in name ? el('b', null, name[tick]) : null))));
}

function armGroup(group, scale, reach, marks) {
  const [row] = group;
  const line = lineOfArm(row.task, row.arm);
  const unit = unitOf(row.metric);
  const head = el('div', { class: 'recovery-head' }, line ? swatch(line) : null, el('b', null, row.arm), line && line.control ? el('small', null, 'control') : null,
    el('span', null, `passive ${number(row.metric, row.passive)}${unit}, undefended ${number(row.metric, row.clean)}${unit}`));
  return el('div', { class: 'recovery-arm', style: { '--k': line ? look(line.kind).color : 'var(--ink)' } }, head,
    ...group.map((item) => el('div', { class: 'recovery-row' }, el('span', { class: 'attack' }, breakable(item.attack)), idle(item) ? gainMark(item, reach, marks) : recoveryMark(item, line, scale, marks))));
}

function gainMark(row, reach, marks) {
  const shown = { difference: row.gain, low: row.gain_low, high: row.gain_high };
  const node = el('span', { class: 'nothing-lost', role: 'img', 'aria-label': told(row).join('. ') }, whisker(shown, reach, 'unclear'),
    el('span', null, `nothing lost; gain ${gainText(row)}${gainUnit(row.metric)}`));
  marks.push({ node, lines: told(row) });
  return node;
}

function recoveryMark(row, line, { low, high, at }, marks) {
  const image = svg('svg', { class: 'recovery-mark', width: '100%', height: 26, role: 'img', 'aria-label': told(row).join('. ') });
  for (const value of [0, 1]) image.append(svg('line', { class: 'reference', x1: at(value), x2: at(value), y1: 0, y2: '100%' }));
  if (present(row.recovery_low) && present(row.recovery_high)) {
    image.append(svg('line', { class: 'range', x1: at(row.recovery_low), x2: at(row.recovery_high), y1: 13, y2: 13 }));
    for (const [value, out, arrow] of [[row.recovery_low, row.recovery_low < low, 'M4,-4L-2,0L4,4'], [row.recovery_high, row.recovery_high > high, 'M-4,-4L2,0L-4,4']]) {
      image.append(svg('svg', { x: at(value), y: 13, overflow: 'visible' }, svg('path', { class: 'range', d: out ? arrow : 'M0,-4V4' })));
    }
  }
  const inside = row.recovery >= low && row.recovery <= high;
  image.append(svg('svg', { x: at(row.recovery), y: 13, overflow: 'visible' }, svg('path', { class: inside ? 'mark' : 'mark outside', d: line ? markerOf(line) : look('').markers[0] })));
  marks.push({ node: image, lines: told(row) });
  return image;
}

const price = (row) => [['queries', 'queries'], ['own_tokens', 'own tokens'], ['seconds', 'seconds']]
  .filter(([key]) => present(row[key])).map(([key, name]) => `${significant(row[key])} ${name}`).join(', ');
function told(row) {
  const unit = unitOf(row.metric);
  return [
    `${row.arm}, ${row.attack}`,
    idle(row) ? 'recovery: nothing lost' : `recovery ${recoveryText(row)}`,
    `gain ${gainText(row)}${gainUnit(row.metric)}`,
    `${labelOf(row.metric)} ${number(row.metric, row.value)}${unit}, passive ${number(row.metric, row.passive)}${unit}, undefended ${number(row.metric, row.clean)}${unit}`,
    counts(row), price(row),
  ].filter(Boolean);
}

function recoveryNote(rows, { low, high }) {
  const parts = ['The first row of an arm is the highest of several; its interval is not corrected for that choice.'];
  const beyond = (value) => present(value) && (value < low || value > high);
  if (rows.some((row) => !idle(row) && [row.recovery, row.recovery_low, row.recovery_high].some(beyond))) {
    parts.push('An arrow marks an interval that goes on; a hollow mark lies outside the picture. The table has the numbers.');
  }
  if (rows.some(idle)) parts.push('The small bars of rows where nothing was lost show the gain around zero, on a scale of their own.');
  return parts.join(' ');
}

function recoveryTable(host, rows) {
  const share = (key, label) => ({ key, label: rows.length && formOf(rows[0].metric) === 'share' ? `${label}, %` : label, num: true, text: (row) => number(row.metric, row[key]) });
  const amount = (key, label) => ({ key, label, num: true, text: (row) => (present(row[key]) ? significant(row[key]) : '–') });
  return dataTable(host, {
    caption: 'Recovery and its price', rows,
    columns: [
      { ...plain('arm', 'Arm'), node: (row) => breakable(row.arm) }, { ...plain('attack', 'Attack'), node: (row) => breakable(row.attack) },
      share('clean', 'Undefended'), share('passive', 'Passive'), share('value', 'After'),
      { key: 'gain', label: 'Gain', num: true, text: gainText },
      { key: 'recovery', label: 'Recovery', num: true, text: (row) => (idle(row) ? 'nothing lost' : recoveryText(row)), sort: (row) => (idle(row) ? null : row.recovery) },
      { key: 'n', label: 'n', num: true, text: (row) => String(row.n ?? '–') },
      { key: 'n_seeds', label: 'Seeds', num: true, text: (row) => String(row.n_seeds ?? '–') },
      amount('queries', 'Queries'), amount('own_tokens', 'Own tokens'), amount('seconds', 'Seconds'),
    ],
  });
}
