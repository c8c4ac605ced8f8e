// The trace view: one problem, the undefended text beside the defended one.
function tracesView() {
  const host = byId('traces-view');
  if (!DATA.diffs) return host.replaceChildren(empty('diffs.json', 'traces to compare'));
  const { problems, top } = DATA.diffs;
  const state = { problem: 0, arm: null };
  const bar = el('div', { class: 'controls' });
  const view = el('div', { class: 'trace-view' });
  const several = unique(problems.map((p) => p.task)).length > 1;

  function controls() {
    const { arms } = problems[state.problem];
    if (!arms.some((arm) => arm.arm === state.arm)) state.arm = (arms.find((arm) => arm.form !== 'plain') || arms[arms.length - 1]).arm;
    bar.replaceChildren(
      select('problem', problems.map((p, i) => ({ value: String(i), label: several ? `${p.task}: ${p.problem}` : p.problem })), String(state.problem), (value) => { state.problem = Number(value); controls(); draw(); }),
      select('arm', arms.map((arm) => arm.arm), state.arm, (value) => { state.arm = value; draw(); }));
  }
  function draw() {
    hideTip();
    const problem = problems[state.problem];
    const arm = problem.arms.find((item) => item.arm === state.arm);
    const none = problem.arms.find((item) => item.arm === 'none');
    view.replaceChildren(
      el('div', { class: 'prompt' }, el('h3', null, 'Problem'), el('p', { class: 'trace' }, problem.prompt), el('p', { class: 'gold' }, 'Correct answer: ', el('b', null, problem.gold))),
      el('div', { class: 'pair' }, none && none !== arm ? trace(none, top, 'Undefended') : null, trace(arm, top, null)),
      ...(arm.form === 'tokens' ? [scale(top)] : []));
  }
  host.replaceChildren(bar, view);
  controls();
  draw();
}

function trace(arm, top, title) {
  const body = el('p', { class: 'trace' });
  const marks = [];
  for (const piece of arm.pieces) {
    if (piece.removed) body.append(el('del', null, piece.text));
    else if (present(piece.moved) && piece.moved > 0) {
      const node = el('span', { class: 'token', role: 'img', 'aria-label': `${JSON.stringify(piece.text)} moved by ${piece.moved.toFixed(3)} nats`, style: { '--heat': heat(piece.moved, top).toFixed(3) } }, piece.text);
      marks.push({ node, moved: piece.moved });
      body.append(node);
    } else body.append(piece.text);
  }
  rove(marks.map((mark) => mark.node), (node) => showTip(node, [`moved by ${marks.find((mark) => mark.node === node).moved.toFixed(3)} nats`]));
  const verdict = present(arm.correct) ? el('span', { class: `chip ${arm.correct ? 'chip-right' : 'chip-wrong'}` }, arm.correct ? 'answer correct' : 'answer wrong') : null;
  return el('div', { class: 'side' }, el('h3', null, title || arm.arm, ' ', verdict), body, el('p', { class: 'count' }, traceNote(arm)));
}

// Square root: small movements stay visible beside large ones. The middle of the legend is a quarter of the top.
const heat = (moved, top) => (top > 0 ? Math.min(1, Math.sqrt(moved / top)) : 0);

function traceNote(arm) {
  if (arm.form === 'tokens') {
    const moved = arm.pieces.map((piece) => piece.moved).filter(present);
    const sum = moved.reduce((a, b) => a + b, 0);
    return `${moved.length} tokens, moved by ${(sum / Math.max(1, moved.length)).toFixed(3)} nats on average, at most ${Math.max(0, ...moved).toFixed(2)}`;
  }
  if (arm.form === 'removed') {
    const cut = arm.pieces.filter((piece) => piece.removed);
    const size = (pieces) => pieces.reduce((a, piece) => a + piece.text.length, 0);
    return `${cut.length} ${cut.length === 1 ? 'span' : 'spans'} removed, ${Math.round(100 * size(cut) / Math.max(1, size(arm.pieces)))} % of the characters`;
  }
  return arm.arm === 'none' ? 'as the teacher wrote it' : 'no movement or removed span was recorded for this arm';
}

function scale(top) {
  return el('div', { class: 'heat-scale' }, el('span', null, 'moved by, in nats (KL divergence)'),
    el('span', { class: 'ramp' }, el('i', { 'aria-hidden': 'true' }), el('span', null, '0'), el('span', null, significant(top / 4, 2)), el('span', null, `≥ ${significant(top, 2)}`)),
    el('small', null, 'One scale for every trace on this page; its top is the 99th percentile.'));
}
