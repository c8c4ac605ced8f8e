// What adapting brings the thief: recovery per arm and attack, worst case first, and its price.
const PICTURE_ROWS = 60; // more would push the table off the page; a button shows the rest
const FAR = [-1, 2]; // recoveries beyond this end in an arrow: a small loss makes huge ratios

const idle = (row) => row.status !== 'ok' || !present(row.recovery);
const gainText = (row) => `${points(row.metric, row.gain)} ${bracket(row.gain_low, row.gain_high, (v) => points(row.metric, v))}`;
const recoveryText = (row) => `${oneDecimal(row.recovery)} % ${bracket(row.recovery_low, row.recovery_high, oneDecimal)}`;
const gainUnit = (metric) => (formOf(metric) === 'number' ? '' : ' points');

function recoveryView() {
  const host = byId('recovery-view');
  if (!host) return;
  const state = { metric: DATA.headline, all: false };
  const [bar, picture, table] = [el('div', { class: 'controls' }), el('div'), el('div')];
  const keys = [{ key: 'task', label: 'task' }, { key: 'student', label: 'student' }, { key: 'metric', label: 'what the thief gets', name: labelOf }];
  const here = armCascade(bar, rowsOf(DATA.recovery), keys, state, draw);
  function draw() {
    hideTip();
    const rows = worstFirst(here(), state.task);
    drawRecovery(picture, rows, state, () => { state.all = true; draw(); });
    recoveryTable(table, rows);
    priceTable(byId('recovery-price'), rows);
  }
  host.replaceChildren(bar, picture, table);
  draw();
}

// Arms in the order of the page; inside an arm the highest recovery first, then the highest gain where nothing was lost,
// and controls of attacks last.
function worstFirst(rows, task) {
  const down = (a, b) => (b ?? -Infinity) - (a ?? -Infinity) || 0;
  const arms = byArm(task);
  return [...rows].sort((a, b) => arms(a, b) || isControl(a.attack) - isControl(b.attack) || idle(a) - idle(b) || (idle(a) ? down(a.gain, b.gain) : down(a.recovery, b.recovery)));
}

function drawRecovery(host, rows, state, showAll) {
  const groups = unique(rows.map((row) => row.arm)).map((arm) => rows.filter((row) => row.arm === arm));
  let count = 0;
  const shown = groups.filter((group, i) => { count += group.length; return state.all || i === 0 || count <= PICTURE_ROWS; });
  const visible = shown.flat();
  const rated = visible.filter((row) => !idle(row));
  const scale = dotScale(rated.flatMap((row) => [row.recovery, row.recovery_low, row.recovery_high]), [0, 1], FAR, [0.09, 0.12]); // room for the names
  const marks = [];
  const reach = Math.max(1e-9, ...visible.filter(idle).flatMap((row) => [row.gain_low, row.gain_high]).filter(present).map(Math.abs));
  host.replaceChildren(el('div', { class: 'recovery', role: 'group', 'aria-label': 'Recovery per arm and attack; use the arrow keys to move between rows' },
    ...(rated.length ? [recoveryAxis(scale)] : []),
    ...shown.map((group) => armGroup(group, scale, reach, marks))),
  ...(shown.length < groups.length ? [el('button', { type: 'button', class: 'quiet', onclick: showAll }, `Show all ${groups.length} arms`)] : []),
  el('p', { class: 'count dot-note' }, recoveryNote(visible, scale)));
  tips(marks);
}

function recoveryAxis(scale) {
  const known = [0, 1, ...ticks(scale.low, scale.high, 4).filter((tick) => Math.abs(tick) > 0.3 && Math.abs(tick - 1) > 0.3)];
  return el('div', { class: 'dot-row dot-axis', 'aria-hidden': 'true' }, el('span', { class: 'attack' }, 'Recovery'),
    dotTicks(scale, unique(known), (tick) => `${significant(100 * tick)} %`, { 0: 'passive', 1: 'undefended' }));
}

