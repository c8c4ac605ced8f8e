// The overview: fetched every few seconds, drawn where it changed. The timeline of a tenant is in tenant.js.

import { Bars, ago, clock, el, fill, histogram, level, number, percent, rate, reasons, share, span, table, time } from './draw.js';
import { Timeline } from './tenant.js';

const EVERY = 5000; // milliseconds
const byId = (id) => document.getElementById(id);
const base = `${location.origin}${location.pathname}`; // without what an address may hold of a password
const state = { paused: false, timer: 0, minutes: 60, last: null };

const traffic = new Bars(byId('requests'), [['answered', 'answered'], ['left', 'left by the client'], ['refused', 'refused'], ['failed', 'failed']]);
const tokens = new Bars(byId('tokens'), [['prompt', 'of prompts'], ['completion', 'of replies']]);
const timeline = new Timeline(get);

/** What is at an address of this page. Throws where there is no answer, or none that helps. */
async function get(path) {
  const reply = await fetch(`${base}${path}`, { cache: 'no-store', credentials: 'same-origin', headers: { accept: 'application/json' } });
  if (reply.status === 404) return null;
  if (!reply.ok) throw new Error(reply.status === 401 ? 'The token is not accepted any more; load the page again.' : `The gateway answers ${reply.status}.`);
  return reply.json();
}

function notice(text, bad = false) {
  const node = byId('notice');
  node.classList.toggle('bad', bad);
  if (node.textContent !== text) node.textContent = text;
  node.hidden = !text;
}

function about(data) {
  const { server } = data;
  const said = [`policy ${server.policy}`, `up ${span(Math.round(data.now - data.began))}`, `read at ${clock(data.now, true)}`];
  if (server.draining) said.unshift('stopping');
  if (state.paused) said.push('paused');
  fill(byId('about'), said, () => said.map((one) => el('span', {}, one)));
  const told = [];
  if (server.policy_error) told.push(`The policy's file was refused, the old policy stays: ${server.policy_error}`);
  if (server.answering < server.processes) told.push(`${server.answering} of ${server.processes} server processes answered; what the others served is missing here.`);
  notice(told.join(' '));
}

function tiles(data) {
  const { window, minutes, server, detection } = data;
  const recent = minutes.slice(-6, -1); // whole minutes
  const mean = (key) => recent.reduce((sum, one) => sum + key(one), 0) / Math.max(1, recent.length);
  const sum = (one) => one.answered + one.refused + one.failed + one.left;
  const { answered, refused, failed, left } = window.outcomes;
  const all = answered + refused + failed + left;
  const raised = detection ? detection.raised.reduce((many, one) => many + one.count, 0) : null;
  const shown = [
    ['Requests a minute', rate(mean(sum)), 'mean of five'],
    ['Tokens a minute', rate(mean((one) => one.prompt + one.completion)), 'mean of five'],
    ['Under way', number(server.active), server.draining ? 'stopping' : ''],
    ['Failed or refused', all ? percent((failed + refused) / all) : '–', `${number(failed)} failed, ${number(refused)} refused in the last hour`, failed ? 'bad' : ''],
    ['Own work, median', span(window.overhead.p50), `99 % below ${span(window.overhead.p99)}`],
    ['Raised now', raised === null ? '–' : number(raised), raised === null ? 'no detection' : 'keys, tenants, clusters', raised ? 'doubt' : ''],
  ];
  fill(byId('tiles'), shown, () => shown.map(([title, value, small, kind]) => el('div', {},
    el('dt', {}, title), el('dd', { class: kind }, value, el('small', {}, small)))));
}

function choices(length) {
  const select = byId('span');
  const wanted = [30, 60, 180, 360, 720, 1440].filter((n) => n < length).concat(length);
  fill(select, wanted, () => wanted.map((n) => el('option', { value: n, selected: n === state.minutes }, n < 120 ? `${n} minutes` : `${n / 60} hours`)));
  if (!wanted.includes(state.minutes)) state.minutes = Math.min(60, length);
  select.value = String(state.minutes);
}

function charts(data) {
  choices(data.minutes.length);
  const rows = data.minutes.slice(-state.minutes);
  traffic.show(rows);
  tokens.show(rows);
  timeline.minutes = state.minutes;
  const some = rows.filter((row) => row.answered + row.refused + row.failed + row.left).reverse();
  fill(document.querySelector('#traffic-table .holder'), some, () => table(
    'Minutes with traffic, the latest first',
    [['Minute'], ['Answered', 'n'], ['Refused', 'n'], ['Failed', 'n'], ['Left', 'n'], ['Prompt tokens', 'n'], ['Reply tokens', 'n'], ['Own work, mean', 'n']],
    some.map((row) => [time(row.at), ...[row.answered, row.refused, row.failed, row.left, row.prompt, row.completion].map(number), span(row.work / (row.answered + row.refused + row.failed + row.left))]),
    'No traffic in these minutes.'));
}

function counted(node, title, first, rows, empty) {
  const all = rows.reduce((sum, one) => sum + one.count, 0);
  fill(node, rows, () => table(title, [[first, 'name'], ['Requests', 'n'], ['Share', 'n'], ['', 'wide']],
    rows.map((one) => [one.name, number(one.count), percent(one.count / all), share(one.count / all)]), empty));
}

