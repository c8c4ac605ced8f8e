// A sortable, filterable table that scrolls inside its own container.
// columns: {key, label, num, wrap, text(row), node(row), sort(row)}; filters: {key, label, all, value, name(value)}.
function dataTable(host, { caption, columns, rows, filters = [], search = false, sort = null, page = 100 }) {
  const state = { sort, query: '', all: false, picked: Object.fromEntries(filters.map((f) => [f.key, f.value ?? '*'])) };
  const bar = el('div', { class: 'controls' });
  const body = el('tbody');
  const heads = columns.map((column) => head(column));
  const more = el('button', { type: 'button', class: 'quiet', onclick: () => { state.all = true; draw(); } });
  const count = el('p', { class: 'count', 'aria-live': 'polite' });

  function head(column) {
    const button = el('button', { type: 'button', onclick: () => order(column.key) }, column.label);
    return el('th', { scope: 'col', class: column.num ? 'num' : null }, button);
  }
  function order(key) {
    const same = state.sort && state.sort.key === key;
    state.sort = { key, down: same ? !state.sort.down : false };
    draw();
  }
  function kept() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    let found = rows.filter((row) => filters.every((f) => state.picked[f.key] === '*' || String(row[f.key]) === state.picked[f.key]));
    if (words.length) {
      found = found.filter((row) => {
        const text = columns.map((column) => (column.num ? '' : column.text(row))).join(' ').toLowerCase();
        return words.every((word) => text.includes(word));
      });
    }
    return state.sort ? sorted(found) : found;
  }
  function sorted(found) {
    const column = columns.find((item) => item.key === state.sort.key);
    const by = column.sort || ((row) => row[column.key]);
    const sign = state.sort.down ? -1 : 1;
    return [...found].sort((a, b) => {
      const [x, y] = [by(a), by(b)];
      if (!present(x) || !present(y)) return present(y) - present(x);
      return sign * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y), 'en', { numeric: true }));
    });
  }
  function draw() {
    const found = kept();
    const shown = state.all ? found : found.slice(0, page);
    const told = (column) => (state.picked[column.key] ?? '*') !== '*'; // the filter above already says it
    body.replaceChildren(...shown.map((row) => el('tr', null, ...columns.map((column) =>
      el('td', { class: column.num ? 'num' : column.wrap ? 'wrap' : null, hidden: told(column) }, column.node ? column.node(row) : column.text(row))))));
    heads.forEach((node, i) => {
      node.hidden = told(columns[i]);
      const on = state.sort && state.sort.key === columns[i].key;
      if (on) node.setAttribute('aria-sort', state.sort.down ? 'descending' : 'ascending');
      else node.removeAttribute('aria-sort');
    });
    const total = rows.length.toLocaleString('en-US');
    count.textContent = (found.length === rows.length ? total : `${found.length.toLocaleString('en-US')} of ${total}`) + (rows.length === 1 ? ' row' : ' rows') +
      (shown.length < found.length ? `, the first ${shown.length} shown` : '');
    more.textContent = `Show all ${found.length.toLocaleString('en-US')} rows`;
    more.hidden = shown.length === found.length;
  }

  for (const f of filters) {
    const values = unique(rows.map((row) => String(row[f.key])));
    if (values.length < 2) { state.picked[f.key] = '*'; continue; }
    if (!values.includes(state.picked[f.key])) state.picked[f.key] = f.all === false ? values[0] : '*';
    const options = values.map((value) => ({ value, label: f.name ? f.name(value) : value || '(none)' }));
    if (f.all !== false) options.unshift({ value: '*', label: 'all' });
    bar.append(select(f.label, options, state.picked[f.key], (value) => { state.picked[f.key] = value; state.all = false; draw(); }));
  }
  if (search) {
    const field = el('input', { type: 'search', placeholder: 'arm, student, …', oninput: () => { state.query = field.value; state.all = false; draw(); } });
    bar.append(el('label', { class: 'field' }, el('span', null, 'contains'), field));
  }
  const table = el('table', null, el('caption', { class: 'hidden' }, caption), el('thead', null, el('tr', null, ...heads)), body);
  const box = el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, table);
  host.replaceChildren(...(bar.childNodes.length ? [bar] : []), box, el('div', { class: 'under' }, count, more));
  draw();
}

const amount = (key, label) => ({ key, label, num: true, text: (row) => (present(row[key]) ? significant(row[key]) : '–') });
// A label that may be wrapped before its settings.
const wrapped = (key, label) => ({ ...plain(key, label), wrap: true, node: (row) => breakable(row[key]) });
const plain = (key, label, name) => ({ key, label, text: (row) => (name ? name(row[key]) : String(row[key] ?? '–')) });

// A small interval drawn on a shared scale, with zero marked.
function whisker(row, reach, reading) {
  if (!present(row.difference) || !present(row.low) || !present(row.high)) return el('span');
  const x = (value) => 60 + 54 * Math.max(-1, Math.min(1, value / reach));
  return svg('svg', { class: `whisker ${reading}`, viewBox: '0 0 120 16', width: 104, height: 14, 'aria-hidden': 'true' },
    svg('path', { class: 'zero', d: 'M60,1V15' }),
    svg('path', { class: 'span', d: `M${x(row.low)},8H${x(row.high)}M${x(row.low)},5V11M${x(row.high)},5V11` }),
    svg('circle', { cx: x(row.difference), cy: 8, r: 3.5 }));
}

