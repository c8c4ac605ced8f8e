// One tenant's timeline: its requests over time, the stances it met, changes of its level, its latest requests.

import { Bars, ago, el, fill, level, number, reasons, span, table, time } from './draw.js';

const byId = (id) => document.getElementById(id);

export class Timeline {
  /** `get` fetches what is at a path below the page. */
  constructor(get) {
    Object.assign(this, { get, name: fromAddress(), data: null, minutes: 60, onchoose: () => {} });
    this.bars = new Bars(byId('timeline-chart'), [['answered', 'answered or left'], ['errors', 'refused or failed']], 'level');
    byId('tenant').addEventListener('change', (event) => this.choose(event.currentTarget.value));
    window.addEventListener('hashchange', () => this.choose(fromAddress()));
  }

  /** Which tenants there are to choose from. */
  offer(names) {
    const select = byId('tenant');
    const known = [...new Set(this.name === null ? names : [...names, this.name])].sort();
    fill(select, known, () => [el('option', { value: '', disabled: '' }, known.length ? 'choose one' : 'none yet'),
      ...known.map((name) => el('option', { value: name }, name || '(no name)'))]);
    select.selectedIndex = this.name === null ? 0 : known.indexOf(this.name) + 1;
  }

  async choose(name, show = false) {
    if (name === this.name && this.data) {
      if (show) byId('timeline').scrollIntoView();
      return;
    }
    this.name = name;
    this.data = null;
    const address = name === null ? location.pathname : `#tenant=${encodeURIComponent(name)}`;
    history.replaceState(null, '', address);
    this.onchoose();
    try {
      await this.refresh();
    } catch {
      return; // the next look at the overview says what is wrong
    }
    if (show) {
      byId('timeline').scrollIntoView();
      byId('tenant').focus({ preventScroll: true });
    }
  }

  async refresh() {
    const { name } = this;
    const found = name === null ? null : await this.get(`data/tenant?name=${encodeURIComponent(name)}`);
    if (name !== this.name) return; // another was chosen meanwhile
    this.data = found;
    this.draw();
  }

  draw() {
    const { data } = this;
    byId('timeline-chart').hidden = !data;
    this.about();
    const rows = data ? data.minutes.slice(-this.minutes).map((one) => ({ ...one, answered: one.requests - one.errors })) : [];
    if (data) this.bars.show(rows);
    const stances = data?.stances ?? [];
    fill(byId('timeline-stances'), [!!data, stances], () => (data ? table('Stances it met', [['Stance', 'name'], ['Requests', 'n']],
      stances.map((one) => [one.name, number(one.count)]), 'None yet.') : []));
    const changes = (data?.changes ?? []).slice().reverse();
    fill(byId('timeline-changes'), [!!data, changes], () => (data ? table('Changes of level that its requests met, the latest first',
      [['Time', 'time'], ['Key', 'id'], ['Level', 'time'], ['Why', 'because']],
      changes.map((one) => [time(one.time, true), one.key || '(no key)', [level(one.before), ' → ', level(one.after)], reasons(one.reasons)]),
      'Its level has not changed.', 6) : []));
    const asked = (data?.requests ?? []).slice().reverse();
    fill(byId('timeline-requests'), [!!data, asked], () => (data ? table(`Its latest requests (at most ${data.kept} are kept)`,
      [['Time', 'time'], ['Stance', 'name'], ['Level', 'n'], ['Status', 'id'], ['Model', 'name'], ['Dialect'], ['Tokens in', 'n'], ['Tokens out', 'n'], ['Took', 'n'], ['Own work', 'n'], ['Why', 'because']],
      asked.map((one) => [time(one.time, true), [one.stance || '–', one.altered ? el('span', { class: 'why' }, 'altered') : null],
        level(one.level), status(one), one.model || '–', [one.dialect, one.streamed ? el('span', { class: 'why' }, 'streamed') : null],
        number(one.prompt), number(one.completion), span(one.took), span(one.work), reasons(one.reasons)]), 'None.', 10) : []));
  }

  about() {
    const { data, name } = this;
    const raised = data ? Object.entries(data.raised) : [];
    const words = name === null ? 'Choose a tenant to see what it asked, how it was answered, and why.'
      : !data ? 'Nothing of this tenant is kept.'
        : `Last seen ${ago(data.seen, data.now)}. ${raised.length ? `Raised at its latest requests: ${raised.map(([key, at]) => `${key ? `key ${key}` : 'it'} at level ${at}`).join(', ')}.` : 'No key of it is raised.'}`;
    fill(byId('timeline-about'), words, () => words);
  }
}

const status = (one) => (one.code ? [String(one.status), el('span', { class: 'why code' }, one.code)] : String(one.status));

/** The tenant that the page's address names, or null. */
function fromAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get('tenant');
  return found;
}
