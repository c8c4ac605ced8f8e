// The trade-off plot: teacher utility against what the thief gets.
const CELLS = new Map();
const RESULTS = rowsOf(DATA.results);
for (const row of RESULTS) {
  if (!present(row.value)) continue;
  const key = JSON.stringify([row.task, row.arm, row.metric]);
  if (!CELLS.has(key)) CELLS.set(key, []);
  CELLS.get(key).push(row);
}
const cells = (task, arm, metric) => CELLS.get(JSON.stringify([task, arm, metric])) || [];
const teacherCell = (task, arm, metric) => cells(task, arm, metric).find((row) => !row.attack);
const highest = (rows) => rows.reduce((best, row) => (!best || row.value > best.value ? row : best), null);
const ANY = '*';

function studentCell(task, arm, metric, student, attack) {
  return highest(cells(task, arm, metric).filter((row) => row.attack && row.attack !== DATA.undistilled &&
    (student === ANY || row.student === student) && (attack === ANY ? !isControl(row.attack) : row.attack === attack)));
}
function undistilledCell(task, metric, student) {
  return highest(RESULTS.filter((row) => row.task === task && row.metric === metric && present(row.value) &&
    row.attack === DATA.undistilled && (student === ANY || row.student === student)));
}

function tradeoff() {
  const plot = byId('tradeoff-plot');
  if (!DATA.leakage.length || !DATA.utilities.length) {
    return plot.replaceChildren(el('p', { class: 'empty' }, 'This run measured no teacher utility or no student, so there is nothing to plot.'));
  }
  const state = { task: DATA.tasks[0].name, student: ANY, attack: ANY, x: DATA.utilities[0], y: DATA.leakage.includes(DATA.headline) ? DATA.headline : DATA.leakage[0], zoom: false, hidden: new Set() };
  const task = () => DATA.tasks.find((item) => item.name === state.task);

  function controls() {
    const set = (key) => (value) => { state[key] = value; if (key === 'task') controls(); update(); };
    const named = (metric) => ({ value: metric, label: labelOf(metric) });
    const { students, attacks } = task();
    if (!students.includes(state.student)) state.student = students.length === 1 ? students[0] : ANY;
    if (!attacks.includes(state.attack)) state.attack = attacks.length === 1 ? attacks[0] : ANY;
    const many = (list, label) => (list.length > 1 ? [{ value: ANY, label }, ...list] : list);
    const zoom = el('button', { type: 'button', id: 'zoom', 'aria-pressed': String(state.zoom), onclick: () => {
      state.zoom = !state.zoom;
      zoom.setAttribute('aria-pressed', String(state.zoom));
      update();
    } }, 'First 5-point drop');
    byId('tradeoff-controls').replaceChildren(
      select('task', DATA.tasks.map((item) => item.name), state.task, set('task')),
      select('student', many(students, 'highest of all'), state.student, set('student')),
      select('attack', many(attacks, 'worst of all'), state.attack, set('attack')),
      select('honest users keep', DATA.utilities.map(named), state.x, set('x')),
      select('the thief gets', DATA.leakage.map(named), state.y, set('y')), zoom);
  }
  function legend() {
    byId('tradeoff-legend').replaceChildren(...task().lines.map((line) => {
      const button = el('button', { type: 'button', 'aria-pressed': String(!state.hidden.has(line.label)), onclick: () => {
        if (!state.hidden.delete(line.label)) state.hidden.add(line.label);
        button.setAttribute('aria-pressed', String(!state.hidden.has(line.label)));
        draw();
      }, onpointerenter: () => emphasize(plot, line.label), onpointerleave: () => emphasize(plot, null) }, swatch(line), line.label,
      line.control ? el('small', null, 'control') : null);
      return button;
    }));
  }
  function update() { legend(); draw(); }
  function draw() { drawTradeoff(plot, state, task()); }

  controls();
  update();
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(plot.clientWidth - width) < 2) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
}

function emphasize(plot, label) {
  for (const group of plot.querySelectorAll('g.series')) group.classList.toggle('faint', label !== null && group.dataset.label !== label);
}

