// Small multiples: training against held-out loss, one panel per arm.
function lossesView() {
  const host = byId('losses-view');
  if (!DATA.losses || !DATA.losses.length) return host.replaceChildren(empty('losses.parquet', 'losses'));
  const state = {};
  const keys = ['task', 'student', 'attack'].map((key) => ({ key, label: key }));
  const bar = el('div', { class: 'controls' });
  const grid = el('div', { class: 'panels' });
  const samples = [['train', 'training'], ['holdout', 'held out'], ['ghost', 'held out, undefended arm']];
  cascade(bar, DATA.losses, keys, state, draw,
    () => [el('div', { class: 'key' }, ...samples.map(([name, label]) => el('span', null, keySample(name), label)))]);
  function draw() {
    const shown = DATA.losses.filter((s) => keys.every(({ key }) => s[key] === state[key]));
    const order = armOrder(state.task);
    const arms = unique(shown.map((s) => s.arm)).sort((a, b) => order(a) - order(b));
    const task = DATA.tasks.find((item) => item.name === state.task);
    const ghosts = shown.filter((s) => task && s.arm === task.none && s.split === 'holdout');
    const values = shown.flatMap((s) => s.loss).filter(present);
    const steps = shown.flatMap((s) => s.step).sort((a, b) => a - b);
    const [low, top] = [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
    const log = low > 0 && top / low > 3;
    const scale = { log, top: log ? top * 1.05 : top, low: log ? low / 1.1 : Math.min(0, low), last: Math.max(1, steps[steps.length - 1] || 1) };
    grid.replaceChildren(...arms.map((arm) => panel(arm, shown.filter((s) => s.arm === arm), task && arm === task.none ? [] : ghosts, scale, task)));
  }
  host.replaceChildren(bar, grid);
  draw();
}

const keySample = (name) => svg('svg', { width: 26, height: 8, 'aria-hidden': 'true', style: { '--k': 'var(--ink)' } }, svg('path', { class: `curve ${name}`, d: 'M1,4H25' }));

function panel(arm, curves, ghosts, { log, top, low, last }, task) {
  const [width, height, left, bottom] = [240, 132, 26, 18];
  const x = (step) => left + step / last * (width - left - 4);
  const f = log ? Math.log : (loss) => loss;
  const y = (loss) => 6 + (f(top) - f(loss)) / (f(top) - f(low) || 1) * (height - bottom - 6);
  const path = (s) => `M${s.step.map((step, i) => [x(step), y(s.loss[i])]).filter((p) => Number.isFinite(p[1])).map((p) => p.map((v) => v.toFixed(1)).join()).join('L')}`;
  const line = task && lineOfArm(task.name, arm);
  const image = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${arm}: ${summary(curves)}`, style: { '--k': line ? look(line.kind).color : 'var(--ink)' } });
  for (const tick of log ? logTicks(low, top) : ticks(low, top, 3)) {
    image.append(svg('path', { class: 'grid', d: `M${left},${y(tick)}H${width - 4}` }), svg('text', { x: left - 5, y: y(tick) + 3.5, 'text-anchor': 'end' }, significant(tick)));
  }
  image.append(svg('text', { x: left, y: height - 3 }, '0'), svg('text', { x: width - 4, y: height - 3, 'text-anchor': 'end' }, `step ${last.toLocaleString('en-US')}`));
  for (const s of ghosts) image.append(svg('path', { class: 'curve ghost', d: path(s) }));
  for (const s of curves) image.append(svg('path', { class: `curve ${s.split === 'train' ? 'train' : 'holdout'}`, d: path(s) }));
  return el('figure', { class: 'panel' }, el('figcaption', null, el('b', null, arm), el('span', null, summary(curves))), image);
}

function logTicks(low, top) {
  const found = [-3, -2, -1, 0, 1, 2].flatMap((e) => [1, 2, 5].map((m) => m * 10 ** e)).filter((v) => v >= low && v <= top);
  return found.map((v) => Number(v.toPrecision(3)));
}

// The last step's losses, as means over the seeds.
function summary(curves) {
  const mean = (split) => {
    const ends = curves.filter((s) => s.split === split).map((s) => s.loss[s.loss.length - 1]).filter(present);
    return ends.length ? ends.reduce((a, b) => a + b, 0) / ends.length : null;
  };
  const [train, held] = [mean('train'), mean('holdout')];
  return [
    present(train) ? `training ${train.toFixed(2)}` : null, present(held) ? `held out ${held.toFixed(2)}` : null,
  ].filter(Boolean).join(', ');
}
