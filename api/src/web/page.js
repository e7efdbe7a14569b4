// The page around <process-button>: the scope, a form for the declared parameters, the scope's executions.

import { asRefusal, call, duration, FINISHED, isExact, make, secondsOf } from './button.js';

const AGAIN_MS = 10_000; // between looks at the list: others start executions too
const SCOPES = 10; // remembered
const USUAL_OF = 2; // so many executions have to agree before "usually" is said
const LONG_TEXT = 200; // characters from which on a text has several lines
const SCOPE = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const SIGNS = { starting: '…', pending: '…', running: '▶', succeeded: '✓', failed: '✗', cancelled: '■', refused: '!' };
const COLOURS = { running: '#2457c5', pending: '#2457c5', succeeded: '#188038', failed: '#d93025', cancelled: '#5f6368' };

const asked = () => new URLSearchParams(location.search);
const find = (id) => document.getElementById(id);
const [button, setup, scope, fields, history, which] = ['process', 'setup', 'scope', 'parameters', 'history', 'which'].map(find);
const rows = history.querySelector('tbody');
let processes; // name → schema of its parameters; the unnamed one is ''
let executions = [];
let nextPage;
let loaded = false; // the list was answered
let quietUntil = 0; // when the list may be asked for again
let linked = asked().get('execution'); // until the form shows its parameters
let begun = false; // the address stands for a start that has no execution yet
let repeated; // the parameters of a former run that is started again
let awaited; // the name of an execution whose end is to be notified

const state = () => button.getAttribute('state');
const current = () => button.getAttribute('scope') ?? '';

// ---- the browser's storage, if there is one

function kept(storage, key, otherwise) {
  try { return JSON.parse(window[storage].getItem(key)) ?? otherwise; } catch { return otherwise; }
}

function keep(storage, key, value) {
  try { window[storage].setItem(key, JSON.stringify(value)); } catch { /* storage is off */ }
}

// ---- calling the API

async function get(path) {
  try {
    return await call(new URL(path, location.href.split('?')[0]), { token: button.token });
  } catch (error) {
    const refusal = asRefusal(error);
    if (refusal.status === 401 && !refusal.signIn) find('sign-in').hidden = false;
    throw refusal;
  }
}

/** The text of a refusal, with the request's id, and a link if the user has to sign in. */
function describe({ message, requestId, signIn }) {
  const link = signIn && make('a', { href: './', target: '_blank', textContent: 'Sign in' });
  const id = requestId && make('span', { className: 'request', textContent: `Request ${requestId}` });
  return [message, ...[link, id].filter(Boolean).flatMap((more) => [' ', more])];
}

// ---- the scope

/** Takes a scope and shows an execution of it, or none. */
function choose(text, execution) {
  const name = text.trim();
  const valid = SCOPE.test(name);
  scope.value = name;
  scope.setAttribute('aria-invalid', String(Boolean(name) && !valid));
  find('wrong-scope').textContent = name && !valid ? 'A scope has 1 to 63 letters, digits, dots, hyphens or underscores, and begins and ends with a letter or a digit.' : '';
  find('why').hidden = Boolean(name);
  history.hidden = !valid;
  button.hidden = Boolean(name) && !valid;
  const next = valid ? name : '';
  if (current() !== next) {
    executions = [];
    nextPage = undefined;
    loaded = false;
    find('history-problem').replaceChildren();
    button.setAttribute('scope', next);
    if (valid) remember(name);
  }
  if (execution && execution !== button.execution?.name && state() !== 'starting') button.follow(execution);
  paint();
  if (valid) list();
}

function remember(name) {
  const names = [name, ...kept('localStorage', 'scopes', []).filter((other) => other !== name)].slice(0, SCOPES);
  keep('localStorage', 'scopes', names);
  suggest(names);
}

function suggest(names) {
  find('scopes').replaceChildren(...names.map((value) => make('option', { value })));
}

/** A start hides the execution before it, and removes it from the address. Back leads to it. */
function starting() {
  if (state() !== 'starting' || !asked().has('execution')) return;
  const query = asked();
  query.delete('execution');
  window.history.pushState(null, '', `?${query}`);
  begun = true;
}