// The measured points of every visible line, the undefended point and the undistilled level.
function gather(state, task) {
  const at = (arm, strength) => {
    const x = teacherCell(task.name, arm, state.x);
    const y = studentCell(task.name, arm, state.y, state.student, state.attack);
    return x && y ? { arm, strength, x, y } : null;
  };
  const start = task.none === null ? null : at(task.none, 0);
  const lines = task.lines.filter((line) => !state.hidden.has(line.label))
    .map((line) => ({ line, points: line.arms.map((arm) => at(arm.arm, arm.strength)).filter(Boolean) }))
    .filter((item) => item.points.length);
  return { start, lines, base: undistilledCell(task.name, state.y, state.student) };
}

const span = (cell) => [cell.low ?? cell.value, cell.high ?? cell.value];
function padded(values, part) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low || 0.1) * part;
  return [low - pad, high + pad];
}

// Domains: everything, or the first five points of drop and what the lines do there.
function domains(state, { start, lines, base }) {
  const all = [...lines.flatMap((item) => item.points), ...(start ? [start] : [])];
  if (!all.length) return null;
  if (!state.zoom || !start) {
    return [padded(all.flatMap((p) => span(p.x)), 0.04), padded([...all.flatMap((p) => span(p.y)), ...(base ? span(base) : [])], 0.05)];
  }
  const x = [start.x.value - 0.055, start.x.value + 0.015];
  const inside = all.filter((p) => p.x.value >= x[0] && p.x.value <= x[1]).flatMap((p) => span(p.y));
  for (const { points } of lines) {
    const path = [start, ...points];
    path.slice(1).forEach((b, i) => {
      const [x0, x1] = [path[i].x.value, b.x.value];
      const share = (x[0] - x0) / (x1 - x0);
      if (share > 0 && share < 1) inside.push(path[i].y.value + share * (b.y.value - path[i].y.value));
    });
  }
  return [x, padded([...inside, ...span(start.y)], 0.06)];
}

function drawTradeoff(plot, state, task) {
  hideTip();
  const data = gather(state, task);
  const found = domains(state, data);
  if (!found) return plot.replaceChildren(el('p', { class: 'empty' }, 'No line is shown: nothing was measured for this choice, or every line is switched off.'));
  const width = Math.max(280, plot.clientWidth);
  const height = Math.round(Math.min(520, Math.max(320, width * 0.56)));
  const frame = { left: 46, right: width - 10, top: 26, bottom: height - 44 };
  const [[x0, x1], [y0, y1]] = found;
  const x = (value) => frame.left + (value - x0) / (x1 - x0) * (frame.right - frame.left);
  const y = (value) => frame.bottom - (value - y0) / (y1 - y0) * (frame.bottom - frame.top);
  const marks = [];
  const inside = svg('g', { 'clip-path': 'url(#plot-clip)' });
  references(inside, data, frame, x, y);
  for (const item of data.lines) inside.append(series(item, data.start, { x, y, frame, x0, x1, state }, marks));
  if (data.start) inside.append(startMark(data.start, x, y, state, marks));
  const image = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'group',
    'aria-label': `${labelOf(state.y)} against ${labelOf(state.x)} on ${task.name}; use the arrow keys to move between marks` },
  svg('defs', null, svg('clipPath', { id: 'plot-clip' }, svg('rect', { x: frame.left, y: frame.top, width: frame.right - frame.left, height: frame.bottom - frame.top }))),
  axes(state, frame, { x, y, x0, x1, y0, y1 }), inside);
  plot.replaceChildren(image);
  tips(marks);
  note(state, data);
}

