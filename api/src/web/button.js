// <process-button scope="acme" label="Import"> starts a process once and follows it to its end.
// Attributes: scope, api, label, log, on-running, name. Properties: parameters, token, getToken, execution.
// Methods: start(), cancel(), follow(name). Events: process-starting (cancelable), -started, -changed, -ended.

const TRIES = 10; // sends of one start, all under one key: about a minute
const RESUME_MS = 600_000; // how long a reload takes up a start that had no answer yet
const SILENCE_MS = 45_000; // three heartbeats missed: the connection is dead
const UNLISTED_MS = 30_000; // how long an execution may be unknown after its start
const LINES = 5000; // of the log kept on the page
const FINISHED = ['succeeded', 'failed', 'cancelled'];
const HOME = document.querySelector('script[src*="button.js"]')?.src ?? location.href;

const STYLE = new CSSStyleSheet(); // adopted: a strict Content-Security-Policy forbids <style>
STYLE.replaceSync(`
:host { display: block; --red: color-mix(in oklab, #d93025 75%, currentColor) }
[hidden], p:empty { display: none !important }
[part=controls] { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center }
button { font: inherit; padding: .65em 1.2em; border: 1px solid; border-radius: 8px; background: none; color: inherit }
[part=start] { background: var(--process-accent, #2457c5); color: #fff; border-color: transparent } [aria-disabled=true] { opacity: .55 }
progress { width: 100%; margin-top: .75rem; accent-color: var(--process-accent, auto) }
p { margin: .5rem 0 0; overflow-wrap: anywhere }
[part=problem], [part~=error], :host([state=failed]) [part=status] { color: var(--red) }
[part=log] { display: flex; flex-direction: column-reverse; /* stays at the newest line */ overflow: auto; margin-top: .75rem;
  max-height: var(--process-log-height, 20rem); background: color-mix(in srgb, currentColor 8%, transparent) }
[part=lines] { padding: .75rem; font: .8rem/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
@media (prefers-reduced-motion) { :indeterminate { appearance: none } }`);

const HTML = `
<div part="controls"><button part="start"></button><button part="cancel"></button><span part="elapsed"></span></div>
<progress part="progress" aria-label="Tasks done"></progress>
<p part="status" role="status" aria-live="polite"></p><p part="problem" role="alert"></p>
<div part="log" role="log" aria-live="off" aria-label="Log" tabindex="0"><div part="lines"></div></div>`;

class ProcessButton extends HTMLElement {
  static observedAttributes = ['scope', 'api', 'name', 'label', 'log'];
  #ui = {};
  #run = new AbortController(); // what goes on now: aborting it ends every request, wait and clock
  #execution; // on show
  #cancelling;
  #failures; // in a row, with the one to come

  constructor() {
    super();
    const root = this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [STYLE];
    root.innerHTML = HTML;
    for (const element of root.querySelectorAll('[part]')) this.#ui[element.part] = element;
    this.#ui.start.onclick = () => this.start();
    this.#ui.cancel.onclick = () => this.cancel();
  }

