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

// Arrow keys move inside a group of marks; the group is one tab stop.
function rove(nodes, tell) {
  nodes.forEach((node, i) => {
    node.setAttribute('tabindex', i ? '-1' : '0');
    node.addEventListener('focus', () => tell(node));
    node.addEventListener('blur', hideTip);
    node.addEventListener('pointerenter', () => tell(node));
    node.addEventListener('pointerleave', () => { if (document.activeElement !== node) hideTip(); });
    node.addEventListener('keydown', (event) => {
      const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = event.key === 'Home' ? 0 : event.key === 'End' ? nodes.length - 1 : move ? i + move : null;
      if (next === null) return;
      event.preventDefault();
      const target = nodes[Math.min(Math.max(next, 0), nodes.length - 1)];
      node.setAttribute('tabindex', '-1');
      target.setAttribute('tabindex', '0');
      target.focus();
    });
  });
}
