// How visible an arm is: AUROC per trace and per group of traces, the control first, and every other figure in a table.
const SEEN_ROWS = 30;
const SQUARE = 'M-4.5,-4.5L4.5,-4.5L4.5,4.5L-4.5,4.5Z';
const UNITS = { per_trace: 'per trace', per_group: 'per group', per_problem: 'per problem' };

const aurocText = (row) => (row && present(row.value) ? `${minus(row.value.toFixed(2))} ${bracket(row.low, row.high, (v) => minus(v.toFixed(2)))}` : 'not measured');
// Figure by figure; in each the control first, then the arms in the order of the page.
function byFigure(rows, task) {
  const figure = (row) => JSON.stringify([row.detector, row.measure, row.unit]);
  const order = unique(rows.map(figure));
  return [...rows].sort((a, b) => order.indexOf(figure(a)) - order.indexOf(figure(b)) || (b.arm === DATA.control) - (a.arm === DATA.control) || byArm(task)(a, b));
}

function detectabilityView() {
  const host = byId('detectability-view');
  if (!host) return;
  const all = rowsOf(DATA.detectability);
  const scored = all.filter((row) => row.measure === 'auroc');
  const state = { all: false };
  const [bar, picture, table] = [el('div', { class: 'controls' }), el('div'), el('div')];
  const keys = [{ key: 'task', label: 'task' }, ...(scored.length ? [{ key: 'detector', label: 'detector' }] : [])];
  const here = armCascade(bar, scored.length ? scored : all, keys, state, draw);
  function draw() {
    hideTip();
    // The control stays, whatever the defense that is chosen.
    const control = scored.filter((row) => row.arm === DATA.control && row.task === state.task && row.detector === state.detector);
    drawSeen(picture, [...control, ...here().filter((row) => row.measure === 'auroc' && row.arm !== DATA.control)], state, draw);
    seenTable(table, byFigure(all.filter((row) => row.task === state.task), state.task));
  }
  host.replaceChildren(bar, picture, el('details', null, el('summary', null, 'All figures as a table'), table));
  draw();
}

function drawSeen(host, rows, state, draw) {
  if (!rows.length) return host.replaceChildren(el('p', { class: 'empty' }, 'No detector with an AUROC was run; the table has the other figures.'));
  const scale = dotScale(rows.flatMap((row) => [row.value, row.low, row.high]), [0.45, 1], [0, 1], [0.05, 0.07]);
  const { shown, more } = firstRows(unique(rows.map((row) => row.arm)), SEEN_ROWS, state, 'arms', draw);
  const marks = [];
  const known = [0.5, 1, ...ticks(scale.low, 1, 5).filter((tick) => Math.abs(tick - 0.5) > 0.08 && tick < 0.93)];
  host.replaceChildren(
    el('div', { class: 'key' }, keyMark('one', look('').markers[0], 'by one trace'), keyMark('many', SQUARE, 'by a group of traces')),
    el('div', { class: 'dots pairs', role: 'group', 'aria-label': 'AUROC per arm, by one trace and by a group; use the arrow keys to move between rows' },
      el('div', { class: 'dot-row dot-axis', 'aria-hidden': 'true' }, el('span', { class: 'arm-name' }, 'AUROC'), dotTicks(scale, known, significant, { 0.5: 'guessing', 1: 'always' })),
      ...shown.map((arm) => seenRow(arm, state.task, rows.filter((row) => row.arm === arm), scale, marks))),
    ...more);
  return tips(marks);
}

function seenRow(arm, task, rows, scale, marks) {
  const part = (unit) => rows.find((row) => row.unit === unit);
  const [one, many] = [part('per_trace'), part('per_group')];
  const control = arm === DATA.control;
  const name = armName(task, arm, control ? el('small', null, ' the control') : null,
    el('small', { class: 'beneath' }, `one trace ${aurocText(one)}`), el('small', { class: 'beneath' }, `group ${aurocText(many)}`));
  const lines = [
    control ? `${arm}, the control` : arm, ...[one, many].filter(Boolean).flatMap((row) => [
      `AUROC ${UNITS[row.unit]}: ${aurocText(row)}${present(row.n) ? `, n = ${row.n.toLocaleString('en-US')}` : ''}${row.note ? ` (${row.note})` : ''}`]),
    present(rows[0].n_problems) ? `${rows[0].n_problems.toLocaleString('en-US')} problems` : '',
  ].filter(Boolean);
  const dot = (row, kind, d, y) => ({ value: row && row.value, low: row && row.low, high: row && row.high, kind, d, y });
  return el('div', { class: control ? 'dot-row control-row' : 'dot-row' }, name,
    dotPlot(scale, [{ value: 0.5 }], [dot(one, 'one', look('').markers[0], '32%'), dot(many, 'many', SQUARE, '68%')], lines, marks));
}

function seenTable(host, rows) {
  const unit = (metric) => (formOf(metric) === 'share' ? ' %' : '');
  dataTable(host, {
    caption: 'How visible every arm is', rows,
    columns: [
      wrapped('arm', 'Arm'), plain('measure', 'Measure', labelOf), wrapped('detector', 'Detector'), plain('unit', 'Counted', (v) => UNITS[v] || v),
      { key: 'value', label: 'Value', num: true, text: (row) => (present(row.value) ? number(row.measure, row.value) + unit(row.measure) : '–') },
      { key: 'low', label: 'Interval', num: true, text: (row) => (present(row.low) && present(row.high) ? interval(row.measure, row.low, row.high) : '–') },
      amount('n', 'n'), amount('n_problems', 'Problems'), { ...plain('note', 'Note'), wrap: true },
    ],
    filters: [{ key: 'measure', label: 'measure', name: labelOf }, { key: 'detector', label: 'detector' }, { key: 'unit', label: 'counted', name: (v) => UNITS[v] || v }],
  });
}
