// Data and small helpers. Text from the run only ever enters the page through textContent.
const DATA = JSON.parse(document.getElementById('data').textContent);
const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...(children || []).filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const present = (value) => value !== null && value !== undefined;

// Numbers. Shares are shown in percent, differences of shares in points.
const minus = (text) => text.replace('-', '−');
const significant = (value, digits = 3) => {
  if (Math.abs(value) >= 1000) return minus(Math.round(value).toLocaleString('en-US'));
  return minus(String(Number(value.toPrecision(digits))));
};
const formOf = (metric) => (DATA.measures[metric] || { form: 'number' }).form;
const labelOf = (metric) => (DATA.measures[metric] || { label: metric.replaceAll('_', ' ') }).label;
const scaleOf = (metric) => (formOf(metric) === 'number' ? 1 : 100);
const unitOf = (metric) => ({ share: ' %', points: ' points' })[formOf(metric)] || '';
function number(metric, value) {
  if (!present(value)) return '–';
  if (formOf(metric) === 'number') return significant(value);
  const text = (100 * value).toFixed(1);
  const shown = text === '-0.0' ? '0.0' : text;
  return minus(formOf(metric) === 'points' && value > 0 && shown !== '0.0' ? `+${shown}` : shown);
}
function points(metric, value) {
  if (!present(value)) return '–';
  if (formOf(metric) === 'number') return (value > 0 ? '+' : '') + significant(value);
  const text = (100 * value).toFixed(1);
  return text === '-0.0' || text === '0.0' ? '0.0' : (value > 0 ? '+' : '') + minus(text);
}
const interval = (metric, low, high) =>
  present(low) && present(high) ? `[${number(metric, low)}, ${number(metric, high)}]` : 'no interval';
const pValue = (p) => (!present(p) ? '–' : p < 0.001 ? '< .001' : p >= 0.9995 ? '1' : p.toFixed(3).slice(1));
const oneDecimal = (value) => { const text = (100 * value).toFixed(1); return minus(text === '-0.0' ? '0.0' : text); };
const signed = (value) => (value > 0 && oneDecimal(value) !== '0.0' ? '+' : '') + oneDecimal(value);
const bracket = (low, high, write) => (present(low) && present(high) ? `[${write(low)}, ${write(high)}]` : 'no interval');
const counts = (row) => [
  present(row.n) ? `n = ${row.n.toLocaleString('en-US')}` : null,
  present(row.n_seeds) ? `${row.n_seeds} ${row.n_seeds === 1 ? 'seed' : 'seeds'}` : null,
].filter(Boolean).join(', ');

function rowsOf(columns) {
  const names = Object.keys(columns);
  const size = names.length ? columns[names[0]].length : 0;
  return Array.from({ length: size }, (_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * (1 - 1e-9));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) found.push(Number((k * step).toPrecision(12)));
  return found;
}

// A labeled native select. Options are strings or {value, label}.
function select(label, options, value, onchange) {
  const list = options.map((option) => (typeof option === 'string' ? { value: option, label: option } : option));
  const node = el('select', { onchange: () => onchange(node.value) },
    ...list.map((option) => el('option', { value: option.value, selected: option.value === value }, option.label)));
  return el('label', { class: 'field' }, el('span', null, label), node);
}

// Selects in a row; each offers the values that the choices before it leave. keys: {key, label, name(value)}.
function cascade(bar, rows, keys, state, changed, more = () => []) {
  const left = (count) => rows.filter((row) => keys.slice(0, count).every(({ key }) => row[key] === state[key]));
  const offered = (i) => unique(left(i).map((row) => row[keys[i].key]));
  function refresh() {
    const held = [...bar.querySelectorAll('select')].indexOf(document.activeElement);
    keys.forEach(({ key }, i) => { if (!offered(i).includes(state[key])) [state[key]] = offered(i); });
    const change = (key) => (value) => { state[key] = value; state.all = false; refresh(); changed(); };
    bar.replaceChildren(...keys.map(({ key, label, name = (value) => value || '(none)' }, i) =>
      select(label, offered(i).map((value) => ({ value, label: name(value) })), state[key], change(key))), ...more(change));
    if (held >= 0) bar.querySelectorAll('select')[held].focus();
  }
  refresh();
}

