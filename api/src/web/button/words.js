
// ---- words

/** The state of an execution in one sentence. */
function describe({ state, reason, message, tasks: { total = 1, running, succeeded, failed, retried } = {} }) {
  const repeated = retried && `${retried} ${retried === 1 ? 'attempt' : 'attempts'} repeated`;
  if (state === 'failed') {
    const why = message ?? reason ?? 'no reason was given';
    const counts = [total > 1 && failed > 0 && `${failed} of ${total} tasks failed`, repeated].filter(Boolean).join(', ');
    return `Failed: ${counts && `${counts}. `}${why}`;
  }
  const several = total > 1 && [`${succeeded} of ${total} tasks done`, running && `${running} running`, failed && `${failed} failed`];
  const counts = [...(several || []), repeated].filter(Boolean).join(', ');
  return state[0].toUpperCase() + state.slice(1) + (counts && `: ${counts}`);
}

/** Seconds that an execution has taken, or took. */
function secondsOf({ startedAt, createdAt, completedAt }) {
  const until = Date.parse(completedAt) || Date.now();
  return Math.max(0, Math.floor((until - Date.parse(startedAt ?? createdAt)) / 1000)) || 0; // clocks differ
}

/** Seconds as a clock shows them. */
function clock(seconds) {
  const parts = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map((part) => String(Math.floor(part)).padStart(2, '0'));
  return parts.join(':').replace(/^00:0?/, '');
}

/** Seconds as people say them. */
function duration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** The same, rounded: "usually 3 min". */
function roughly(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** Whether JavaScript has the number that this text writes: others it would round, to send or show another one. */
function isExact(text) {
  const number = Number(text);
  const digits = text.replace(/e.*$/i, '').replace(/\D/g, '').replace(/^0+/, '');
  const isWhole = Number.isSafeInteger(number) && !/\.0*[1-9]/.test(text);
  return Number.isFinite(number) && (digits.length <= 15 || isWhole || String(number) === text);
}

/** Whether all numbers of a text in JSON are exact. */
function areExact(json) {
  const numbers = json.replace(/"(?:[^"\\]|\\.)*"/g, '').match(/-?\d[\d.eE+-]*/g) ?? [];
  return numbers.every(isExact);
}

/** A job's result as nodes: a web address becomes a link, an object a list of its fields. */
function shown(value) {
  if (typeof value === 'string' && /^https?:\/\/\S+$/.test(value)) {
    return [make('a', { href: value, target: '_blank', rel: 'noopener noreferrer', textContent: value })];
  }
  if (value && typeof value === 'object' && !Array.isArray(value)) {
    return Object.entries(value).map(([name, field]) => make('div', {}, `${name}: `, ...shown(field)));
  }
  return [typeof value === 'string' ? value : JSON.stringify(value)];
}
