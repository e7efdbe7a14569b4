
// ---- the log

// Escape sequences: CSI, of which only colours (`m`) are kept; OSC and its like up to their end; the short ones.
const ESCAPE = /(?:\x1b\[|\x9b)([0-9;:]*)[ -/]*([@-~])|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?/g;
const COLOURS = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white'];
const STYLES = { 1: 'bold', 2: 'faint', 3: 'italic', 4: 'underlined', 9: 'struck' };
const CONTROLS = /[\0-\x08\x0b-\x1f\x7f-\x9f]/g;
const DIRECTIONS = /[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g; // they can make a line read as another
const FOUND = globalThis.CSS?.highlights && new Highlight(); // what a search found, in every log of the page
FOUND && CSS.highlights.set('process-log-found', FOUND);

/** The parts of a terminal's text: each is plain text and the names of its styles. */
function styled(text) {
  const pieces = [];
  let [at, style] = [0, {}];
  const add = (raw) => {
    const plain = raw.replace(CONTROLS, '').replace(DIRECTIONS, (c) => `\\u${c.charCodeAt(0).toString(16)}`);
    if (plain) pieces.push([plain, Object.values(style).filter(Boolean).join(' ')]);
  };
  for (const match of text.matchAll(ESCAPE)) {
    add(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[2] === 'm') style = restyled(style, match[1].split(/[;:]/).map(Number));
  }
  add(text.slice(at));
  return pieces;
}

/** A style after the codes of one sequence: the 16 colours and the usual attributes. */
function restyled(style, codes) {
  const next = { ...style };
  const colour = (code) => (code < 8 ? COLOURS[code] : COLOURS[code - 8]);
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at];
    if (code === 0) Object.keys(next).forEach((name) => delete next[name]);
    else if (STYLES[code]) next[code] = STYLES[code];
    else if (code === 22) next[1] = next[2] = '';
    else if (code >= 23 && code <= 29) next[code - 20] = '';
    else if (code === 38 || code === 48) { // one of 256, of which the first 16 are ours, or red, green, blue
      const of256 = codes[at + 1] === 5;
      if (of256 && codes[at + 2] < 16) next[code] = (code === 48 ? 'on-' : '') + colour(codes[at + 2]);
      at += of256 ? 2 : 4;
    } else if (code >= 30 && code <= 39) next[38] = COLOURS[code - 30] ?? '';
    else if (code >= 40 && code <= 49) next[48] = COLOURS[code - 40] ? `on-${COLOURS[code - 40]}` : '';
    else if (code >= 90 && code <= 97) next[38] = colour(code - 90);
    else if (code >= 100 && code <= 107) next[48] = `on-${colour(code - 100)}`;
  }
  return next;
}

/** A text as a terminal would leave it: what a carriage return went back over is gone. */
const settled = (text) => text.split('\n').map((line) => line.replace(/\r+$/, '').split('\r').pop()).join('\n').trimEnd();

/** The lines of an execution, and what can be done with them. */
class Log {
  #lines = make('div', { part: 'lines' });
  #older = make('p', { part: 'older', hidden: true });
  #box = make('div', { part: 'log', role: 'log', ariaLive: 'off', ariaLabel: 'Log', tabIndex: 0 }, this.#lines, this.#older);
  #search = make('input', { part: 'search', type: 'search', ariaLabel: 'Search the log', placeholder: 'Search' });
  #count = make('span', { part: 'count', role: 'status' });
  #task = make('select', { part: 'tasks', ariaLabel: 'Task', hidden: true });
  #tasks = new Set();
  #ranges = [];
  #queue = []; // lines to be drawn
  #flushing;
  #pending; // a search that is due
  element;

