
// ---- the element

const STYLE = new CSSStyleSheet(); // adopted: a strict Content-Security-Policy forbids <style>
STYLE.replaceSync(CSS_TEXT);

/** Properties that are attributes: what is not said is `null`. */
const ATTRIBUTES = {
  scope: 'scope', process: 'process', api: 'api', label: 'label', name: 'name',
  ifRunning: 'if-running', onRunning: 'on-running', usualSeconds: 'usual-seconds',
};

class ProcessButton extends HTMLElement {
  static observedAttributes = ['scope', 'process', 'api', 'name', 'label', 'log', 'usual-seconds'];
  #ui = {};
  #log;
  #phase = 'idle'; // or starting, looking, following, over
  #run = new AbortController(); // aborting it ends the current requests, waits and clocks
  #drawn; // draws the execution that is shown
  #left = false; // removed from the document while it was working
  #name; // of the execution that is followed
  #place = ''; // the id of the last event
  #execution; // the one that is shown
  #progress;
  #results = [];
  #ended = false; // whether process-ended was sent
  #last; // the timer that sends it
  #cancelling = false;
  #failures; // in a row, including the next one
  #outage; // the kind of outage that was announced
  #retryAt = 0;
  #retry; // ends the pause before the next attempt
  #once; // the attempt
  #heard = 0; // when the service last sent something
  #parameters = null;
  #json = null; // the parameters as text, if they were set so
  #token = null;
  #getToken = null;

  constructor() {
    super();
    const root = this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [STYLE];
    this.#log = new Log(() => this.#download());
    const button = (part, onclick) => make('button', { type: 'button', part, onclick });
    root.append(
      make('div', { part: 'controls' }, button('start', () => this.start()), button('cancel', () => this.cancel()), make('span', { part: 'elapsed' })),
      make('progress', { part: 'progress', ariaLabel: 'Progress' }),
      make('p', { part: 'message' }),
      make('p', { part: 'status', role: 'status', ariaLive: 'polite' }),
      make('div', { part: 'problem' }, make('span', { part: 'words', role: 'alert' }), make('span', { part: 'retry' }), make('span', { part: 'actions' })),
      make('div', { part: 'result', hidden: true }),
      this.#log.element,
    );
    for (const element of root.querySelectorAll('[part]')) this.#ui[element.part] = element;
    this.#ui.start.onkeydown = (event) => { if (event.repeat && event.key !== 'Tab') event.preventDefault(); }; // a held key is one start
    this.#log.clear();
  }

