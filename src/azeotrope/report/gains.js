// Every defense against every attack: the share of the best undefended gain that is left, as a table tinted by it.
const GAIN_ROWS = 40;
const ACCESS = { text: 'text', topk_logprobs: 'top-k log-probabilities', full_logits: 'all log-probabilities', weights: 'weights' };

const whole = (value) => minus(String(Math.round(100 * value) || 0)); // no "-0"
const worstText = (row) => (present(row.retained) ? `${oneDecimal(row.retained)} % ${bracket(row.worst_low, row.worst_high, oneDecimal)}` : '–');
const gainedText = (row) => (present(row.gain) ? `${signed(row.gain)} ${bracket(row.gain_low, row.gain_high, signed)}` : '–');
const dropOf = (row) => (present(row.teacher_drop) ? `${signed(row.teacher_drop)} ${bracket(row.teacher_drop_low, row.teacher_drop_high, signed)}` : '–');
const levelOf = (row) => row.retained ?? row.gain ?? row.value; // in one view, each grows with the others
const undefendedOf = (name) => { const task = DATA.tasks.find((item) => item.name === name); return task ? task.none : null; };

function gainsView() {
  const host = byId('gains-view');
  if (!host) return;
  const all = rowsOf(DATA.gains);
  const state = { metric: DATA.headline, all: false };
  const [bar, picture, table] = [el('div', { class: 'controls' }), el('div'), el('div')];
  const keys = [{ key: 'task', label: 'task' }, { key: 'student', label: 'student' }, { key: 'metric', label: 'what the thief gets', name: labelOf }];
  cascade(bar, all, keys, state, draw);
  function draw() {
    hideTip();
    const rows = all.filter((row) => keys.every(({ key }) => row[key] === state[key]));
    const lines = gainLines(rows, undefendedOf(state.task));
    const attacks = gainAttacks(rows, undefendedOf(state.task));
    drawGains(picture, lines, attacks, state, draw);
    gainsTable(table, lines.flatMap((line) => attacks.map((attack) => line.at(attack)).filter(Boolean)));
  }
  host.replaceChildren(bar, picture, el('details', null, el('summary', null, 'All numbers as a table'), table));
  draw();
}

// The arms in the order of the rows. `missing` counts the attacks that other arms have.
function gainLines(rows, none) {
  const order = byArm(rows.length ? rows[0].task : '');
  const measured = unique(rows.filter((row) => present(row.value) && !isControl(row.attack)).map((row) => row.attack));
  const lines = unique(rows.map((row) => row.arm)).map((arm) => {
    const mine = rows.filter((row) => row.arm === arm);
    const at = (name) => mine.find((row) => row.attack === name);
    const missing = measured.filter((name) => !at(name) || !present(at(name).value)).length;
    return { arm, at, any: mine[0], worst: mine.find((row) => row.worst), missing, none: arm === none };
  });
  const level = (line) => (line.worst ? levelOf(line.worst) : null) ?? Infinity;
  const compare = (a, b) => (a === b ? 0 : a - b); // infinities are equal
  return lines.sort((a, b) => a.none - b.none || (a.missing > 0) - (b.missing > 0) || compare(level(a), level(b)) || order(a, b));
}

// The attacks in the order of the columns: by what they read, then by the mean over defended arms.
function gainAttacks(rows, none) {
  const names = unique(rows.map((row) => row.attack));
  const defended = rows.some((row) => row.arm !== none) ? rows.filter((row) => row.arm !== none) : rows;
  const mean = (name) => {
    const values = defended.filter((row) => row.attack === name).map(levelOf).filter(present);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : -1e9;
  };
  const access = Object.fromEntries(rows.map((row) => [row.attack, row.access]));
  const known = Object.keys(ACCESS);
  const place = (name) => (known.includes(access[name]) ? known.indexOf(access[name]) : known.length);
  const means = Object.fromEntries(names.map((name) => [name, mean(name)]));
  return names.sort((a, b) => place(a) - place(b) || access[a].localeCompare(access[b]) || means[b] - means[a]);
}

