// What transfers: the share of the teacher's excess in capability and in governance, as a dumbbell per arm.
const TRANSFER_FAR = [-0.5, 1.5];
const TRANSFER_ROWS = 30;
const DIAMOND = 'M0,-6.5L5.5,0L0,6.5L-5.5,0Z';

const stuck = (row) => row.status !== 'ok' || !present(row.transfer);
const shareText = (row, key) => (present(row[key]) ? `${oneDecimal(row[key])} % ${bracket(row[`${key}_low`], row[`${key}_high`], oneDecimal)}` : '–');
const gapText = (row) => (present(row.gap) ? `${signed(row.gap)} points ${bracket(row.gap_low, row.gap_high, signed)}` : '–');
const levels = (row) => ['teacher', 'undistilled', 'value'].map((key) => `${key === 'value' ? 'student' : key} ${number(row.measure, row[key])} %`).join(', ');

function governanceView() {
  const host = byId('governance-view');
  if (!host) return;
  const state = { all: false };
  const [bar, picture, table] = [el('div', { class: 'controls' }), el('div'), el('div')];
  const keys = [
    { key: 'task', label: 'task' }, { key: 'attack', label: 'attack' }, { key: 'student', label: 'student' },
    { key: 'measure', label: 'governance', name: labelOf },
  ];
  const here = armCascade(bar, rowsOf(DATA.governance), keys, state, draw);
  function draw() {
    hideTip();
    const rows = here();
    drawGovernance(picture, rows, state, draw);
    governanceTable(table, rows);
  }
  host.replaceChildren(bar, picture, el('details', null, el('summary', null, 'All numbers as a table'), table));
  draw();
}

function drawGovernance(host, rows, state, draw) {
  const rated = rows.filter((row) => !stuck(row));
  const values = rated.flatMap((row) => ['transfer', 'capability'].flatMap((key) => [row[key], row[`${key}_low`], row[`${key}_high`]]));
  const scale = dotScale(values, [0, 1], TRANSFER_FAR, [0.09, 0.09]);
  const { shown, more } = firstRows(rows, TRANSFER_ROWS, state, 'arms', draw);
  const marks = [];
  host.replaceChildren(
    el('div', { class: 'key' }, keyMark('capability', look('').markers[0], 'capability: accuracy'), keyMark('governance', DIAMOND, `governance: ${labelOf(state.measure)}`)),
    el('div', { class: 'dots pairs', role: 'group', 'aria-label': 'Capability and governance that transferred, per arm; use the arrow keys to move between rows' },
      ...(rated.length ? [el('div', { class: 'dot-row dot-axis', 'aria-hidden': 'true' }, el('span', { class: 'arm-name' }, 'Share of the teacher’s excess'),
        dotTicks(scale, [0, 0.5, 1], (tick) => `${100 * tick} %`, { 0: 'undistilled', 1: 'teacher' }))] : []),
      ...shown.map((row) => el('div', { class: 'dot-row' }, armName(row.task, row.arm, stuck(row) ? null : el('small', { class: 'beneath' }, `gap ${gapText(row)}`)),
        stuck(row) ? stuckCell(row) : governanceCell(row, scale, marks)))),
    ...more, el('p', { class: 'count dot-note' }, scale.beyond ? GOES_ON : ''));
  tips(marks);
}

function stuckCell(row) {
  return el('span', { class: 'no-value' }, `${row.status === 'ok' ? 'not measured' : row.status}: ${levels(row)}`);
}

function governanceCell(row, scale, marks) {
  const part = (key, kind, d, y) => ({ value: row[key], low: row[`${key}_low`], high: row[`${key}_high`], kind, d, y });
  const lines = [
    `${row.arm}, ${row.attack}, student ${row.student}`,
    `capability: ${shareText(row, 'capability')} of the excess in accuracy`,
    `governance: ${shareText(row, 'transfer')} of the excess in ${labelOf(row.measure)} (${levels(row)})`,
    `gap ${gapText(row)}, p ${present(row.p) && row.p < 0.001 ? '' : '= '}${pValue(row.p)}`, counts(row),
  ];
  const dots = [part('capability', 'capability', look('').markers[0], '32%'), part('transfer', 'governance', DIAMOND, '68%')];
  return dotPlot(scale, [{ value: 0 }, { value: 1 }], dots, lines, marks, true);
}

function governanceTable(host, rows) {
  const level = (key, label) => ({ key, label: `${label}, %`, num: true, text: (row) => number(row.measure, row[key]) });
  const share = (key, label) => ({ key, label, num: true, text: (row) => shareText(row, key) });
  dataTable(host, {
    caption: 'Capability and governance that transferred', rows,
    columns: [
      wrapped('arm', 'Arm'), share('capability', 'Capability'), share('transfer', 'Governance'),
      { key: 'gap', label: 'Gap', num: true, text: gapText }, { key: 'p', label: 'p', num: true, text: (row) => pValue(row.p) },
      level('teacher', 'Teacher'), level('undistilled', 'Undistilled'), level('value', 'Student'),
      amount('n', 'n'), amount('n_seeds', 'Seeds'), plain('status', 'Status'),
    ],
  });
}