  connectedCallback() { this.#resume(); }
  disconnectedCallback() { this.#run.abort(); }
  attributeChangedCallback(attribute, before, now) {
    if (this.isConnected && before !== now) attribute === 'label' || attribute === 'log' ? this.#paint() : this.#resume();
  }

  get execution() { return this.#execution; } // as the API last told it
  get #busy() { return !this.#run.signal.aborted && !this.#finished; } // the last lines may come after the end
  get #finished() { return FINISHED.includes(this.#execution?.state); }

  /** Starts one execution; resolves with it when accepted, with nothing when refused. */
  async start() {
    if (this.#busy || !this.#emit('process-starting')) return;
    const mode = this.getAttribute('on-running');
    const path = mode ? `process?on_running=${encodeURIComponent(mode)}` : 'process';
    const body = JSON.stringify(this.parameters ?? {});
    const lost = this.#saved; // the same wish, after no answer, goes under the same key
    const key = lost?.path === path && lost.body === body ? lost.key : newKey();
    return this.#send({ key, path, body, at: Date.now() });
  }

  /** Asks for the end of the execution, or gives up a start that has no answer yet. */
  async cancel() {
    if (!this.#busy || this.#cancelling) return;
    if (!this.#execution) return this.#end('Stopped. If it began all the same, starting again finds it.');
    const { signal } = this.#run;
    this.#cancelling = true;
    this.#paint();
    try {
      this.#show(await this.#call(`executions/${this.#execution.name}/cancel`, { method: 'POST', signal }));
    } catch (error) {
      if (signal.aborted) return;
      this.#cancelling = false;
      this.#paint({ problem: failure(error).words });
    }
  }

  /** Shows an execution of this scope, whether it still runs or not. */
  follow(name) {
    this.#begin('pending', 'Looking it up…');
    this.#saved = { name };
    this.#watch(name);
  }

  /** After a reload, or back in this scope: goes on with what went on. */
  #resume() {
    this.#begin('idle', '').abort();
    this.#paint();
    const saved = this.#saved;
    if (saved?.name) this.follow(saved.name);
    else if (Date.now() - saved?.at < RESUME_MS) this.#send(saved);
  }

  async #send(intent) {
    const { key, path, body } = intent;
    const headers = { 'content-type': 'application/json', 'idempotency-key': key };
    const post = (signal) => this.#call(path, { method: 'POST', headers, body, signal });
    const { signal } = this.#begin('starting', 'Starting…');
    this.#saved = intent;
    try {
      const execution = await this.#persist(post, ({ again }) => again && this.#failures < TRIES);
      this.#saved = { name: execution.name };
      this.#emit('process-started', execution);
      this.#show(execution);
      if (!signal.aborted) this.#watch(execution.name); // a listener may have gone on to another
      return execution;
    } catch ({ words, again, status }) {
      if (signal.aborted) return;
      if (!again && status !== 401) this.#saved = null; // for certain nothing began
      this.#end(words);
    }
  }

  /** Follows one execution to its end, through every interruption. */
  async #watch(name) {
    const { signal } = this.#run;
    let [place, began] = ['', Date.now()]; // place: the id of the last event
    const read = async (signal, alive) => {
      if (!place) this.#ui.lines.textContent = ''; // it comes from the beginning
      const headers = { accept: 'text/event-stream', ...(place && { 'last-event-id': place }) };
      const body = await this.#call(`executions/${encodeURIComponent(name)}/events`, { headers, signal }, (response) => response.body);
      this.#paint({ problem: '' });
      for await (const { id, event, data } of events(body, alive)) {
        this.#failures = 1;
        place = id;
        event === 'log' ? this.#log(data) : this.#show(data);
        if (event === 'end') return;
      }
      throw { words: 'The stream was interrupted.' };
    };
    const goOn = ({ status }) => {
      if (status === 400) place = ''; // no longer known there
      return status !== 403 && (status !== 404 || Date.now() - began < UNLISTED_MS);
    };
    await this.#persist(read, goOn).then(() => this.#end(), ({ words }) => signal.aborted || this.#end(words));
  }

  /** Does `task` until it succeeds, with growing pauses, while its failures permit. */
  async #persist(task, permits) {
    const { signal } = this.#run;
    for (this.#failures = 1; ; this.#failures++) {
      const once = new AbortController();
      let timer; // may outlive its attempt, and aborts nothing then
      const alive = () => { clearTimeout(timer); timer = setTimeout(() => once.abort(), SILENCE_MS); };
      try {
        alive();
        return await task(AbortSignal.any([signal, once.signal]), alive);
      } catch (error) {
        once.abort();
        const { words, after = 0, ...rest } = failure(error);
        if (signal.aborted || !permits(rest)) throw { words, ...rest };
        const seconds = Math.max(after, Math.min(15, 2 ** this.#failures / 4) * (0.5 + Math.random()));
        if (seconds > 1) this.#paint({ problem: `${words} Trying again in ${Math.ceil(seconds)} s…` });
        await new Promise((done, stop) => { setTimeout(done, seconds * 1000); signal.addEventListener('abort', stop); });
      }
    }
  }

  async #call(path, init, read = (response) => response.json()) {
    const token = (await this.getToken?.()) ?? this.token;
    const headers = { ...init.headers, ...(token && { authorization: `Bearer ${token}` }) };
    const api = new URL(this.getAttribute('api')?.replace(/\/?$/, '/') ?? HOME, document.baseURI);
    const url = new URL(`scopes/${encodeURIComponent(this.getAttribute('scope') ?? '')}/${path}`, api);
    const response = await fetch(url, { ...init, headers, cache: 'no-store' });
    if (!response.ok) throw await refusal(response);
    return read(response);
  }

  #begin(state, words) {
    this.#run.abort();
    this.#run = new AbortController();
    this.#execution = this.#cancelling = undefined;
    const ticking = setInterval(() => this.#paint(), 1000);
    this.#run.signal.onabort = () => clearInterval(ticking);
    this.#paint({ state, words, problem: '' });
    return this.#run;
  }

  #end(problem) {
    const known = this.#finished;
    this.#run.abort();
    this.#saved = this.#saved?.key ? { ...this.#saved, at: 0 } : null; // for a click to take up, not a reload
    this.#paint(known ? { problem: '' } : { state: 'refused', words: '', problem });
  }

  #show(execution) {
    const [known, ended] = [JSON.stringify(this.#execution), this.#finished];
    this.#execution = execution;
    if (this.#finished) this.#saved = null;
    this.#paint({ state: execution.state, words: describe(execution), problem: '' });
    if (JSON.stringify(execution) !== known) this.#emit('process-changed', execution);
    if (this.#finished && !ended) this.#emit('process-ended', execution);
  }

  #log({ time, severity = '', text }) {
    const textContent = `${new Date(time).toTimeString().slice(0, 8)}  ${text}`;
    const part = `line ${severity.toLowerCase()}`;
    this.#ui.lines.append(Object.assign(document.createElement('div'), { part, textContent }));
    if (this.#ui.lines.childElementCount > LINES) this.#ui.lines.firstChild.remove();
  }

  /** Brings everything on show up to date; what `change` does not say stays. */
  #paint(change = {}) {
    const { start, cancel, elapsed, progress, status, problem, log } = this.#ui;
    const [busy, execution] = [this.#busy, this.#execution];
    const { total = 1, succeeded = 0, failed = 0, cancelled = 0 } = execution?.tasks ?? {};
    if (change.state) this.setAttribute('state', change.state);
    start.textContent = this.getAttribute('label') ?? 'Start';
    start.ariaDisabled = start.ariaBusy = busy; // `disabled` would lose the keyboard's place
    if (!busy && this.shadowRoot.activeElement === cancel) start.focus();
    cancel.hidden = !busy;
    cancel.textContent = this.#cancelling ? 'Cancelling…' : execution ? 'Cancel' : 'Stop';
    cancel.ariaDisabled = Boolean(this.#cancelling);
    Object.assign(progress, { hidden: !busy && !execution, max: total, value: succeeded + failed + cancelled });
    if (busy && !progress.value) progress.removeAttribute('value'); // moves to and fro
    if ('words' in change && status.textContent !== change.words) status.textContent = change.words;
    if ('problem' in change) problem.textContent = change.problem;
    log.hidden = !this.hasAttribute('log') || !execution;
    elapsed.textContent = execution ? clock(execution) : '';
  }

  #emit(type, detail) {
    return this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true, cancelable: true }));
  }

  // Survives a reload: a start that has no answer yet, or the name of what is followed. Some frames have no storage.
  get #drawer() { return ['process-button', ...['api', 'scope', 'name'].map((name) => this.getAttribute(name))].join(' '); }
  get #saved() { try { return JSON.parse(sessionStorage.getItem(this.#drawer)); } catch { return null; } }
  set #saved(value) { try { sessionStorage.setItem(this.#drawer, JSON.stringify(value)); } catch { /* then it does not */ } }
}

/** The server-sent events of a body; their data is JSON. */
async function* events(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, id, event, data] = ['', '', '', []];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, text] = line.match(/^([^:]*):? ?(.*)$/s);
      if (field === 'id') id = text;
      else if (field === 'event') event = text;
      else if (field === 'data') data.push(text);
      else if (!line) {
        if (data.length) yield { id, event, data: JSON.parse(data.join('\n')) };
        [event, data] = ['', []];
      }
    }
  }
}