  /** `download` brings the whole log as text. */
  constructor(download) {
    const tool = (part, textContent, onclick) => make('button', { type: 'button', part, textContent, onclick });
    const toggle = (part, words, on) => {
      const button = tool(part, words, () => {
        button.ariaPressed = String(button.ariaPressed !== 'true');
        this.#lines.classList.toggle(part, button.ariaPressed === 'true');
      });
      button.ariaPressed = String(on);
      this.#lines.classList.toggle(part, on);
      return button;
    };
    const copy = tool('copy', 'Copy', () => tell(copy, navigator.clipboard.writeText(this.text), 'Copied'));
    copy.hidden = !globalThis.navigator?.clipboard;
    const save = tool('download', 'Download', () => tell(save, download(), 'Downloaded'));
    this.#search.oninput = this.#task.onchange = () => {
      clearTimeout(this.#pending);
      this.#pending = setTimeout(() => this.#filter(), 120);
    };
    const tools = make('div', { part: 'tools' }, this.#search, this.#count, this.#task,
      toggle('times', 'Times', true), toggle('wrap', 'Wrap', true), copy, save);
    this.element = make('div', { part: 'log-panel' }, tools, this.#box);
  }

  /** What is on show, as text. */
  get text() {
    const { classList } = this.#lines;
    const cells = { time: classList.contains('times'), task: classList.contains('several'), text: true };
    const lines = [...this.#lines.children].filter((line) => !line.hidden);
    return lines.map((line) => [...line.children].filter(({ part }) => cells[part]).map((cell) => cell.textContent).join('  ') + '\n').join('');
  }

  clear() {
    this.#queue = [];
    this.#lines.textContent = '';
    this.#older.hidden = true;
    this.#tasks.clear();
    this.#task.hidden = true;
    this.#task.replaceChildren(make('option', { value: '', textContent: 'All tasks' }));
    this.#lines.classList.remove('several');
    this.#filter();
  }

  /** Takes a line. Those that come at once are drawn at once. */
  add(line) {
    this.#queue.push(line);
    this.#flushing ??= setTimeout(() => this.flush(), DRAW_MS);
  }

  /** Draws the lines that wait for it. */
  flush() {
    clearTimeout(this.#flushing);
    this.#flushing = undefined;
    const queue = this.#queue;
    this.#queue = [];
    for (const { task } of queue) this.#knows(task);
    const drawn = queue.slice(-LINES).map(drawnLine).filter(Boolean);
    if (this.#isFiltered) for (const line of drawn) line.hidden = !this.#matches(line);
    this.#lines.append(...drawn);
    const surplus = this.#lines.childElementCount - LINES;
    if (surplus > 0 || queue.length > LINES) this.#older.hidden = false;
    if (surplus > 0) {
      const range = document.createRange();
      range.setStart(this.#lines, 0);
      range.setEnd(this.#lines, surplus);
      range.deleteContents();
    }
  }

  /** Says where the lines are that are not kept here. */
  set logUri(uri) {
    const words = 'Older lines are in Cloud Logging';
    const link = /^https?:/.test(uri) && make('a', { href: uri, target: '_blank', rel: 'noopener noreferrer', textContent: words });
    if (this.#older.textContent !== words || (link && !this.#older.querySelector('a'))) this.#older.replaceChildren(link || words);
  }

  #knows(task) {
    if (task === undefined || this.#tasks.has(task)) return;
    this.#tasks.add(task);
    const option = make('option', { value: task, textContent: `Task ${task}` });
    const next = [...this.#task.options].find(({ value }) => value !== '' && Number(value) > task);
    this.#task.insertBefore(option, next ?? null);
    this.#task.hidden = this.#tasks.size < 2;
    this.#lines.classList.toggle('several', this.#tasks.size > 1);
  }

  get #isFiltered() { return this.#search.value !== '' || this.#task.value !== ''; }

  #matches(line) {
    const [, task, text] = line.children;
    const wanted = this.#search.value.toLowerCase();
    if (this.#task.value && task.textContent !== this.#task.value) return false;
    return text.textContent.toLowerCase().includes(wanted);
  }

  #filter() {
    const lines = [...this.#lines.children];
    for (const line of lines) line.hidden = this.#isFiltered && !this.#matches(line);
    const left = lines.filter((line) => !line.hidden);
    this.#count.textContent = this.#isFiltered ? `${left.length} of ${lines.length} lines` : '';
    for (const range of this.#ranges) FOUND?.delete(range);
    this.#ranges = this.#search.value && FOUND ? left.flatMap((line) => found(line.lastChild, this.#search.value)) : [];
    for (const range of this.#ranges) FOUND.add(range);
  }
}

/** The element of a line; nothing for a blank one, which tells nothing. */
function drawnLine({ time, severity = '', task, text }) {
  const pieces = styled(settled(text));
  if (!pieces.length) return undefined;
  const words = pieces.map(([plain, part]) => (part ? make('span', { part, textContent: plain }) : plain));
  return make('div', { part: `line ${severity.toLowerCase()}` },
    make('time', { part: 'time', dateTime: time, textContent: timeOfDay(new Date(time)) }),
    make('span', { part: 'task', textContent: task ?? '' }), make('span', { part: 'text' }, ...words));
}

/** Hours, minutes, seconds; the same as `toTimeString`, which is slow. */
function timeOfDay(date) {
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, '0')).join(':');
}

/** Where a text occurs within an element. */
function found(element, wanted) {
  const ranges = [];
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.data.toLowerCase();
    for (let at = text.indexOf(wanted.toLowerCase()); at >= 0; at = text.indexOf(wanted.toLowerCase(), at + wanted.length)) {
      const range = document.createRange();
      range.setStart(node, at);
      range.setEnd(node, Math.min(at + wanted.length, node.length));
      ranges.push(range);
    }
  }
  return ranges;
}

/** Says on the button itself how what it does went. */
async function tell(button, work, done) {
  const words = button.dataset.words ??= button.textContent;
  button.textContent = await work.then(() => done, () => 'Not possible');
  setTimeout(() => { button.textContent = words; }, 2000);
}