function drawGains(host, lines, attacks, state, draw) {
  const { shown, more } = firstRows(lines, GAIN_ROWS, state, 'arms', draw);
  const accessOf = (name) => lines.map((line) => line.at(name)).find(Boolean).access;
  const starts = attacks.map((name, i) => i === 0 || accessOf(attacks[i - 1]) !== accessOf(name));
  const marks = [];
  const body = shown.map((line) => el('tr', { class: line.none ? 'undefended' : null },
    el('th', { scope: 'row' }, armName(state.task, line.arm, line.missing ? el('small', { class: 'beneath' }, `${line.missing} of ${attacks.length} attacks not measured`) : null)),
    worstCell(line, marks), keptCell(line, marks), ...attacks.map((name, i) => gainCell(line.at(name), line.arm, name, starts[i], marks))));
  host.replaceChildren(
    el('div', { class: 'scroll kept-box', tabindex: '0', role: 'region', 'aria-label': 'Share of the best undefended gain per arm and attack; use the arrow keys to move between cells' },
      el('table', { class: 'kept' }, el('caption', { class: 'hidden' }, 'Share of the best undefended gain that is left, in percent, per arm and attack'),
        gainHead(attacks, accessOf, starts), el('tbody', null, ...body))),
    el('div', { class: 'under' }, gainScale(), ...more), el('p', { class: 'count dot-note' }, gainNote(lines, attacks)));
  tips(marks, attacks.length + 2);
}

function gainHead(attacks, accessOf, starts) {
  const first = attacks.flatMap((name, i) => (starts[i] ? [i] : []));
  const groups = first.map((from, i) => el('th', { scope: 'colgroup', class: 'group first', colspan: (first[i + 1] ?? attacks.length) - from }, el('div', null, el('span', null, 'reads ', el('b', null, ACCESS[accessOf(attacks[from])] ?? accessOf(attacks[from]))))));
  const tall = (text, kind) => el('th', { scope: 'col', rowspan: 2, class: kind }, text);
  return el('thead', null,
    el('tr', null, tall('Arm', null), tall('Worst case, %', 'side-case'), tall('Teacher accuracy, %', 'side-teacher'), ...groups),
    el('tr', null, ...attacks.map((name, i) => el('th', { scope: 'col', class: starts[i] ? 'attack first' : 'attack' }, el('span', null, breakable(name), isControl(name) ? el('small', null, ' control') : null)))));
}

// Half-dark at most, so that the numbers stay readable in both themes.
const gainTint = (share) => ({ '--part': `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%` });
const cellMark = (marks, lines, ...content) => {
  const node = el('span', { class: 'kept-cell', role: 'img', 'aria-label': lines.join('. ') }, ...content);
  marks.push({ node, lines });
  return node;
};

function worstCell({ arm, worst, missing, none }, marks) {
  const how = none ? '100 % by definition' : 'The interval chooses the attack anew in each resample';
  const lines = worst ? [`${arm}: worst case`, `by ${worst.attack}`, ...gainWords(worst, none ? shareText(worst, 'retained') : worstText(worst)), ...(present(worst.retained) ? [how] : [])] : [`${arm}: worst case`, 'not measured'];
  if (missing) lines.push(`${missing} attacks were not measured on this arm`);
  const range = worst && !none && present(worst.worst_low) ? bracket(worst.worst_low, worst.worst_high, whole) : '';
  return el('td', { class: 'side-case', style: worst && present(worst.retained) ? gainTint(worst.retained) : null },
    cellMark(marks, lines, el('b', null, worst ? cellText(worst) : '–'), range ? el('small', null, range) : null));
}

function keptCell({ arm, any, none }, marks) {
  const [accuracy, cost] = [number('teacher_accuracy', any.teacher_accuracy), dropOf(any)];
  const lines = [`${arm}: teacher`, present(any.teacher_accuracy) ? `accuracy ${accuracy} %` : 'accuracy not measured', `drop ${cost}${cost === '–' ? '' : ' points'}`];
  return el('td', { class: 'side-teacher' }, cellMark(marks, lines, el('b', null, accuracy), !none && present(any.teacher_drop) ? el('small', null, `drop ${oneDecimal(any.teacher_drop)}`) : null));
}

const cellText = (row) => (present(row.retained) ? whole(row.retained) : present(row.gain) ? signed(row.gain) : '–');

