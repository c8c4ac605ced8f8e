// What honest users lose: one row per arm, one column per measure of utility.
const LOST = ['teacher_accuracy', 'trace_validity', 'reader_accuracy', 'grounding', 'length']; // the order of the columns
const LIMITS = { teacher_accuracy: 0.02, trace_validity: 0.05 };
const LOST_FAR = [-0.15, 0.5];
const UTILITY_ROWS = 30;

const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const lostUnit = (row) => (row.utility === 'length' ? '%' : 'points');
const dropText = (row) => (present(row.drop) ? `${oneDecimal(row.drop)} ${bracket(row.low, row.high, oneDecimal)}` : '–');
const keptText = (row, key) => (row.utility === 'length' ? `${present(row[key]) ? significant(row[key]) : '–'} tokens` : `${number(row.utility, row[key])} %`);

function utilityView() {
  const host = byId('utility-view');
  if (!host) return;
  const state = { all: false };
  const [bar, picture, table] = [el('div', { class: 'controls' }), el('div'), el('div')];
  const all = rowsOf(DATA.utility);
  const here = armCascade(bar, all, [{ key: 'task', label: 'task' }], state, draw);
  function draw() {
    hideTip();
    const rows = here();
    drawUtility(picture, rows, state, draw, missingArms(all, state));
    utilityTable(table, rows);
  }
  host.replaceChildren(bar, picture, el('details', null, el('summary', null, 'All numbers as a table'), table));
  draw();
}

function drawUtility(host, rows, state, draw, missing) {
  const columns = [...LOST, ...unique(rows.map((row) => row.utility)).filter((name) => !LOST.includes(name))].filter((name) => rows.some((row) => row.utility === name));
  const scale = dotScale(rows.flatMap((row) => [row.drop, row.low, row.high]), [0, 0.06], LOST_FAR);
  const { shown, more } = firstRows(unique(rows.map((row) => row.arm)), UTILITY_ROWS, state, 'arms', draw);
  const marks = [];
  host.replaceChildren(el('div', { class: 'dots multiples', role: 'group', style: { '--columns': columns.length }, 'aria-label': 'Drop of every measure per arm; use the arrow keys to move between marks' },
    utilityAxis(columns, scale),
    ...shown.map((arm) => el('div', { class: 'dot-row', style: { '--k': colorOfArm(state.task, arm) } }, armName(state.task, arm),
      ...columns.map((name) => utilityCell(rows.find((row) => row.arm === arm && row.utility === name), name, scale, marks))))),
  ...more, el('p', { class: 'count dot-note' }, [scale.beyond ? GOES_ON : '', missing.length ? `Not measured: ${missing.join(', ')}.` : ''].filter(Boolean).join(' ')));
  tips(marks);
}

// Arms of the task that the table lacks altogether.
function missingArms(rows, { task }) {
  const known = DATA.tasks.find((item) => item.name === task);
  const measured = new Set(rows.filter((row) => row.task === task).map((row) => row.arm));
  return known ? known.lines.flatMap((line) => line.arms.map((item) => item.arm)).filter((arm) => !measured.has(arm)) : [];
}

function utilityAxis(columns, scale) {
  const limit = (name) => (name in LIMITS ? `limit ${significant(100 * LIMITS[name])} points` : name === 'length' ? 'in percent' : '');
  return el('div', { class: 'dot-row dot-axis', 'aria-hidden': 'true' }, el('span', { class: 'arm-name' }, 'Drop, points'),
    ...columns.map((name) => el('span', { class: 'cell' }, el('span', { class: 'cell-head' }, el('b', null, upper(labelOf(name))), el('small', null, limit(name))),
      dotTicks(scale, ticks(scale.low, scale.high, 3), (tick) => significant(100 * tick)))));
}

function utilityCell(row, name, scale, marks) {
  const head = el('span', { class: 'cell-name', 'aria-hidden': 'true' }, upper(labelOf(name)));
  if (!row || !present(row.drop)) return el('span', { class: 'cell' }, head, el('span', { class: 'no-value' }, 'not measured'));
  const lines = [
    `${row.arm}: ${labelOf(name)}`, `drop ${dropText(row)} ${lostUnit(row)}`,
    `undefended ${keptText(row, 'clean')}, with the defense ${keptText(row, 'value')}`, counts(row),
  ];
  const references = [{ value: 0, kind: 'zero' }, ...(name in LIMITS ? [{ value: LIMITS[name], kind: 'limit' }] : [])];
  const dot = { value: row.drop, low: row.low, high: row.high, d: shapeOfArm(row.task, row.arm) };
  return el('span', { class: 'cell' }, head, dotPlot(scale, references, [dot], lines, marks));
}

function utilityTable(host, rows) {
  dataTable(host, {
    caption: 'What honest users lose', rows,
    columns: [
      wrapped('arm', 'Arm'), plain('utility', 'Measure', labelOf),
      { key: 'clean', label: 'Undefended', num: true, text: (row) => keptText(row, 'clean') },
      { key: 'value', label: 'Defended', num: true, text: (row) => keptText(row, 'value') },
      { key: 'drop', label: 'Drop', num: true, text: (row) => (present(row.drop) ? `${dropText(row)} ${lostUnit(row)}` : '–') },
      amount('n', 'n'), amount('n_draws', 'Draws'),
    ],
    filters: [{ key: 'utility', label: 'measure', name: labelOf }],
  });
}