/** The address names what is shown, so that it can be shared, and Back leads to what was shown before. */
function address() {
  if (!current()) return;
  const query = new URLSearchParams({ scope: current() });
  if (which.value) query.set('process', which.value);
  if (button.execution) query.set('execution', button.execution.name);
  const before = asked();
  if (`${query}` === `${before}`) return;
  const moved = !begun && before.has('scope') && (before.get('scope') !== current() || before.has('execution') || query.has('execution'));
  begun = false;
  window.history[moved ? 'pushState' : 'replaceState'](null, '', `?${query}`);
}

// ---- the form

function field(name, schema, required) {
  const input = control(name, schema, [schema.type].flat(), required);
  const id = input.id = `field-${name}`;
  const help = make('small', { id: `help-${name}`, textContent: [schema.description, limits(schema)].filter(Boolean).join(' · ') });
  const wrong = make('small', { id: `wrong-${name}`, className: 'wrong' });
  input.setAttribute('aria-describedby', `${help.id} ${wrong.id}`);
  input.addEventListener('change', () => { check(input); keepForm(); });
  const label = make('label', { htmlFor: id, textContent: schema.title ?? name });
  const checkbox = input.type === 'checkbox';
  if (!required && !checkbox) label.append(' ', make('em', { textContent: 'optional' }));
  const examples = (schema.examples ?? []).map((value) => make('option', { value }));
  const list = make('datalist', { id: `examples-${name}` }, ...examples);
  if (examples.length && !schema.enum && !checkbox) input.setAttribute('list', list.id);
  return make('div', { className: checkbox ? 'field check' : 'field' }, ...(checkbox ? [input, label] : [label, input]), ...(examples.length ? [list] : []), help, wrong);
}

/** The limits of a number or a text, in words. */
function limits({ minimum, maximum, minLength, maxLength, multipleOf, pattern }) {
  const between = (least, most, unit) => {
    if (least !== undefined && most !== undefined) return `${least} to ${most}${unit}`;
    if (least !== undefined) return `at least ${least}${unit}`;
    return most !== undefined && `at most ${most}${unit}`;
  };
  const steps = multipleOf && `in steps of ${multipleOf}`;
  return [between(minimum, maximum, ''), !pattern && between(minLength, maxLength, ' characters'), steps].filter(Boolean).join(', ');
}

function control(name, schema, types, required) {
  const values = schema.const === undefined ? schema.enum : [schema.const];
  if (values) return choice(name, schema, required, values.map((value) => [JSON.stringify(value), String(value)]));
  if (types.includes('boolean')) {
    // Without a default, "no" and "not said" differ: the job's own setting stands in the second case.
    if (!required && schema.default === undefined) return choice(name, schema, required, [['true', 'yes'], ['false', 'no']]);
    const box = make('input', { name, type: 'checkbox', checked: schema.default === true });
    return reads(box, () => box.checked, (value) => { box.checked = value === true; });
  }
  const numeric = types.includes('integer') || types.includes('number');
  return numeric ? number(name, schema, types, required) : text(name, schema, required);
}

function number(name, schema, types, required) {
  const { minimum = '', maximum = '', multipleOf } = schema;
  const step = multipleOf ?? (types.includes('integer') ? 1 : 'any');
  const input = make('input', { name, required, autocomplete: 'off', type: 'number', schema, min: minimum, max: maximum, step, value: schema.default ?? '' });
  return reads(input, () => (input.value === '' ? undefined : Number(input.value)), (value) => { input.value = value ?? ''; });
}

const KINDS = { date: 'date', time: 'time', 'date-time': 'datetime-local', email: 'email', uri: 'url' };

function text(name, schema, required) {
  const { format, maxLength, examples = [] } = schema;
  const input = make(maxLength > LONG_TEXT ? 'textarea' : 'input', { name, required, autocomplete: 'off', placeholder: examples[0] ?? '', schema });
  if (input.localName === 'input') input.type = KINDS[format] ?? 'text';
  if (maxLength) input.maxLength = maxLength;
  if (format === 'time' || format === 'date-time') input.step = 1;
  const local = (value) => { // as `datetime-local` wants it
    const date = new Date(value);
    return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
  };
  const write = (value) => { input.value = value === undefined || value === null ? '' : format === 'date-time' ? local(value) : value; };
  write(schema.default);
  return reads(input, () => {
    if (input.value === '') return undefined;
    if (format === 'date-time') return new Date(input.value).toISOString();
    return format === 'time' && input.value.length === 5 ? `${input.value}:00` : input.value;
  }, write);
}