function armGroup(group, scale, reach, marks) {
  const [row] = group;
  const line = lineOfArm(row.task, row.arm);
  const unit = unitOf(row.metric);
  const head = el('div', { class: 'dot-head' }, line ? swatch(line) : null, el('b', null, row.arm), line && line.control ? el('small', null, 'control') : null,
    el('span', null, `passive ${number(row.metric, row.passive)}${unit}, undefended ${number(row.metric, row.clean)}${unit}`));
  return el('div', { class: 'dot-arm', style: { '--k': colorOfArm(row.task, row.arm) } }, head,
    ...group.map((item) => el('div', { class: 'dot-row' }, el('span', { class: 'attack' }, breakable(item.attack), isControl(item.attack) ? el('small', null, ' control') : null), idle(item) ? gainMark(item, reach, marks) : recoveryMark(item, scale, marks))));
}

function gainMark(row, reach, marks) {
  const shown = { difference: row.gain, low: row.gain_low, high: row.gain_high };
  const node = el('span', { class: 'nothing-lost', role: 'img', 'aria-label': told(row).join('. ') }, whisker(shown, reach, 'unclear'),
    el('span', null, `nothing lost; gain ${gainText(row)}${gainUnit(row.metric)}`));
  marks.push({ node, lines: told(row) });
  return node;
}

function recoveryMark(row, scale, marks) {
  const dot = { value: row.recovery, low: row.recovery_low, high: row.recovery_high, d: shapeOfArm(row.task, row.arm) };
  return dotPlot(scale, [{ value: 0 }, { value: 1 }], [dot], told(row), marks);
}

const PRICE = { queries: 'Queries', leaked: 'Leaked traces', query_tokens: 'Tokens of both', own_tokens: 'Own tokens', trained_tokens: 'Trained tokens', extra_seconds: 'Seconds more than passive', seconds: 'Seconds in all' };
const priced = (row) => Object.entries(PRICE).filter(([key]) => present(row[key])).map(([key, name]) => `${significant(row[key])} ${name.toLowerCase()}`).join(', ');
function told(row) {
  const unit = unitOf(row.metric);
  return [
    `${row.arm}, ${row.attack}`,
    idle(row) ? 'recovery: nothing lost' : `recovery ${recoveryText(row)}`,
    `gain ${gainText(row)}${gainUnit(row.metric)}`,
    `${labelOf(row.metric)} ${number(row.metric, row.value)}${unit}, passive ${number(row.metric, row.passive)}${unit}, undefended ${number(row.metric, row.clean)}${unit}`,
    counts(row), priced(row),
  ].filter(Boolean);
}

function recoveryNote(rows, scale) {
  const parts = ['The first row of an arm is the highest of several; its interval is not corrected for that choice.'];
  if (scale.beyond) parts.push(GOES_ON);
  if (rows.some(idle)) parts.push('The small bars of rows where nothing was lost show the gain around zero, on a scale of their own.');
  return parts.join(' ');
}

const recoveryColumn = { key: 'recovery', label: 'Recovery', num: true, text: (row) => (idle(row) ? 'nothing lost' : recoveryText(row)), sort: (row) => (idle(row) ? null : row.recovery) };
const attackColumns = [wrapped('arm', 'Arm'), wrapped('attack', 'Attack')];
function recoveryTable(host, rows) {
  const share = (key, label) => ({ key, label: rows.length && formOf(rows[0].metric) === 'share' ? `${label}, %` : label, num: true, text: (row) => number(row.metric, row[key]) });
  return dataTable(host, {
    caption: 'Recovery', rows,
    columns: [
      ...attackColumns, share('clean', 'Undefended'), share('passive', 'Passive'), share('value', 'After'),
      { key: 'gain', label: 'Gain', num: true, text: gainText }, recoveryColumn, amount('n', 'n'), amount('n_seeds', 'Seeds'),
    ],
  });
}

function priceTable(host, rows) {
  return dataTable(host, {
    caption: 'What recovery costs the thief', rows,
    columns: [...attackColumns, recoveryColumn, ...Object.entries(PRICE).map(([key, label]) => amount(key, label))],
  });
}
