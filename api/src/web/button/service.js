
// ---- calling the service

const EXPIRED = 'Your session has expired: sign in again, and it goes on.';

/** Why a request came to nothing: in words for the visitor, and what may be done about it. */
class Refusal extends Error {
  status; // absent when no answer came
  again = true; // whether the same request may be sent again
  after = 0; // seconds to wait before that
  slug; // the last part of the problem's type
  requestId;
  execution; // the one that prevents the start
  errors; // what is wrong with each field: pointer and detail
  signIn = false; // a person has to sign in
}

const refusal = (message, more) => Object.assign(new Refusal(message), more);

/** Sends a request and reads the answer. Throws a `Refusal`, or what `fetch` throws. */
async function call(url, { token, ...init }, read = (response) => response.json()) {
  const headers = {
    ...init.headers,
    'x-requested-with': 'XMLHttpRequest', // Identity-Aware Proxy then answers 401, not a redirect to its sign-in page
    ...(token && { authorization: `Bearer ${token}` }),
  };
  const response = await fetch(url, { ...init, headers, cache: 'no-store', redirect: 'manual' });
  if (response.type === 'opaqueredirect') throw refusal(EXPIRED, { status: 401, again: false, signIn: true });
  if (!response.ok) throw await refused(response);
  return read(response);
}

/** What happened, then what to do about it. */
async function refused(response) {
  const { status, headers } = response;
  const said = headers.get('content-type')?.includes('problem+json') && (await response.json().catch(() => null));
  const known = {
    status,
    slug: said?.type?.split('/').pop(),
    requestId: said?.requestId ?? headers.get('x-request-id') ?? undefined,
    execution: said?.execution?.split('/').pop(),
    errors: said?.errors,
    after: Number(headers.get('retry-after')) || 0,
  };
  if (status === 401 && !said) return refusal(EXPIRED, { ...known, again: false, signIn: true }); // a proxy's answer
  const again = said ? said.retryable && known.slug !== 'scope-busy' : status === 429 || status >= 500;
  const words = [said?.title, said?.detail].filter(Boolean).map(sentence).join(' ');
  return refusal(words || `The service answered ${status}.`, { ...known, again });
}

const sentence = (text) => (/[.!?…]$/.test(text) ? text : `${text}.`);

/** Whatever was thrown, as a `Refusal`. An `Error` pure and simple is of `getToken`. */
function asRefusal(error) {
  if (error instanceof Refusal) return error;
  return refusal(error.name === 'Error' && error.message ? error.message : 'The service cannot be reached.');
}

/** The server-sent events of a body, whose data is JSON, and its comments. */
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
      } else if (!field && text) yield { comment: text };
    }
  }
}

const newKey = () => crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-'); // no UUID on http