function choice(name, schema, required, options) {
  const select = make('select', { name, required }, ...options.map(([value, textContent]) => make('option', { value, textContent })));
  const fixed = required && options.length === 1;
  if (!fixed && (!required || schema.default === undefined)) select.prepend(make('option', { value: '', textContent: required ? 'Choose…' : '–' }));
  const write = (value) => { select.value = value === undefined ? '' : JSON.stringify(value); };
  if (!fixed) write(schema.default);
  return reads(select, () => (select.value ? JSON.parse(select.value) : undefined), write);
}

/** Gives a control its value as JSON has it, both ways; `undefined` is "not said". */
const reads = (input, read, write) => Object.assign(input, { read, write });

const controls = () => [...fields.querySelectorAll('[name]')];

/** Shows under a control what is wrong with it. The server checks it again. */
function check(input) {
  input.setCustomValidity(misfit(input) ?? '');
  return mark(input, input.validity.valid ? '' : input.validationMessage);
}

function mark(input, words) {
  input.setAttribute('aria-invalid', String(Boolean(words)));
  find(`wrong-${input.name}`).textContent = words;
  return !words;
}

function misfit({ value, schema, type }) {
  if (!value || !schema) return undefined;
  if (type === 'number') return isExact(value) ? undefined : 'A browser would round this number. Start with it by the API.';
  const { pattern, minLength = 0, description, examples = [], format } = schema;
  if (value.length < minLength) return `Must have at least ${minLength} characters.`;
  if (format === 'uuid' && !UUID.test(value)) return 'Must be a UUID, such as 123e4567-e89b-12d3-a456-426614174000.';
  let fits = true;
  try {
    fits = !pattern || new RegExp(pattern, 'u').test(value);
  } catch {
    // A pattern of the server's dialect alone: the server checks it.
  }
  if (fits) return undefined;
  const hint = examples.length ? `For example: ${examples[0]}` : description ?? `It must match ${pattern}`;
  return `This does not have the form that is asked for. ${hint}`;
}

/** A schema, or the one that it refers to within the document. */
const resolve = (api, schema) => schema?.$ref?.slice(2).split('/').reduce((node, key) => node?.[key], api) ?? schema;

/** Reads the processes and their parameters, or shows why they cannot be read. */
async function load() {
  find('form-problem').hidden = true;
  try {
    const api = await get('openapi.json');
    const found = Object.entries(api.paths ?? {}).flatMap(([path, { post } = {}]) => {
      const name = path.match(/^\/scopes\/\{scope\}\/process(?:\/([^/{}]+))?$/);
      if (!name || !post) return [];
      const schema = resolve(api, post.requestBody?.content?.['application/json']?.schema);
      return [[name[1] ?? '', schema]];
    });
    if (!found.length) throw new Error('The service’s description names no process.');
    processes = Object.fromEntries(found);
  } catch (error) {
    const failed = asRefusal(error);
    const cannot = 'What this service can start, and with which parameters, could not be read, so nothing can be started yet.';
    const why = failed.status === 401 && !failed.signIn ? 'Enter a token first.' : failed.message;
    find('form-problem').firstElementChild.replaceChildren(...describe({ ...failed, message: `${cannot} ${why}` }));
    find('form-problem').hidden = false;
    return;
  }
  const names = Object.keys(processes);
  which.replaceChildren(...names.map((value) => make('option', { value, textContent: value || 'default' })));
  find('choice').hidden = names.length < 2;
  const wanted = asked().get('process') ?? kept('localStorage', 'process', '');
  if (names.includes(wanted)) which.value = wanted;
  draw();
}