/** A refusal in words, and whether the same request may be sent again. */
async function refusal(response) {
  const { status, headers } = response;
  const said = headers.get('content-type')?.includes('problem+json') && (await response.json().catch(() => null));
  const again = said ? said.retryable && !said.type?.endsWith('scope-busy') : status === 429 || status >= 500;
  const words = said?.detail || said?.title || `The service answered ${status}.`;
  return { status, words, again, after: Number(headers.get('retry-after')) || 0 };
}

/** Whatever was thrown, in the same shape. An `Error` pure and simple is of `getToken`. */
function failure(error) {
  const words = error.name === 'Error' ? error.message : 'The service cannot be reached.';
  return error.words ? error : { words, again: true };
}

function describe({ state, reason, message, tasks: { total = 1, running, succeeded, failed } = {} }) {
  if (state === 'failed') return `Failed: ${message ?? reason ?? 'no reason was given'}`;
  const counts = [`${succeeded} of ${total} tasks done`, running && `${running} running`, failed && `${failed} failed`];
  return state[0].toUpperCase() + state.slice(1) + (total > 1 ? `: ${counts.filter(Boolean).join(', ')}` : '');
}

function clock({ startedAt, createdAt, completedAt }) {
  const until = Date.parse(completedAt) || Date.now();
  const seconds = Math.max(0, Math.round((until - Date.parse(startedAt ?? createdAt)) / 1000)); // clocks differ
  const parts = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map((part) => String(Math.floor(part)).padStart(2, '0'));
  return parts.join(':').replace(/^00:0?/, '');
}

const newKey = () => crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-'); // no UUID on http

// Not fields, which would overwrite what a page has set before this script ran.
Object.assign(ProcessButton.prototype, { parameters: null, token: null, getToken: null });
customElements.define('process-button', ProcessButton);
