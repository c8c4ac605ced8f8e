// Trained edits: the curve of what training moves, one panel an arm, and a table of what the edit does.
function editsView() {
  const host = byId('edits-view');
  if (!host) return;
  const all = rowsOf(DATA.edits);
  const state = {};
  const [bar, grid, table] = [el('div', { class: 'controls' }), el('div', { class: 'panels' }), el('div')];
  const keys = [{ key: 'task', label: 'task' }, { key: 'measure', label: 'measure', name: labelOf }];
  cascade(bar, all, keys, state, draw);
  function draw() {
    const rows = all.filter((row) => keys.every(({ key }) => row[key] === state[key]));
    const order = armOrder(state.task);
    const arms = unique(rows.map((row) => row.arm)).sort((a, b) => order(a) - order(b));
    const values = rows.flatMap((row) => [...row.curve, row.held_out]).filter(present);
    const scale = { low: Math.min(0, ...values), top: Math.max(0, ...values) };
    grid.replaceChildren(...arms.map((arm) => editPanel(arm, rows.filter((row) => row.arm === arm), scale, state.task)));
    editsTable(table, rows);
  }
  host.replaceChildren(bar, grid, table);
  draw();
}

const short = (value) => (present(value) ? significant(value) : '–');
function editPanel(arm, rows, { low, top }, task) {
  const [width, height, left, bottom] = [240, 132, 30, 18];
  const last = Math.max(1, ...rows.map((row) => row.steps));
  const x = (step) => left + step / last * (width - left - 6);
  const y = (value) => 6 + (top - value) / (top - low || 1) * (height - bottom - 8);
  const line = lineOfArm(task, arm);
  const words = rows.map((row) => `${labelOf(row.measure)} ${short(row.first)} to ${short(row.held_out)}`).join('; ');
  const image = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${arm}: ${words}`, style: { '--k': line ? look(line.kind).color : 'var(--ink)' } });
  for (const tick of ticks(low, top, 4)) {
    image.append(svg('path', { class: 'grid', d: `M${left},${y(tick)}H${width - 6}` }), svg('text', { x: left - 5, y: y(tick) + 3.5, 'text-anchor': 'end' }, significant(tick)));
  }
  image.append(svg('text', { x: left, y: height - 3 }, '0'), svg('text', { x: width - 6, y: height - 3, 'text-anchor': 'end' }, `step ${last.toLocaleString('en-US')}`));
  for (const row of rows) {
    const part = row.steps / Math.max(1, row.curve.length - 1);
    const path = row.curve.map((value, i) => (present(value) ? `${x(i * part).toFixed(1)},${y(value).toFixed(1)}` : null)).filter(Boolean);
    image.append(svg('path', { class: 'curve train', d: `M${path.join('L')}` }));
    if (present(row.held_out)) image.append(svg('circle', { class: 'chosen', cx: x(row.chosen_step), cy: y(row.held_out), r: 4 }));
  }
  return el('figure', { class: 'panel' }, el('figcaption', null, el('b', null, arm), el('span', null, words)), image);
}

function editsTable(host, rows) {
  const three = (value) => (present(value) ? minus(value.toFixed(3)) : '–');
  const percentOf = (value) => (present(value) ? oneDecimal(value) : '–');
  const column = (key, label, text) => ({ key, label, num: true, text: (row) => text(row[key]) });
  dataTable(host, {
    caption: 'Trained edits', rows,
    columns: [
      { ...plain('arm', 'Arm'), wrap: true, node: (row) => breakable(row.arm) }, amount('draw', 'Draw'), amount('edit', 'Map'), plain('measure', 'Measure'),
      column('first', 'First step', three), column('held_out', 'Held out', three),
      column('cmi_before', 'CMI before, nats', three), column('cmi_after', 'CMI after', three),
      { key: 'cmi_change', label: 'Change', num: true, text: (row) => (present(row.cmi_change) ? `${three(row.cmi_change)}${present(row.cmi_change_se) ? ` ± ${three(row.cmi_change_se)}` : ''}` : '–') },
      column('agreement', 'Same argmax, %', percentOf), column('kl', 'KL, nats', three),
      column('clean_accuracy', 'Teacher before, %', percentOf), column('accuracy', 'Teacher, %', percentOf),
      { key: 'kept', label: 'Within limit', text: (row) => (row.kept ? 'yes' : 'no') }, amount('n', 'Tokens'),
    ],
    filters: [{ key: 'arm', label: 'arm' }],
  });
}