function axes(state, frame, { x, y, x0, x1, y0, y1 }) {
  const group = svg('g', { class: 'axes' });
  const [sx, sy] = [scaleOf(state.x), scaleOf(state.y)];
  for (const tick of ticks(x0 * sx, x1 * sx, (frame.right - frame.left) / 90)) {
    group.append(svg('path', { class: 'grid', d: `M${x(tick / sx)},${frame.top}V${frame.bottom}` }),
      svg('text', { x: x(tick / sx), y: frame.bottom + 17, 'text-anchor': 'middle' }, significant(tick)));
  }
  for (const tick of ticks(y0 * sy, y1 * sy, (frame.bottom - frame.top) / 55)) {
    group.append(svg('path', { class: 'grid', d: `M${frame.left},${y(tick / sy)}H${frame.right}` }),
      svg('text', { x: frame.left - 7, y: y(tick / sy) + 4, 'text-anchor': 'end' }, significant(tick)));
  }
  const unit = (metric) => ({ share: ', %', points: ', points' })[formOf(metric)] || '';
  group.append(
    svg('text', { class: 'axis-name', x: 0, y: 12 }, `↑ ${labelOf(state.y)}${unit(state.y)}`),
    svg('text', { class: 'axis-name', x: frame.right, y: frame.bottom + 37, 'text-anchor': 'end' }, `${labelOf(state.x)}${unit(state.x)} →`));
  return group;
}

function references(group, { start, base }, frame, x, y) {
  const label = (text, at) => svg('text', { class: 'reference-name', x: frame.left + 6, y: at - 5 }, text);
  if (base) {
    const [low, high] = span(base);
    group.append(svg('rect', { class: 'band', x: frame.left, width: frame.right - frame.left, y: y(high), height: Math.max(0, y(low) - y(high)) }),
      svg('path', { class: 'reference', d: `M${frame.left},${y(base.value)}H${frame.right}` }), label('undistilled', y(base.value)));
  }
  if (start) {
    group.append(svg('path', { class: 'reference', d: `M${frame.left},${y(start.y.value)}H${frame.right}M${x(start.x.value)},${frame.top}V${frame.bottom}` }),
      label('undefended', y(start.y.value)));
  }
}

function series({ line, points }, start, { x, y, x0, x1, state }, marks) {
  const path = start ? [start, ...points] : points;
  const group = svg('g', { class: 'series', 'data-label': line.label, style: { '--k': look(line.kind).color } },
    svg('path', { class: line.control ? 'line control' : 'line', d: `M${path.map((p) => `${x(p.x.value)},${y(p.y.value)}`).join('L')}` }));
  for (const p of points) {
    const [[xl, xh], [yl, yh]] = [span(p.x), span(p.y)];
    const at = `translate(${x(p.x.value)},${y(p.y.value)})`;
    group.append(svg('path', { class: 'bar', d: `M${x(xl)},${y(p.y.value)}H${x(xh)}M${x(p.x.value)},${y(yl)}V${y(yh)}` }),
      svg('path', { class: 'mark', transform: at, d: markerOf(line) }));
    if (p.x.value < x0 || p.x.value > x1) continue;
    const lines = describe(p, line.label, state);
    const node = svg('circle', { class: 'hit', cx: x(p.x.value), cy: y(p.y.value), r: 11, role: 'img', 'aria-label': lines.join('. ') });
    group.append(node);
    marks.push({ node, lines });
  }
  return group;
}

function startMark(start, x, y, state, marks) {
  const lines = describe(start, 'undefended', state);
  const node = svg('circle', { class: 'hit', cx: x(start.x.value), cy: y(start.y.value), r: 11, role: 'img', 'aria-label': lines.join('. ') });
  marks.unshift({ node, lines });
  return svg('g', null, svg('circle', { class: 'start', cx: x(start.x.value), cy: y(start.y.value), r: 5 }), node);
}

function describe(p, title, state) {
  const one = (metric, cell) => `${labelOf(metric)} ${number(metric, cell.value)}${unitOf(metric)} ${interval(metric, cell.low, cell.high)}`;
  return [
    title === 'undefended' ? `undefended (${p.arm})` : p.arm,
    one(state.x, p.x), one(state.y, p.y), `student ${p.y.student}, attack ${p.y.attack}`, counts(p.y),
  ].filter(Boolean);
}

function note(state, { start, base }) {
  const parts = [];
  if (state.student === ANY || state.attack === ANY) {
    parts.push('Every mark shows the highest value over the students and attacks that were chosen, with that cell’s own interval; the choice of the highest is not corrected for.');
  }
  if (!base) parts.push('There is no undistilled reference for this measure.');
  if (!start) parts.push('The run has no undefended arm for this choice.');
  byId('tradeoff-note').textContent = parts.join(' ');
}
