// The page around <process-button>: the scope, a form for the declared parameters, the scope's executions.

const AGAIN_MS = 10_000; // between looks at executions that others started, while one of them runs
const SCOPE = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;
const FINISHED = ['succeeded', 'failed', 'cancelled'];

const find = (id) => document.getElementById(id);
const [button, setup, scope, fields, history] = ['process', 'setup', 'scope', 'parameters', 'history'].map(find);
const rows = history.querySelector('tbody');
let executions = [];
let nextPage;

/** A new element: its properties, then its children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ---- calling the API

function refused({ status }, words) {
  if (status === 401) find('sign-in').hidden = false;
  return Object.assign(new Error(words), { status });
}

async function get(path) {
  const headers = button.token ? { authorization: `Bearer ${button.token}` } : {};
  const response = await fetch(path, { headers, cache: 'no-store' });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw refused(response, body.detail ?? `The service answered ${response.status}.`);
  return body;
}

// ---- the scope

function choose(name, execution) {
  const valid = SCOPE.test(name);
  scope.setAttribute('aria-invalid', Boolean(name) && !valid);
  button.hidden = history.hidden = !valid;
  if (!valid) return;
  if (button.getAttribute('scope') !== name) {
    executions = [];
    find('log-link').hidden = true;
    paint();
    button.setAttribute('scope', name);
    remember(name);
    if (execution && button.getAttribute('state') !== 'starting') button.follow(execution);
  }
  list();
}

function remember(name) {
  try { localStorage.setItem('scope', name); } catch { /* storage is off: nothing is remembered */ }
  address();
}

/** What is on show is what the address says, so that it can be sent to somebody. */
function address() {
  const query = new URLSearchParams({ scope: scope.value });
  if (button.execution) query.set('execution', button.execution.name);
  window.history.replaceState(null, '', `?${query}`);
}

function remembered() {
  try { return localStorage.getItem('scope') ?? ''; } catch { return ''; }
}

// ---- the form

function field(name, schema, required) {
  const types = [schema.type].flat();
  const input = control(name, schema, types, required);
  const help = make('small', { textContent: schema.description ?? '', id: `help-${name}` });
  const wrong = make('small', { className: 'wrong', id: `wrong-${name}` });
  input.setAttribute('aria-describedby', `${help.id} ${wrong.id}`);
  input.addEventListener('change', () => check(input));
  const label = make('span', { textContent: schema.title ?? name });
  if (!required) label.append(' ', make('em', { textContent: 'optional' }));
  const checkbox = input.type === 'checkbox';
  if (checkbox) label.querySelector('em')?.remove();
  return make('label', { className: checkbox ? 'field check' : 'field' }, ...(checkbox ? [input, label] : [label, input]), help, wrong);
}

function control(name, schema, types, required) {
  if (schema.enum) return choice(name, schema, required, schema.enum.map((value) => [JSON.stringify(value), String(value)]));
  if (types.includes('boolean')) {
    // Without a default, "no" and "not said" differ: the job's own setting stands in the second case.
    if (!required && schema.default === undefined) return choice(name, schema, required, [['true', 'yes'], ['false', 'no']]);
    return read(make('input', { name, type: 'checkbox', checked: schema.default === true }), (input) => input.checked);
  }
  const numeric = types.includes('integer') || types.includes('number');
  const { minimum = '', maximum = '', multipleOf } = schema;
  const input = make('input', { name, required, autocomplete: 'off', value: schema.default ?? '' });
  if (numeric) Object.assign(input, { type: 'number', min: minimum, max: maximum, step: multipleOf ?? (types.includes('integer') ? 1 : 'any') });
  else if (schema.maxLength) input.maxLength = schema.maxLength;
  try {
    if (schema.pattern) input.schemaPattern = new RegExp(schema.pattern, 'u');
  } catch {
    // A pattern of the server's dialect alone: the server checks it.
  }
  return read(input, (input) => (input.value === '' ? undefined : numeric ? Number(input.value) : input.value));
}

function choice(name, schema, required, options) {
  const select = make('select', { name, required }, ...options.map(([value, textContent]) => make('option', { value, textContent })));
  if (!required || schema.default === undefined) select.prepend(make('option', { value: '', textContent: required ? 'Choose…' : '–' }));
  select.value = schema.default === undefined ? '' : JSON.stringify(schema.default);
  return read(select, () => (select.value ? JSON.parse(select.value) : undefined));
}

/** Gives a control its value as JSON wants it; nothing for "not said". */
function read(input, value) {
  return Object.assign(input, { read: () => value(input) });
}

const controls = () => [...fields.querySelectorAll('[name]')];

/** Says under a control what is wrong with it. The server has the last word. */
function check(input) {
  const misfit = input.value && input.schemaPattern && !input.schemaPattern.test(input.value);
  input.setCustomValidity(misfit ? `Must match ${input.schemaPattern.source}` : '');
  const valid = input.validity.valid;
  input.setAttribute('aria-invalid', !valid);
  find(`wrong-${input.name}`).textContent = valid ? '' : input.validationMessage;
  return valid;
}