/** Draws the form of the chosen process, with the values of an earlier visit. */
function draw() {
  const schema = processes[which.value];
  if (which.value) button.setAttribute('process', which.value);
  else button.removeAttribute('process');
  const properties = Object.entries(schema?.properties ?? {});
  const drawn = properties.map(([name, property]) => field(name, resolve(schema, property), schema.required?.includes(name) ?? false));
  fields.replaceChildren(make('legend', { textContent: 'Parameters' }), ...drawn);
  fields.hidden = !properties.length;
  const values = kept('sessionStorage', `form ${which.value}`, null);
  if (values) fill(values);
}

const keepForm = () => keep('sessionStorage', `form ${which.value}`, parameters());
const parameters = () => Object.fromEntries(controls().map((input) => [input.name, input.read()]));

/** A run that was opened by its link is shown with its own parameters. */
function fillLinked() {
  const { execution } = button;
  if (!processes || !linked || execution?.name !== linked) return;
  linked = undefined;
  if (!execution.parameters || !((execution.process ?? '') in processes)) return;
  which.value = execution.process ?? '';
  draw();
  fill(execution.parameters);
}

/** Puts values into the form; what they do not name is "not said". */
function fill(values) {
  for (const input of controls()) {
    input.write(values[input.name]);
    mark(input, '');
  }
}

// ---- the executions

function when(text) {
  const date = new Date(text);
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toTimeString().slice(0, 8);
  return make('time', {
    dateTime: text, title: date.toLocaleString(),
    textContent: today ? time : `${date.toLocaleDateString([], { dateStyle: 'medium' })}, ${time.slice(0, 5)}`,
  });
}

const took = (execution) => duration(secondsOf(execution));

/** Whether the parameters of an execution are known. */
const isRepeatable = (execution) => Boolean(processes && (execution.parameters || fields.hidden) && (execution.process ?? '') in processes) && !Object.values(execution.parameters ?? {}).some(isRounded);

/** Whether a number that was read may have been rounded. */
const isRounded = (value) => typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER;

function repeat(execution) {
  if (which.value !== (execution.process ?? '')) {
    which.value = execution.process ?? '';
    draw();
  }
  fill(execution.parameters ?? {});
  keepForm();
  button.scrollIntoView({ block: 'nearest' });
  repeated = execution.parameters ?? {}; // as they were: a form cannot hold every value
  button.start();
  repeated = undefined;
}

function row(execution) {
  const { name, state, createdAt, process } = execution;
  const href = `?${new URLSearchParams({ scope: current(), execution: name })}`;
  const link = make('a', { href, textContent: name });
  link.addEventListener('click', (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab is a new tab
    event.preventDefault();
    button.follow(name);
    button.scrollIntoView({ behavior: matchMedia('(prefers-reduced-motion)').matches ? 'instant' : 'smooth', block: 'nearest' });
  });
  const again = make('button', { type: 'button', className: 'again', textContent: 'Run again', ariaLabel: `Run again ${name}` });
  again.addEventListener('click', () => repeat(execution));
  const named = process ? [link, ' ', make('small', { textContent: process })] : [link];
  const cells = [
    [make('span', { className: `state ${state}`, textContent: state })], [when(createdAt)], [took(execution)], named,
    isRepeatable(execution) && FINISHED.includes(state) ? [again] : [],
  ];
  const line = make('tr', {}, ...cells.map((cell) => make('td', {}, ...cell)));
  if (name === button.execution?.name) line.setAttribute('aria-current', 'true');
  return line;
}

function paint() {
  const focused = document.activeElement?.closest?.('tbody')?.contains(document.activeElement) && document.activeElement;
  const place = focused && [focused.localName, focused.closest('tr').querySelector('a').textContent];
  rows.replaceChildren(...executions.map(row));
  if (place) [...rows.rows].find((line) => line.querySelector('a').textContent === place[1])?.querySelector(place[0])?.focus();
  const failed = find('history-problem').textContent !== '';
  find('loading').hidden = loaded || failed;
  find('none').hidden = !loaded || failed || executions.length > 0;
  history.querySelector('table').hidden = !executions.length;
  find('older').hidden = !nextPage;
  paintRun();
}