const unsureOf = (row) => present(row.retained) && present(row.retained_low) && !(row.retained_low > 0);
function gainCell(row, arm, name, first, marks) {
  const known = row && present(row.value);
  const kind = [first ? 'first' : null, known && row.worst ? 'own' : null, known && unsureOf(row) ? 'unsure' : null].filter(Boolean).join(' ') || null;
  const lines = known ? [`${arm}, ${name}${row.worst ? ': the worst case' : ''}`, ...gainWords(row, shareText(row, 'retained'))] : [`${arm}, ${name}`, 'not measured'];
  return el('td', { class: kind, style: known && present(row.retained) ? gainTint(row.retained) : null }, cellMark(marks, lines, known ? cellText(row) : '–'));
}

const STATUS = {
  'nothing gained': 'no share: no attack is shown to gain anything without a defense',
  'no undistilled student': 'no share: the undistilled student was not measured',
  'undefended not measured': 'no share: the undefended release was not measured',
};
const gainWords = (row, share) => [
  present(row.retained) ? `${share} of the best undefended gain` : STATUS[row.status] ?? 'no share',
  `gain ${gainedText(row)}${gainUnit(row.metric)}`,
  `${labelOf(row.metric)} ${number(row.metric, row.value)}${unitOf(row.metric)}, undistilled ${number(row.metric, row.undistilled)}${unitOf(row.metric)}`,
  present(row.best) ? `best undefended gain ${signed(row.best)}${gainUnit(row.metric)}, by ${row.best_attack}` : null,
  counts(row),
].filter(Boolean);

function gainScale() {
  const stops = [0, 0.25, 0.5, 0.75, 1].map((part) => el('span', { class: 'stop kept-stop', style: gainTint(part) }, `${whole(part)} %`));
  return el('div', { class: 'matrix-scale' }, el('span', null, 'nothing is left'), ...stops, el('span', null, 'as much as undefended, or more'));
}

function gainNote(lines, attacks) {
  const known = lines.flatMap((line) => attacks.map(line.at)).filter((row) => row && present(row.value));
  const why = unique(known.filter((row) => !present(row.retained)).map((row) => STATUS[row.status] ?? 'no share'));
  return [
    known.some(unsureOf) ? 'A share whose interval contains 0 is set in light type.' : '',
    known.some((row) => present(row.gain) && !present(row.gain_low)) ? 'Two seeds or fewer bound no share of a recall.' : '',
    lines.some((line) => line.missing) ? 'Arms that lack an attack stand after the complete ones: their worst case may be another.' : '',
    ...why.map((text) => `${upper(text)}; the cells hold the gain in points.`),
    known.length ? 'The interval of a worst case chooses the attack anew in each resample, with and without the defense; that of a cell keeps both attacks. Picking the best row is not corrected for.' : '',
  ].filter(Boolean).join(' ');
}

function gainsTable(host, rows) {
  const reads = (row) => ACCESS[row.access] ?? row.access;
  dataTable(host, {
    caption: 'Share of the best undefended gain per arm and attack', rows,
    columns: [
      ...attackColumns, { key: 'access', label: 'Reads', text: reads },
      { key: 'value', label: 'Student', num: true, text: (row) => `${number(row.metric, row.value)}${present(row.value) ? unitOf(row.metric) : ''}` },
      { key: 'gain', label: 'Gain', num: true, text: gainedText },
      { key: 'retained', label: 'Share left', num: true, text: (row) => shareText(row, 'retained') },
      { key: 'worst', label: 'Worst case', num: true, text: (row) => (row.worst ? (present(row.retained) ? worstText(row) : 'yes') : ''), sort: (row) => (row.worst ? levelOf(row) : null) },
      { key: 'teacher_accuracy', label: 'Teacher, %', num: true, text: (row) => number('teacher_accuracy', row.teacher_accuracy) },
      { key: 'teacher_drop', label: 'Teacher drop', num: true, text: dropOf },
      amount('n', 'n'), amount('n_seeds', 'Seeds'), plain('status', 'Status'),
    ],
    filters: [{ key: 'arm', label: 'arm' }, { key: 'attack', label: 'attack' }, { key: 'access', label: 'reads', name: (value) => ACCESS[value] ?? value }],
  });
}