  connectedCallback() {
    for (const name of [...Object.keys(ATTRIBUTES), 'log', 'parameters', 'token', 'getToken']) {
      if (!Object.hasOwn(this, name)) continue; // set before this class was known
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    if (this.#drawn !== this.#drawer) this.#resume();
    else if (this.#left) this.#goOn();
    this.#left = false;
  }

  disconnectedCallback() {
    queueMicrotask(() => { // else it was only moved
      if (this.isConnected) return;
      this.#left = ['starting', 'looking', 'following'].includes(this.#phase);
      this.#run.abort();
    });
  }

  connectedMoveCallback() {}

  attributeChangedCallback(attribute, before, now) {
    if (!this.isConnected || before === now) return;
    ['label', 'log', 'usual-seconds'].includes(attribute) ? this.#paint() : this.#resume();
  }

  get execution() { return this.#execution; } // as the API last returned it
  get progress() { return this.#progress; } // as the job last reported it
  get result() { return this.#results.length > 1 ? this.#results.map(({ value }) => value) : this.#results[0]?.value; }
  get log() { return !['false', null].includes(this.getAttribute('log')); }
  set log(on) { this.toggleAttribute('log', on !== false && on !== 'false' && on != null); }
  get parameters() { return this.#parameters ?? JSON.parse(this.getAttribute('parameters') ?? 'null'); }
  set parameters(value) {
    this.#json = typeof value === 'string' ? value : null;
    this.#parameters = this.#json === null ? value ?? null : JSON.parse(value);
  }
  get token() { return this.#token; }
  set token(value) {
    this.#token = value ?? null;
    this.#retry?.(); // ends the wait for a sign-in
  }
  get getToken() { return this.#getToken; }
  set getToken(value) { this.#getToken = value ?? null; }

  get #busy() { return this.#phase === 'starting' || (this.#phase === 'following' && !this.#finished); }
  get #finished() { return FINISHED.includes(this.#execution?.state); } // the last lines may come after that

  /** Starts one execution; resolves with it when accepted, with nothing when refused. */
  async start() {
    if (this.#busy || !this.#emit('process-starting')) return;
    if (!this.scope) return this.#refuse(refusal('This button has no scope yet.'));
    const mode = this.ifRunning ?? this.onRunning;
    const process = this.process ? `process/${encodeURIComponent(this.process)}` : 'process';
    const path = mode ? `${process}?on_running=${encodeURIComponent(mode)}` : process;
    let body;
    try {
      body = JSON.stringify(this.parameters ?? {});
      const text = this.#parameters === null ? this.getAttribute('parameters') : this.#json;
      if (text !== null && !areExact(text)) body = text; // with the digits that the page wrote
    } catch {
      return this.#refuse(refusal('The attribute parameters is not JSON.'));
    }
    const lost = this.#saved.intent; // a start without an answer is repeated with the same key
    const same = lost?.path === path && lost.body === body && Date.now() - lost.made < SAME_WISH_MS;
    return this.#send(same ? { ...lost, at: Date.now() } : { key: newKey(), path, body, made: Date.now(), at: Date.now() });
  }

  /** Asks for the end of the execution, or gives up a start that has no answer yet. */
  async cancel() {
    if (this.#phase === 'looking') return this.#rest();
    if (!this.#busy || this.#cancelling) return;
    if (this.#phase === 'starting') return this.#end(refusal('Stopped. If it began all the same, starting again finds it.'));
    const { signal } = this.#run;
    this.#cancelling = true;
    this.#paint();
    try {
      const limited = AbortSignal.any([signal, AbortSignal.timeout(SILENCE_MS)]);
      this.#show(await this.#call(`executions/${encodeURIComponent(this.#name)}/cancel`, { method: 'POST', signal: limited }));
    } catch (error) {
      if (signal.aborted) return;
      this.#cancelling = false;
      this.#complain(asRefusal(error));
    }
  }

  /** Shows an execution of this scope, whether it still runs or not; without a name, none. */
  follow(name) {
    if (!name) return this.#rest();
    const { intent } = this.#saved; // its key is kept: a click repeats it, a reload does not
    this.#begin('looking', 'pending', 'Looking it up…');
    this.#saved = { name, intent: intent && { ...intent, at: 0 } };
    this.#watch(name, false);
  }

  /** After a reload, or for another scope: goes on with what went on. */
  #resume() {
    const { name, intent } = this.#saved;
    if (Date.now() - intent?.at < RESUME_MS) this.#send(intent);
    else if (name) this.follow(name);
    else this.#rest();
  }

  #rest() {
    this.#begin('idle', 'idle', '').abort();
    this.#saved = { intent: this.#saved.intent };
  }

  /** Back in the document: goes on where it was. */
  #goOn() {
    if (this.#phase === 'starting') return this.#resume();
    this.#tick();
    this.#watch(this.#name, false);
  }

  async #send(intent) {
    const { key, path, body } = intent;
    const headers = { 'content-type': 'application/json', 'idempotency-key': key };
    const post = (signal) => this.#call(path, { method: 'POST', headers, body, signal });
    const mayRepeat = ({ again, status }) => (again && this.#failures < TRIES) || (status === 401 && this.#getToken && this.#failures === 1);
    const { signal } = this.#begin('starting', 'starting', 'Starting…');
    this.#saved = { intent };
    try {
      const execution = await this.#persist(post, mayRepeat);
      this.#saved = { name: execution.name };
      this.#phase = 'following';
      this.#name = execution.name;
      this.#emit('process-started', execution);
      if (signal.aborted) return execution; // a listener follows another execution now
      this.#show(execution);
      if (!signal.aborted) this.#watch(execution.name, true);
      return execution;
    } catch (failed) {
      if (signal.aborted) return;
      if (!failed.again && failed.status !== 401) this.#saved = {}; // certainly nothing was started
      const unknown = failed.again && ' Whether it has started is not known: start again, and it starts once.';
      this.#end(unknown ? refusal(failed.message + unknown, { ...failed }) : failed);
    }
  }

  /** Follows one execution to its end, through every interruption. */
  async #watch(name, own) {
    const { signal } = this.#run;
    const began = Date.now();
    let missing = false; // lines
    this.#name = name;
    const path = `executions/${encodeURIComponent(name)}`;
    const read = async (signal, alive) => {
      if (!this.#place) this.#log.clear(); // the stream begins at the first line
      const headers = { accept: 'text/event-stream', ...(this.#place && { 'last-event-id': this.#place }) };
      const body = await this.#call(`${path}/events`, { headers, signal }, (response) => response.body);
      if (!body) return this.#show(await this.#call(path, { signal })); // 204: there is nothing after that event
      this.#recover();
      for await (const { comment, id, event, data } of events(body, alive)) {
        if (comment) missing ||= comment.startsWith('lines may be missing');
        if (comment) continue;
        this.#failures = 1;
        this.#place = id;
        if (event === 'log') this.#log.add(data);
        else if (event === 'progress') this.#advance(data);
        else this.#show(data);
        if (event !== 'end') continue;
        missing ||= data.linesComplete === false;
        return;
      }
      throw refusal('The stream was interrupted.');
    };
    const goesOn = ({ status }) => {
      if (status === 400) this.#place = ''; // no longer known there
      return status !== 403 && (status !== 404 || (own && Date.now() - began < UNLISTED_MS));
    };
    try {
      await this.#persist(read, goesOn);
      this.#end();
      if (missing) await this.#fill(this.#run.signal);
    } catch (failed) {
      if (!signal.aborted) this.#end(asRefusal(failed));
    }
  }

  /** Reads the log once more, after the stream said that lines are missing. */
  async #fill(signal) {
    await new Promise((done) => { setTimeout(done, LATE_LINES_MS); });
    if (signal.aborted) return;
    const lines = [];
    for await (const page of this.#pages(signal)) lines.push(...page);
    if (signal.aborted) return;
    this.#log.clear();
    lines.forEach((line) => this.#log.add(line));
  }

  /** The whole log, page by page. */
  async* #pages(signal) {
    const path = `executions/${encodeURIComponent(this.#name)}/logs`;
    let next = '';
    do {
      const { lines, nextPage } = await this.#call(`${path}${next && `?page=${encodeURIComponent(next)}`}`, { signal });
      yield lines;
      next = nextPage;
    } while (next);
  }

  async #download() {
    const name = this.#name;
    const parts = [];
    for await (const lines of this.#pages()) {
      parts.push(...lines.map(({ time, severity = 'DEFAULT', task, text }) => `${time} ${severity} ${task === undefined ? '' : `[${task}] `}${text}\n`));
    }
    const href = URL.createObjectURL(new Blob(parts, { type: 'text/plain' }));
    make('a', { href, download: `${name}.log` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  }

  /** Does `task` until it succeeds, with growing pauses, while its failures permit. */
  async #persist(task, permits) {
    const { signal } = this.#run;
    for (this.#failures = 1; ; this.#failures++) {
      const once = this.#once = new AbortController();
      let timer; // may outlive its attempt, and aborts nothing then
      let silent = false;
      const listen = () => {
        this.#heard = Date.now();
        clearTimeout(timer);
        timer = setTimeout(() => { silent = true; once.abort(); }, SILENCE_MS);
      };
      const alive = () => {
        listen();
        if (this.#outage) this.#recover();
      };
      try {
        listen();
        const done = await unlessAborted(task(AbortSignal.any([signal, once.signal]), alive), once.signal, signal);
        clearTimeout(timer);
        this.#recover();
        return done;
      } catch (error) {
        clearTimeout(timer);
        const cut = once.signal.aborted;
        once.abort();
        const failed = cut ? refusal(silent ? 'Nothing comes from the service: the connection may be dead.' : 'The connection was lost.') : asRefusal(error);
        if (signal.aborted || !permits(failed)) throw failed;
        await this.#pause(failed, silent);
      }
    }
  }

  /** Waits before the next attempt, and says so if that takes longer than a moment. */
  async #pause(failed, silent) {
    const { signal } = this.#run;
    const waits = failed.status === 401 && (!this.#getToken || this.#failures > 3); // for the user to sign in
    const grown = Math.min(15, 2 ** this.#failures / 4) * (0.5 + Math.random());
    const seconds = waits ? Infinity : Math.max(failed.after, grown);
    this.#retryAt = waits ? 0 : Date.now() + seconds * 1000;
    if (seconds > 1 || silent || this.#outage) {
      const kind = failed.status === 401 ? 'sign-in' : 'outage'; // one outage is announced once, whatever comes of its attempts
      if (!this.#outage || (kind === 'sign-in' && this.#outage !== kind)) this.#complain(failed);
      this.#outage = kind;
    }
    this.#paint();
    const ready = new Promise((done, stop) => {
      if (!failed.after) this.#retry = done; // a wait that the service asked for is not shortened
      const timer = waits || setTimeout(done, seconds * 1000);
      signal.addEventListener('abort', () => { clearTimeout(timer); stop(signal.reason); });
    });
    await ready;
    this.#retry = undefined;
    this.#retryAt = 0;
    this.#paint();
  }

  /** The device is back from sleep or the network is back: looks now, not later. */
  #wake() {
    if (document.hidden) return;
    this.#retry?.();
    if (this.#outage === 'offline' || Date.now() - this.#heard > HEARTBEAT_MS) this.#once?.abort();
  }

  #sleep() {
    if (this.#outage) return;
    this.#outage = 'offline';
    this.#complain(refusal('This device is offline. It goes on when the network is back.'));
  }

  #recover() {
    this.#outage = undefined;
    this.#complain();
  }

  async #call(path, init, read) {
    const token = (await this.#getToken?.()) ?? this.#token;
    const api = new URL(this.api ? this.api.replace(/\/?$/, '/') : HOME, document.baseURI);
    const url = new URL(`scopes/${encodeURIComponent(this.scope ?? '')}/${path}`, api);
    return call(url, { ...init, token }, read);
  }

  #begin(phase, state, words) {
    this.#run.abort();
    this.#run = new AbortController();
    this.#phase = phase;
    this.#drawn = this.#drawer;
    this.#execution = this.#progress = this.#outage = this.#name = undefined;
    this.#results = [];
    this.#ended = this.#cancelling = false;
    clearTimeout(this.#last);
    this.#last = undefined;
    this.#place = '';
    this.#retryAt = 0;
    this.#tick();
    this.#complain();
    this.#paint({ state, words });
    return this.#run;
  }

  /** A clock, and an ear for the device coming back, for as long as something goes on. */
  #tick() {
    if (this.#run.signal.aborted) this.#run = new AbortController();
    const { signal } = this.#run;
    const ticking = setInterval(() => this.#paint(), 1000);
    signal.addEventListener('abort', () => clearInterval(ticking));
    const wake = () => this.#wake();
    for (const type of ['online', 'focus', 'pageshow']) addEventListener(type, wake, { signal });
    document.addEventListener('visibilitychange', wake, { signal });
    addEventListener('offline', () => this.#sleep(), { signal });
  }

  /** Nothing goes on any more; `failed` says why, unless the execution has ended. */
  #end(failed) {
    this.#log.flush();
    this.#phase = 'over';
    this.#retryAt = 0;
    this.#outage = undefined;
    const { intent } = this.#saved;
    this.#saved = { intent: intent && { ...intent, at: 0 } }; // a click repeats it, a reload does not
    this.#run.abort();
    this.#run = new AbortController();
    if (!this.#finished) return this.#refuse(failed);
    this.#complain();
    this.#paint();
    this.#tellEnd();
  }

  #refuse(failed) {
    this.#paint({ state: 'refused', words: '' });
    this.#complain(failed);
    if (!failed) return;
    const { status, slug, message, requestId, execution, errors } = failed;
    this.#emit('process-refused', { status, type: slug, message, requestId, execution, errors });
  }

  #show({ results, linesComplete, ...execution }) {
    const known = JSON.stringify(this.#execution);
    if (this.#phase === 'looking') this.#phase = 'following';
    this.#execution = execution;
    if (execution.progress) this.#progress = execution.progress;
    if (results?.length) this.#results = results;
    if (this.#finished) this.#log.flush();
    if (this.#finished) this.#saved = { intent: this.#saved.intent };
    if (this.#finished && !this.#last) {
      this.#last = setTimeout(() => this.#tellEnd(), LAST_LINES_MS); // in case its last lines do not arrive
    }
    this.#log.logUri = execution.logUri;
    this.#paint({ state: execution.state, words: describe(execution) });
    if (JSON.stringify(execution) !== known) this.#emit('process-changed', execution);
  }

  #tellEnd() {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#last);
    const reported = this.#results.length && { result: this.result, results: this.#results };
    this.#emit('process-ended', { ...this.#execution, ...reported });
  }

  #advance(progress) {
    this.#progress = progress;
    this.#paint();
    this.#emit('process-progress', progress);
  }

  /** Shows what went wrong and what can be done about it; nothing if nothing did. */
  #complain(failed) {
    const { problem, words, actions } = this.#ui;
    const said = failed?.message ?? '';
    if (words.textContent !== said) words.textContent = said;
    problem.hidden = !said;
    const offers = [];
    if (failed?.signIn) offers.push(make('a', { part: 'sign-in', href: new URL('.', new URL(this.api || HOME, document.baseURI)), target: '_blank', textContent: 'Sign in again' }));
    if (failed?.execution && failed.slug === 'scope-busy') {
      const { execution } = failed;
      offers.push(make('button', { type: 'button', part: 'follow', textContent: 'Follow the one that is running', onclick: () => this.follow(execution) }));
    }
    if (failed?.requestId) {
      offers.push(make('span', { part: 'request', textContent: `Request ${failed.requestId}` }));
      if (navigator.clipboard) {
        const copy = make('button', { type: 'button', part: 'copy-request', textContent: 'Copy', ariaLabel: 'Copy the request’s id', onclick: () => tell(copy, navigator.clipboard.writeText(failed.requestId), 'Copied') });
        offers.push(copy);
      }
    }
    actions.replaceChildren(...offers);
  }

  /** Brings everything on show up to date; what `change` does not say stays. */
  #paint(change = {}) {
    const { start, cancel, elapsed, progress, message, status, retry } = this.#ui;
    const [busy, execution] = [this.#busy, this.#execution];
    if (change.state) this.setAttribute('state', change.state);
    start.textContent = this.label ?? 'Start';
    start.ariaDisabled = String(busy || !this.scope); // `disabled` would lose the focus
    start.ariaBusy = String(busy);
    if (!busy && this.shadowRoot.activeElement === cancel) start.focus();
    cancel.hidden = !busy;
    cancel.textContent = this.#cancelling ? 'Cancelling…' : execution ? 'Cancel' : 'Stop';
    cancel.ariaDisabled = String(this.#cancelling);
    progress.hidden = !busy && !execution;
    const { value, max } = this.#portion();
    progress.max = max;
    if (value === undefined) progress.removeAttribute('value'); // moves along
    else progress.value = value;
    const { done, total, message: doing } = this.#progress ?? {};
    const counts = total ? `${done} of ${total}` : '';
    message.textContent = busy ? [counts, doing].filter(Boolean).join(' · ') : '';
    message.hidden = !message.textContent;
    if ('words' in change && status.textContent !== change.words) status.textContent = change.words;
    status.hidden = !status.textContent;
    const left = Math.ceil((this.#retryAt - Date.now()) / 1000);
    retry.textContent = this.#retryAt ? ` Trying again in ${Math.max(1, left)} s…` : '';
    this.#log.element.hidden = !this.log || !execution;
    this.#paintResult();
    const usual = Number(this.usualSeconds);
    elapsed.textContent = execution ? clock(secondsOf(execution)) + (busy && usual ? ` · usually ${roughly(usual)}` : '') : '';
  }

  /** How much is done: as the job says, else by its tasks; unknown while one task runs in silence. */
  #portion() {
    const { state, tasks: { total: tasks = 1, succeeded = 0 } = {} } = this.#execution ?? {};
    const { done, total } = this.#progress ?? {};
    const max = done === undefined ? tasks : total || 1;
    if (state === 'succeeded') return { max, value: max };
    if (done !== undefined) return { max, value: Math.min(max, done) };
    return { max, value: this.#busy && !succeeded ? undefined : succeeded };
  }

  #paintResult() {
    const { result } = this.#ui;
    const text = JSON.stringify(this.#results);
    if (result.dataset.shown === text) return;
    result.dataset.shown = text;
    result.hidden = !this.#results.length;
    const several = this.#results.length > 1;
    result.replaceChildren(...this.#results.map(({ task, value }) => make('div', {}, several ? `Task ${task}: ` : 'Result: ', ...shown(value))));
  }

  #emit(type, detail) {
    return this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true, cancelable: true }));
  }

  // Survives a reload: a start that has no answer yet, and the name of what is followed. Some frames have no storage.
  get #drawer() { return `process-button ${JSON.stringify(['api', 'scope', 'process', 'name'].map((name) => this.getAttribute(name)))}`; }
  get #saved() { try { return JSON.parse(sessionStorage.getItem(this.#drawer)) ?? {}; } catch { return {}; } }
  set #saved(value) { try { sessionStorage.setItem(this.#drawer, JSON.stringify(value)); } catch { /* then it does not */ } }
}

// Accessors of the prototype: Svelte, Vue and React look for them there.
for (const [property, attribute] of Object.entries(ATTRIBUTES)) {
  Object.defineProperty(ProcessButton.prototype, property, {
    configurable: true,
    enumerable: true,
    get() { return this.getAttribute(attribute); },
    set(value) { value == null ? this.removeAttribute(attribute) : this.setAttribute(attribute, value); },
  });
}

/** The outcome of some work, unless a signal is aborted before: not all work listens to signals. */
function unlessAborted(work, ...signals) {
  const aborted = new Promise((_, stop) => signals.forEach((signal) => signal.addEventListener('abort', () => stop(signal.reason))));
  return Promise.race([work, aborted]);
}

if (!customElements.get('process-button')) customElements.define('process-button', ProcessButton);
export { ProcessButton, asRefusal, call, clock, duration, FINISHED, isExact, make, roughly, secondsOf };