/** Shows the execution's details, and sets the page's heading, title and icon. */
function paintRun() {
  const { execution } = button;
  const named = which.value || execution?.process || (execution ?? executions[0])?.job;
  find('heading').textContent = named ?? 'Start a process';
  const busy = ['starting', 'pending', 'running'].includes(state());
  const sign = SIGNS[state()];
  document.title = [sign, [current(), named].filter(Boolean).join(' · ') || 'Process'].filter(Boolean).join(' ');
  paintIcon();
  find('run').hidden = !execution;
  find('log-link').hidden = !/^https?:/.test(execution?.logUri);
  if (execution?.logUri) find('log-link').firstElementChild.href = execution.logUri;
  find('again').hidden = !execution || busy || !isRepeatable(execution);
  find('notify').hidden = !busy || !execution || !('Notification' in window) || Notification.permission === 'denied';
  find('notify').ariaPressed = String(Boolean(execution && awaited === execution.name));
  if (execution) paintFacts(execution);
  const usual = usually(execution?.process ?? which.value);
  if (usual) button.setAttribute('usual-seconds', usual);
  else button.removeAttribute('usual-seconds');
}

function paintIcon() {
  const colour = COLOURS[state()] ?? '#2457c5';
  const marks = { succeeded: 'M4 8.5l3 3 5-6.5', failed: 'M5 5l6 6M11 5l-6 6', cancelled: 'M5 5h6v6H5z' };
  const mark = marks[state()] ? `<path d='${marks[state()]}' fill='none' stroke='#fff' stroke-width='2'/>` : "<path d='M6 4.5v7l5.5-3.5z' fill='#fff'/>";
  const svg = `<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><rect width='16' height='16' rx='${state() === 'running' ? 8 : 4}' fill='${colour}'/>${mark}</svg>`;
  const href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  const icon = document.querySelector('link[rel=icon]');
  if (icon.getAttribute('href') !== href) icon.setAttribute('href', href);
}

function paintFacts({ name, createdAt, startedAt, completedAt, parameters, tasks }) {
  const queued = startedAt && `${duration(Math.max(0, Math.floor((Date.parse(startedAt) - Date.parse(createdAt)) / 1000)))}`;
  const given = Object.entries(parameters ?? {}).map(([key, value]) => `${key} = ${isRounded(value) ? 'about ' : ''}${typeof value === 'string' ? value : JSON.stringify(value)}`);
  const facts = [
    ['Execution', [name]], ['Accepted', [when(createdAt)]], startedAt && ['Began', [when(startedAt), ` after ${queued}`]],
    completedAt && ['Ended', [when(completedAt)]], tasks?.retried > 0 && ['Attempts repeated', [tasks.retried]],
    parameters && ['Parameters', [given.join(', ') || 'none']],
  ].filter(Boolean);
  const text = JSON.stringify([name, createdAt, startedAt, completedAt, parameters, tasks?.retried]);
  if (find('facts').dataset.shown === text) return;
  find('facts').dataset.shown = text;
  find('facts').replaceChildren(...facts.map(([term, words]) => make('div', {}, make('dt', { textContent: term }), make('dd', {}, ...words))));
}

/** The median duration of successful executions. */
function usually(process) {
  const known = executions.filter((one) => one.state === 'succeeded' && (one.process ?? '') === (process ?? '') && one.completedAt);
  const seconds = known.map(secondsOf).sort((one, other) => one - other);
  return seconds.length < USUAL_OF ? 0 : seconds[Math.floor(seconds.length / 2)];
}

/** Adds new executions to the list: the answer may lag behind a start, and older pages stay visible. */
function merge(found) {
  const names = new Set(found.map(({ name }) => name));
  executions = [...found, ...executions.filter(({ name }) => !names.has(name))];
  executions.sort((one, other) => Date.parse(other.createdAt) - Date.parse(one.createdAt));
  paint();
}

async function list(page) {
  const name = current();
  if (!name) return;
  const query = page ? `?page=${encodeURIComponent(page)}` : '';
  const problem = find('history-problem');
  try {
    const answer = await get(`scopes/${encodeURIComponent(name)}/executions${query}`);
    if (name !== current()) return; // another scope has been chosen meanwhile
    if (page || !loaded) nextPage = answer.nextPage;
    loaded = true;
    quietUntil = 0;
    problem.replaceChildren();
    merge(answer.executions);
  } catch (refusal) {
    if (name !== current()) return;
    // A failure that a person must correct is not retried until the user acts.
    quietUntil = refusal.again ? Date.now() + refusal.after * 1000 : Infinity;
    const words = describe(refusal);
    if (problem.firstChild?.data !== words[0]) problem.replaceChildren(...words); // one outage is one announcement
    paint();
  }
}