const look = (kind) => DATA.looks[kind] || { color: 'var(--ink)', markers: ['M5,0A5,5,0,1,1,-5,0A5,5,0,1,1,5,0Z'] };
const markerOf = (line) => look(line.kind).markers[line.variant % look(line.kind).markers.length];
const empty = (file, what) => el('p', { class: 'empty' }, `This run stored no ${what} (${file} is absent or empty).`);

// One tooltip for the whole page.
const tip = byId('tip');
function showTip(anchor, lines) {
  tip.replaceChildren(...lines.map((line, i) => el('div', { class: i ? null : 'tip-title' }, line)));
  tip.hidden = false;
  const at = anchor.getBoundingClientRect();
  const box = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth;
  const left = Math.min(Math.max(8, at.left + at.width / 2 - box.width / 2), room - box.width - 8);
  const above = at.top - box.height - 10;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${(above > 4 ? above : at.bottom + 10) + window.scrollY}px`;
}
const hideTip = () => { tip.hidden = true; };
document.addEventListener('keydown', (event) => { if (event.key === 'Escape') hideTip(); });

// Arrow keys move inside a group of marks; the group is one tab stop. In a grid, up and down move by its width.
function rove(nodes, tell, wide = 1) {
  nodes.forEach((node, i) => {
    node.setAttribute('tabindex', i ? '-1' : '0');
    node.addEventListener('focus', () => tell(node));
    node.addEventListener('blur', hideTip);
    node.addEventListener('pointerenter', () => tell(node));
    node.addEventListener('pointerleave', () => { if (document.activeElement !== node) hideTip(); });
    node.addEventListener('keydown', (event) => {
      const move = { ArrowRight: 1, ArrowDown: wide, ArrowLeft: -1, ArrowUp: -wide }[event.key];
      const next = event.key === 'Home' ? 0 : event.key === 'End' ? nodes.length - 1 : move ? i + move : null;
      if (next === null) return;
      event.preventDefault();
      if (wide > 1 && !(next in nodes)) return;
      const target = nodes[Math.min(Math.max(next, 0), nodes.length - 1)];
      node.setAttribute('tabindex', '-1');
      target.setAttribute('tabindex', '0');
      target.focus();
    });
  });
}

const tips = (marks, wide = 1) => rove(marks.map((mark) => mark.node), (node) => showTip(node, marks.find((mark) => mark.node === node).lines), wide);

// Arms: their line, their order on the page, and how they are named.
function lineOfArm(taskName, arm) {
  const task = DATA.tasks.find((item) => item.name === taskName);
  return task ? task.lines.find((line) => line.arms.some((item) => item.arm === arm)) : undefined;
}
function armOrder(taskName) {
  const task = DATA.tasks.find((item) => item.name === taskName);
  const names = task ? [task.none, ...task.lines.flatMap((line) => line.arms.map((item) => item.arm))] : [];
  return (arm) => (names.includes(arm) ? names.indexOf(arm) : names.length);
}
function swatch(line) {
  return svg('svg', { width: 30, height: 14, viewBox: '-15 -7 30 14', 'aria-hidden': 'true', style: { '--k': look(line.kind).color } },
    svg('path', { class: line.control ? 'line control' : 'line', d: 'M-14,0H14' }), svg('path', { class: 'mark', d: markerOf(line) }));
}
// A label that may be wrapped before its settings.
const isControl = (attack) => DATA.attack_controls.includes(attack); // shown beside an attack, never the worst case
const breakable = (label) => el('span', null, ...label.split(/(?<=\()/).flatMap((part, i) => (i ? [el('wbr'), part] : [part])));

const defenseOf = (row) => { const line = lineOfArm(row.task, row.arm); return line ? line.label : row.arm; };
function byArm(task) {
  const order = armOrder(task);
  return (a, b) => order(a.arm) - order(b.arm) || a.arm.localeCompare(b.arm, 'en', { numeric: true });
}
// `cascade`, and a select for the defense after it; returns the chosen rows with the arms in the order of the page.
function armCascade(bar, rows, keys, state, changed) {
  state.defense = '*';
  const left = () => rows.filter((row) => keys.every(({ key }) => row[key] === state[key])).sort(byArm(state.task));
  cascade(bar, rows, keys, state, changed, (change) => {
    const defenses = unique(left().map(defenseOf));
    if (!defenses.includes(state.defense)) state.defense = '*';
    return defenses.length > 1 ? [select('defense', [{ value: '*', label: 'all' }, ...defenses], state.defense, change('defense'))] : [];
  });
  return () => left().filter((row) => state.defense === '*' || defenseOf(row) === state.defense);
}