function readingOf(row) {
  if (row.status !== 'ok' || !present(row.low) || !present(row.high)) return 'unreached';
  return row.high < 0 ? 'below' : row.low > 0 ? 'above' : 'unclear';
}
const READING = { below: 'below', above: 'above', unclear: 'not separable', unreached: 'not reached' };

function equalTable() {
  const host = byId('equal-table');
  if (!DATA.equal || !DATA.equal.task.length) return host.replaceChildren(empty('equal_cost.parquet', 'comparison at equal cost'));
  const rows = rowsOf(DATA.equal);
  const reach = {};
  const group = (row) => JSON.stringify([row.task, row.utility, row.drop, row.metric]);
  for (const row of rows) {
    const far = Math.max(Math.abs(row.low ?? 0), Math.abs(row.high ?? 0));
    reach[group(row)] = Math.max(reach[group(row)] || 1e-9, far);
  }
  const byLength = rows.some((row) => row.utility === 'length');
  const size = (value) => `${significant(100 * Number(value))} points${byLength ? ' (length: %)' : ''}`;
  return dataTable(host, {
    caption: 'Comparison at equal cost', rows,
    columns: [
      { key: 'defense', label: 'Comparison', text: (row) => `${row.defense} against ${row.reference}`,
        node: (row) => el('span', { class: 'versus' }, el('b', null, row.defense), el('span', null, ` against ${row.reference}`)), sort: (row) => `${row.defense} ${row.reference}` },
      { key: 'difference', label: 'Difference', num: true, text: (row) => points(row.metric, row.difference) },
      { key: 'low', label: 'Interval', num: true, text: (row) => (present(row.low) && present(row.high) ? `[${points(row.metric, row.low)}, ${points(row.metric, row.high)}]` : '–') },
      { key: 'whisker', label: 'Plot', text: () => '', node: (row) => whisker(row, reach[group(row)], readingOf(row)), sort: (row) => row.difference },
      { key: 'reading', label: 'Reading', text: (row) => READING[readingOf(row)], node: (row) => el('span', { class: `chip chip-${readingOf(row)}` }, READING[readingOf(row)]), sort: (row) => READING[readingOf(row)] },
      plain('student', 'Student'), plain('attack', 'Attack'),
      { key: 'p', label: 'p', num: true, text: (row) => pValue(row.p) },
      amount('n', 'n'), amount('n_seeds', 'Seeds'),
    ],
    filters: [
      { key: 'task', label: 'task', all: false },
      { key: 'utility', label: 'cost counted in', all: false, value: 'teacher_accuracy', name: labelOf },
      { key: 'drop', label: 'equal drop', all: false, value: '0.05', name: size },
      { key: 'metric', label: 'what the thief gets', all: false, value: DATA.headline, name: labelOf },
      { key: 'student', label: 'student' }, { key: 'attack', label: 'attack' },
    ],
  });
}

function costTable() {
  const host = byId('costs-table');
  if (!DATA.costs || !DATA.costs.task.length) return host.replaceChildren(empty('costs.parquet', 'costs'));
  const rows = rowsOf(DATA.costs);
  const most = Math.max(1, ...rows.map((row) => row.relative || 0));
  return dataTable(host, {
    caption: 'Cost of running each arm', rows,
    columns: [
      plain('arm', 'Arm'), plain('task', 'Task'), plain('stage', 'Stage'),
      { key: 'relative', label: 'Relative', num: true, text: (row) => (present(row.relative) ? `${row.relative.toFixed(2)} ×` : '–'),
        node: (row) => el('span', { class: 'meter', style: { '--part': String((row.relative || 0) / most) } }, present(row.relative) ? `${row.relative.toFixed(2)} ×` : '–') },
      amount('seconds', 'Seconds'), amount('tokens', 'Tokens'), amount('tokens_per_second', 'Tokens / s'),
    ],
    filters: [{ key: 'task', label: 'task', all: false }, { key: 'stage', label: 'stage', value: 'release' }],
  });
}

function resultsTable() {
  const rows = RESULTS;
  dataTable(byId('results-table'), {
    caption: 'All results', rows, search: true,
    columns: [
      plain('arm', 'Arm'), plain('task', 'Task'), plain('attack', 'Attack', (v) => v || 'teacher side'), plain('student', 'Student', (v) => v || '–'),
      plain('metric', 'Measure', labelOf),
      { key: 'value', label: 'Value', num: true, text: (row) => number(row.metric, row.value) + (formOf(row.metric) === 'share' ? ' %' : '') },
      { key: 'low', label: 'Interval', num: true, text: (row) => (present(row.low) && present(row.high) ? interval(row.metric, row.low, row.high) : '–') },
      amount('n', 'n'), amount('n_seeds', 'Seeds'),
    ],
    filters: [
      { key: 'task', label: 'task', value: DATA.tasks[0].name }, { key: 'metric', label: 'measure', value: DATA.headline, name: labelOf },
      { key: 'defense', label: 'defense' },
      { key: 'attack', label: 'attack', name: (value) => value || 'teacher side' },
    ],
  });
}