async function refresh() {
  const control = find('refresh');
  control.textContent = 'Refreshing…';
  control.ariaBusy = 'true';
  await list();
  control.textContent = 'Refresh';
  control.ariaBusy = 'false';
}

// ---- a notification at the end

async function toggleNotice() {
  const { execution } = button;
  if (awaited === execution?.name) awaited = undefined;
  else if (execution && (await Notification.requestPermission()) === 'granted') awaited = execution.name;
  paintRun();
}

function notify({ name, state: end, message }) {
  if (awaited !== name) return;
  awaited = undefined;
  const notice = new Notification(`${find('heading').textContent} for ${current()}: ${end}`, { body: message ?? name, tag: name });
  notice.onclick = () => { window.focus(); notice.close(); };
}

// ---- events

button.addEventListener('process-starting', (event) => {
  if (!processes) {
    event.preventDefault(); // with which parameters is not known
    if (!find('form-problem').hidden) find('draw-again').focus();
    return;
  }
  if (repeated) {
    button.parameters = repeated;
    return;
  }
  const wrong = controls().filter((input) => !check(input));
  if (wrong.length) {
    event.preventDefault();
    wrong[0].focus();
  }
  button.parameters = parameters();
  keepForm();
});
button.addEventListener('process-changed', ({ detail }) => {
  merge([detail]);
  fillLinked();
  address();
});
button.addEventListener('process-ended', ({ detail }) => {
  notify(detail);
  list();
});
button.addEventListener('process-refused', ({ detail: { status, errors = [] } }) => {
  const wrong = controls().filter((input) => {
    const error = errors.find(({ pointer }) => pointer === `#/${input.name}`);
    return error && !mark(input, error.detail);
  });
  wrong[0]?.focus();
  if (status === 401) find('sign-in').hidden = false;
  paint();
});
new MutationObserver(() => {
  starting();
  paint();
}).observe(button, { attributeFilter: ['state'] });

scope.addEventListener('change', () => {
  choose(scope.value);
  address();
});
which.addEventListener('change', () => {
  keep('localStorage', 'process', which.value);
  draw();
  address();
  paint();
});
async function useToken() {
  const token = find('token').value.trim();
  if (button.token === token) return;
  button.token = token;
  quietUntil = 0;
  if (!processes) await load();
  list();
}
find('token').addEventListener('change', useToken);
fields.addEventListener('input', () => keepForm());
setup.addEventListener('submit', (event) => event.preventDefault());
setup.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !event.target.matches('input')) return;
  event.preventDefault(); // there is nothing to submit
  if (event.repeat) return; // a held key is one start
  if (event.target === scope) {
    choose(scope.value);
    address();
  } else if (event.target === find('token')) useToken();
  else button.start();
});
find('draw-again').addEventListener('click', () => load().then(paint));
find('refresh').addEventListener('click', refresh);
find('older').addEventListener('click', () => list(nextPage));
find('again').addEventListener('click', () => repeat(button.execution));
find('notify').addEventListener('click', toggleNotice);
document.addEventListener('visibilitychange', () => document.hidden || list());
setInterval(() => {
  executions.forEach((execution, index) => {
    if (!FINISHED.includes(execution.state)) rows.rows[index].cells[2].textContent = took(execution);
  });
}, 1000);
setInterval(() => {
  if (!document.hidden && Date.now() >= quietUntil) list();
}, AGAIN_MS);

addEventListener('popstate', () => {
  const query = asked();
  const name = query.get('execution');
  choose(query.get('scope') ?? '', name);
  if (!name) button.follow();
});
const names = kept('localStorage', 'scopes', []);
suggest(names);
choose(asked().get('scope') ?? names[0] ?? '', linked);
load().then(() => {
  fillLinked();
  paint();
});
