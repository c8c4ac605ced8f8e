// One moat, many locks: what the student loses on every task under every protection, as a table tinted by the loss.
const MATRIX_ROWS = 16;
const LEAST_TOP = 0.05; // the tint is never stretched over less than five points

const sure = (row) => present(row.low) && present(row.high) && (row.low > 0 || row.high < 0);
const lossText = (row) => (present(row.loss) ? signed(row.loss) : '–');
const lossBounds = (row) => bracket(row.low, row.high, signed);
const teacherText = (row) => (present(row.teacher_drop) ? `${signed(row.teacher_drop)} ${bracket(row.teacher_drop_low, row.teacher_drop_high, signed)}` : '–');

function matrixView() {
  const host = byId('matrix-view');
  if (!host) return;
  const all = rowsOf(DATA.matrix);
  const state = { metric: DATA.headline, all: false };
  const [bar, picture, table] = [el('div', { class: 'controls' }), el('div'), el('div')];
  const keys = [{ key: 'metric', label: 'what the thief gets', name: labelOf }, { key: 'attack', label: 'attack' }, { key: 'student', label: 'student' }];
  cascade(bar, all, keys, state, draw);
  function draw() {
    hideTip();
    const rows = all.filter((row) => keys.every(({ key }) => row[key] === state[key]));
    const shades = all.filter((row) => row.metric === state.metric).map((row) => Math.abs(row.loss ?? 0)); // one scale for a measure
    drawMatrix(picture, rows, Math.max(LEAST_TOP, ...shades), state, draw);
    matrixTable(table, rows);
  }
  host.replaceChildren(bar, picture, el('details', null, el('summary', null, 'All numbers as a table'), table));
  draw();
}

function drawMatrix(host, rows, top, state, draw) {
  const place = (name) => { const i = DATA.tasks.findIndex((item) => item.name === name); return i < 0 ? DATA.tasks.length : i; };
  const tasks = unique(rows.map((row) => row.task)).sort((a, b) => place(a) - place(b));
  const locks = rows.filter((row, i) => rows.findIndex((other) => other.protected === row.protected && other.arm === row.arm) === i)
    .sort((a, b) => place(a.protected) - place(b.protected) || byArm(a.protected)(a, b));
  const { shown, more } = firstRows(locks, MATRIX_ROWS, state, 'rows', draw);
  const head = el('tr', null, el('th', { scope: 'col' }, 'Arm'), ...tasks.map((task) => el('th', { scope: 'col' }, 'measured on ', el('b', null, breakable(task)))));
  const body = shown.flatMap((lock, i) => [
    ...(i && shown[i - 1].protected === lock.protected ? [] : [el('tr', { class: 'lock' }, el('th', { scope: 'colgroup', colspan: tasks.length + 1 }, 'protects ', el('b', null, lock.protected)))]),
    el('tr', null, el('th', { scope: 'row' }, armName(lineOfArm(lock.task, lock.arm) ? lock.task : lock.protected, lock.arm)),
      ...tasks.map((task) => matrixCell(rows.find((row) => row.protected === lock.protected && row.arm === lock.arm && row.task === task), task === lock.protected, top)))]);
  host.replaceChildren(
    el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Loss of the student per protected and measured task' },
      el('table', { class: 'heat' }, el('caption', { class: 'hidden' }, 'Loss of the student, in points, and drop of the teacher, per protected and measured task'), el('thead', null, head), el('tbody', null, ...body))),
    el('div', { class: 'under' }, matrixScale(top), ...more));
}

// Half of the color at most, so that the numbers stay readable in both themes.
function tint(loss, top) {
  const part = Math.min(1, Math.abs(loss) / top);
  return { '--tint': loss < 0 ? 'var(--bad)' : 'var(--good)', '--part': `${(44 * part).toFixed(1)}%` };
}

function matrixCell(row, own, top) {
  const kind = own ? 'own' : null;
  if (!row || !present(row.loss)) return el('td', { class: kind }, el('span', { class: 'no-value' }, 'not measured'), own ? el('small', null, 'protected') : null);
  return el('td', { class: [kind, sure(row) ? null : 'unsure'].filter(Boolean).join(' ') || null, style: tint(row.loss, top) },
    el('b', null, lossText(row)), el('small', null, lossBounds(row)), el('small', { class: 'teacher' }, `teacher ${teacherText(row)}`), own ? el('small', { class: 'mine' }, 'protected') : null);
}

function matrixScale(top) {
  const stops = [-1, -0.5, 0, 0.5, 1];
  return el('div', { class: 'matrix-scale' }, el('span', null, 'the student gains'),
    ...stops.map((part) => el('span', { class: 'stop', style: tint(part * top, top) }, signed(part * top))), el('span', null, 'loses'));
}

function matrixTable(host, rows) {
  const share = (key, label) => ({ key, label: `${label}, %`, num: true, text: (row) => number(row.metric, row[key]) });
  dataTable(host, {
    caption: 'Protected and measured tasks', rows,
    columns: [
      wrapped('protected', 'Protected'), wrapped('task', 'Measured'), wrapped('arm', 'Arm'),
      share('clean', 'Undefended'), share('value', 'Defended'),
      { key: 'loss', label: 'Loss', num: true, text: (row) => (present(row.loss) ? `${lossText(row)} ${lossBounds(row)}` : '–') },
      { key: 'teacher_drop', label: 'Teacher drop', num: true, text: teacherText },
      amount('n', 'n'), amount('n_seeds', 'Seeds'),
    ],
    filters: [{ key: 'protected', label: 'protected' }, { key: 'task', label: 'measured' }],
  });
}