function suspicion(data) {
  const { window, detection } = data;
  const words = detection === null
    ? 'Extraction detection is not set up, so every level is 0; it is `signals` in the server\'s file.'
    : `${number(detection.keys)} keys, ${number(detection.tenants)} tenants and ${number(detection.clusters)} clusters of linked tenants are followed; ${number(detection.requests)} requests seen, ${number(detection.dropped)} prompts dropped.${detection.calibrated ? '' : ' There is no calibration: nothing is raised.'}`;
  fill(byId('detection'), words, () => words);
  const raised = (n) => (detection ? detection.raised.filter((one) => one.level === n).map((one) => `${number(one.count)} ${one.of}${one.count > 1 ? 's' : ''}`).join(', ') : '');
  const levels = window.levels.map((count, n) => [n, count, raised(n)]).reverse();
  fill(byId('levels'), levels, () => table('By level', [['Level'], ['Requests, last hour', 'n'], ['Raised now']],
    levels.map(([n, count, who]) => [level(n), number(count), who || '–'])));
  const changes = (detection?.changes ?? []).slice().reverse();
  fill(byId('changes'), changes, () => table('Changes, the latest first', [['Time', 'time'], ['Who', 'name'], ['Level', 'time'], ['Why', 'because']],
    changes.map((one) => [time(one.time), [el('span', { class: 'of' }, one.of), ` ${one.name}`], [level(one.before), ' → ', level(one.after)], reasons(one.reasons)]),
    'No level has changed since the start.', 6));
}

function upstreams(data) {
  const rows = data.upstreams;
  const shown = rows.map((one) => [one.name, one.state, number(one.replies), number(one.failures), said(one, data.now)]);
  fill(byId('upstreams'), shown, () => table('Upstreams, since the start', [['Upstream', 'name'], ['State'], ['Replies', 'n'], ['Failures', 'n'], ['Latest']],
    shown.map(([name, word, ...rest]) => [name, el('span', { class: `state-${word.split(' ')[0]}` }, word), ...rest])));
}

function said(one, now) {
  if (one.state === 'failing') return `${one.code}, ${ago(one.failed_at, now)}; ${number(one.failed)} in a row`;
  if (!one.replied_at) return '–';
  return `reply ${ago(one.replied_at, now)}${one.failed_at ? `; ${one.code} ${ago(one.failed_at, now)}` : ''}`;
}

function tenants(data) {
  const chosen = timeline.name;
  const rows = data.tenants.map((one) => [one.name, one.requests, one.errors, one.tokens, one.level, ago(one.seen, data.now)]);
  fill(byId('tenants'), [rows, data.forgotten, chosen], () => [
    table('Last hour, the latest first', [['Tenant', 'name'], ['Requests', 'n'], ['Not answered', 'n'], ['Tokens', 'n'], ['Level', 'n'], ['Latest', 'n']],
      rows.map(([name, requests, errors, used, at, latest]) => Object.assign(
        [el('button', { type: 'button', class: 'link', 'data-focus': name, onclick: () => timeline.choose(name, true) }, name || '(no name)'),
          number(requests), number(errors), number(used), level(at), latest],
        { is: { class: name === chosen ? 'chosen' : undefined } })),
      'Nobody has asked anything yet.', 10),
    data.forgotten ? el('p', { class: 'intro' }, `${number(data.forgotten)} more were here before, and are not kept.`) : null,
  ]);
  timeline.offer(data.tenants.map((one) => one.name));
}

function draw(data) {
  state.last = data;
  about(data);
  tiles(data);
  charts(data);
  counted(byId('stances'), 'Stances served', 'Stance', data.window.stances, 'No request has reached a stance in the last hour.');
  counted(byId('codes'), 'Refusals and failures', 'Code', data.window.codes, 'None in the last hour.');
  suspicion(data);
  histogram(byId('overhead'), data.window.overhead);
  upstreams(data);
  tenants(data);
}

async function refresh() {
  clearTimeout(state.timer);
  try {
    const data = await get('data');
    if (data) draw(data);
    await timeline.refresh();
    document.documentElement.dataset.ready = 'yes';
  } catch (error) {
    const since = state.last ? ` What is below was read at ${clock(state.last.now, true)}.` : '';
    notice(`${error instanceof TypeError ? 'The gateway does not answer.' : error.message}${since}`, true);
  }
  if (!state.paused && !document.hidden) state.timer = setTimeout(refresh, EVERY);
}

byId('pause').addEventListener('click', (event) => {
  state.paused = !state.paused;
  event.currentTarget.setAttribute('aria-pressed', String(state.paused));
  if (state.paused) clearTimeout(state.timer);
  if (state.paused && state.last) about(state.last);
  else refresh();
});
byId('span').addEventListener('change', (event) => {
  state.minutes = Number(event.currentTarget.value);
  if (state.last) charts(state.last);
  timeline.draw();
});
document.addEventListener('visibilitychange', () => (document.hidden || state.paused ? clearTimeout(state.timer) : refresh()));
timeline.onchoose = () => state.last && tenants(state.last);
refresh();