/** A schema, or the one that it refers to within the document. */
const resolve = (api, schema) => schema?.$ref?.slice(2).split('/').reduce((node, key) => node?.[key], api) ?? schema;

async function draw() {
  const api = await get('openapi.json').catch(() => null); // no form then, and the server says what it misses
  const process = api?.paths?.['/scopes/{scope}/process']?.post;
  const schema = resolve(api, process?.requestBody?.content?.['application/json']?.schema);
  const properties = Object.entries(schema?.properties ?? {});
  fields.append(...properties.map(([name, property]) => field(name, property, schema.required?.includes(name) ?? false)));
  fields.hidden = !properties.length;
}

// ---- the executions

function took({ startedAt, createdAt, completedAt }) {
  const seconds = Math.max(0, Math.round(((Date.parse(completedAt) || Date.now()) - Date.parse(startedAt ?? createdAt)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function when(text) {
  const date = new Date(text);
  const today = date.toDateString() === new Date().toDateString();
  return make('time', {
    dateTime: text, title: date.toLocaleString(),
    textContent: date.toLocaleString([], today ? { timeStyle: 'medium' } : { dateStyle: 'medium', timeStyle: 'short' }),
  });
}

function row(execution) {
  const { name, state, createdAt } = execution;
  const href = `?${new URLSearchParams({ scope: scope.value, execution: name })}`;
  const link = make('a', { href, textContent: name });
  link.addEventListener('click', (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab is a new tab
    event.preventDefault();
    button.follow(name);
    button.scrollIntoView({ behavior: 'smooth', block: 'nearest' });
  });
  const cells = [make('span', { className: `state ${state}`, textContent: state }), when(createdAt), took(execution), link];
  const line = make('tr', {}, ...cells.map((cell) => make('td', {}, cell)));
  if (name === button.execution?.name) line.setAttribute('aria-current', 'true');
  return line;
}

function paint() {
  const focused = document.activeElement?.closest?.('tr a')?.textContent;
  rows.replaceChildren(...executions.map(row));
  if (focused) [...rows.querySelectorAll('a')].find((link) => link.textContent === focused)?.focus();
  find('none').hidden = executions.length > 0;
  history.querySelector('table').hidden = !executions.length;
  find('older').hidden = !nextPage;
}

/** Adds what is new to what is known: a list may lag behind a start, and older pages stay on show. */
function merge(found) {
  const names = new Set(found.map(({ name }) => name));
  executions = [...found, ...executions.filter(({ name }) => !names.has(name))];
  executions.sort((one, other) => Date.parse(other.createdAt) - Date.parse(one.createdAt));
  paint();
}

async function list(page) {
  const name = scope.value;
  const query = page ? `?page=${encodeURIComponent(page)}` : '';
  try {
    const answer = await get(`scopes/${encodeURIComponent(name)}/executions${query}`);
    if (name !== scope.value) return; // another scope has been chosen meanwhile
    if (page || !executions.length) nextPage = answer.nextPage;
    find('history-problem').textContent = '';
    merge(answer.executions);
  } catch (error) {
    if (name !== scope.value) return;
    find('history-problem').textContent = error.status ? error.message : 'The service cannot be reached.';
  }
}

// ---- what happens

button.addEventListener('process-starting', (event) => {
  const wrong = controls().filter((input) => !check(input));
  if (wrong.length) {
    event.preventDefault();
    wrong[0].focus();
  }
  button.parameters = Object.fromEntries(controls().map((input) => [input.name, input.read()]));
});
button.addEventListener('process-changed', ({ detail }) => {
  find('log-link').hidden = !/^https?:/.test(detail.logUri);
  find('log-link').firstElementChild.href = detail.logUri;
  merge([detail]);
  address();
});

let typing;
scope.addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(choose, 400, scope.value);
});
scope.addEventListener('change', () => choose(scope.value));
find('token').addEventListener('change', async ({ target }) => {
  button.token = target.value.trim();
  if (fields.hidden) await draw();
  list();
});
setup.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !event.target.matches('input')) return;
  event.preventDefault(); // there is nothing to submit
  if (event.target === scope) choose(scope.value);
  else button.start();
});
find('refresh').addEventListener('click', () => list());
find('older').addEventListener('click', () => list(nextPage));
document.addEventListener('visibilitychange', () => document.hidden || button.hidden || list());
setInterval(() => {
  executions.forEach((execution, index) => {
    if (!FINISHED.includes(execution.state)) rows.rows[index].cells[2].textContent = took(execution);
  });
}, 1000);
setInterval(() => {
  const open = executions.some(({ name, state }) => !FINISHED.includes(state) && name !== button.execution?.name);
  if (open && !document.hidden) list();
}, AGAIN_MS);

const asked = new URLSearchParams(location.search);
scope.value = asked.get('scope') ?? remembered();
draw().catch(() => {}).then(() => choose(scope.value, asked.get('execution')));
