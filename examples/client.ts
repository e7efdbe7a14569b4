// Starts one execution for a scope, follows it to its end, and returns its result. Needs nothing but `fetch`: Node 20, Deno, Bun
// or a browser.
//
//     const client = new Client("https://api.example", { token: () => user.getIdToken() });
//     const { execution, results } = await client.run("acme", { document: "a" }, { onLine: (line) => console.log(line.text) });
//
// `run` throws NotStarted if nothing was started, and Unknown if that, or what became of the execution, is not known.
//
// As a program it is `node client.ts [URL] SCOPE [PARAMETERS]`, if Node is 22.18 or later; for older ones compile it with tsc. It
// shows the log lines as they come and prints the result as the last line. It reads API_URL, TOKEN and IDEMPOTENCY_KEY from the
// environment. Exit code: 0 it succeeded, 1 it failed, 2 it was cancelled, 3 it could not be started, 4 what became of it is unknown.

export interface Execution {
  name: string;
  scope: string;
  state: "pending" | "running" | "succeeded" | "failed" | "cancelled";
  reason?: string;
  message?: string;
  tasks: { total: number };
  links: { self: string };
}

export interface Line {
  time: string;
  severity: string;
  task: number;
  text: string;
}

export interface Result {
  task: number;
  value: unknown;
  time: string;
}

export interface Problem {
  type: string;
  status: number;
  detail: string;
  retryable: boolean;
  requestId: string;
}

export interface ClientOptions {
  /** Returns a bearer token; called before each request. */
  token?: () => string | Promise<string>;
  /** How long to go on when the service cannot be reached. */
  giveUpSeconds?: number;
}

export interface RunOptions {
  process?: string;
  onRunning?: "allow" | "reject" | "join" | "replace";
  /** Keep it if this program may die: with it, `run` takes up the same start. */
  key?: string;
  onLine?: (line: Line) => void;
  onChange?: (execution: Execution) => void;
}

/** The service refused the start. `problem` is the answer's body, if it had one. */
export class NotStarted extends Error {
  readonly problem: Problem | undefined;
  constructor(words: string, problem?: Problem) {
    super(words);
    this.problem = problem;
  }
}

/** No answer in time. Call `run` again with `key`: an execution that was started is found and not started again. */
export class Unknown extends Error {
  readonly key: string;
  readonly path: string | undefined;
  constructor(words: string, key: string, path?: string) {
    super(words);
    this.key = key;
    this.path = path;
  }
}

/** The service says something at least every 15 seconds; a stream that is silent for longer has died. */
const STREAM_SILENCE_MS = 45_000;
/** Longer than the service takes for any start. */
const ANSWER_MS = 90_000;
/** How long to try to read the result of an execution that has ended. */
const RESULT_SECONDS = 60;
/** A new execution may be unknown to reads for a moment. */
const UNLISTED_MS = 30_000;

/** One request without success: no answer (then there is no status), or a status of 400 and above. */
class Refused extends Error {
  readonly status: number | undefined;
  readonly retryAfter: number;
  readonly problem: Problem | undefined;
  constructor(words: string, status?: number, retryAfter = 0, problem?: Problem) {
    super(words);
    this.status = status;
    this.retryAfter = retryAfter;
    this.problem = problem;
  }

  /** Whether the same request has no chance later. */
  get isFinal(): boolean {
    if (this.problem) return !this.problem.retryable || this.problem.type === "/problems/scope-busy";
    return this.status !== undefined && this.status < 500 && this.status !== 408 && this.status !== 429;
  }

  /** Whether a start that was answered like this may have begun all the same. */
  get mayHaveStarted(): boolean {
    return this.status === undefined || this.status === 504 || (this.status >= 500 && !this.problem);
  }
}

/** A service that starts executions. */
export class Client {
  readonly #url: string;
  readonly #token: ClientOptions["token"];
  readonly #giveUpSeconds: number;

  constructor(url: string, options: ClientOptions = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#token = options.token;
    this.#giveUpSeconds = options.giveUpSeconds ?? 600;
  }

  /** Starts once and follows to the end. */
  async run(scope: string, parameters?: object, options: RunOptions = {}): Promise<{ execution: Execution; results: Result[] }> {
    const key = options.key ?? crypto.randomUUID();
    const started = await this.start(scope, parameters, { ...options, key });
    options.onChange?.(started);
    const path = started.links.self;
    const execution = await this.#follow(path, key, options);
    return { execution, results: await this.#results(path) };
  }

  /** Sends the start with its key until there is an answer to rely on. */
  async start(scope: string, parameters: object | undefined, options: RunOptions & { key: string }): Promise<Execution> {
    const segments = [scope, "process", ...(options.process ? [options.process] : [])];
    const query = options.onRunning ? `?on_running=${options.onRunning}` : "";
    const path = `/scopes/${segments.map(encodeURIComponent).join("/")}${query}`;
    const headers = { "idempotency-key": options.key, "content-type": "application/json" };
    const body = parameters && JSON.stringify(parameters);
    const patience = new Patience(this.#giveUpSeconds);
    let mayHaveStarted = false;
    for (;;) {
      try {
        return await this.#json<Execution>(path, { method: "POST", headers, ...(body && { body }) });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        mayHaveStarted ||= error.mayHaveStarted;
        if (!error.isFinal && (await patience.wait(error.retryAfter))) continue;
        if (mayHaveStarted) throw new Unknown(error.message, options.key);
        throw new NotStarted(error.message, error.problem);
      }
    }
  }

  /** Reads events to the last one, over connections that break. */
  async #follow(path: string, key: string, { onLine, onChange }: RunOptions): Promise<Execution> {
    const began = Date.now();
    let patience = new Patience(this.#giveUpSeconds);
    let place = "";
    for (;;) {
      let retryAfter = 0;
      const silence = new Silence(STREAM_SILENCE_MS);
      try {
        const headers = { accept: "text/event-stream", ...(place && { "last-event-id": place }) };
        const answer = await this.#open(`${path}/events`, { headers, signal: silence.signal });
        if (answer.status === 204 || !answer.body) return await this.#json<Execution>(path);
        for await (const { event, data, id } of events(answer.body, () => silence.restart())) {
          patience = new Patience(this.#giveUpSeconds); // it works
          place = id || place;
          if (event === "log") onLine?.(data as Line);
          else if (event === "execution") onChange?.(data as Execution);
          else if (event === "end") return data as Execution;
        }
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        retryAfter = error.retryAfter;
        if (error.status === 400) place = ""; // the place is no longer known: from the beginning
        const listedSoon = error.status === 404 && Date.now() - began < UNLISTED_MS;
        if (error.isFinal && error.status !== 400 && !listedSoon) throw new Unknown(error.message, key, path);
      } finally {
        silence.end();
      }
      if (await patience.wait(retryAfter)) continue;
      throw new Unknown(`The execution goes on, but cannot be followed: ${this.#url}${path}`, key, path);
    }
  }

  async #results(path: string): Promise<Result[]> {
    const patience = new Patience(RESULT_SECONDS);
    for (;;) {
      try {
        return (await this.#json<{ results: Result[] }>(`${path}/result`)).results;
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (error.isFinal || !(await patience.wait(error.retryAfter))) return []; // the job reported none, or it cannot be read now
      }
    }
  }

  async #json<T>(path: string, init: RequestInit = {}): Promise<T> {
    const answer = await this.#open(path, { ...init, signal: AbortSignal.timeout(ANSWER_MS) });
    return (await transport(answer.json())) as T;
  }

  async #open(path: string, init: RequestInit): Promise<Response> {
    const token = await this.#token?.();
    const headers = new Headers(init.headers);
    if (token) headers.set("authorization", `Bearer ${token}`);
    const answer = await transport(fetch(this.#url + path, { ...init, headers }));
    if (!answer.ok) throw await refusal(answer);
    return answer;
  }
}

/** Waits between the attempts at one thing, until it is time to give up. */
class Patience {
  readonly #giveUpAt: number;
  #attempts = 0;
  constructor(seconds: number) {
    this.#giveUpAt = Date.now() + seconds * 1000;
  }

  /** Waits as long as the service asks for, else longer each time. False: it is time to give up. */
  async wait(retryAfter: number): Promise<boolean> {
    this.#attempts += 1;
    const seconds = Math.max(retryAfter, Math.min(15, 2 ** this.#attempts / 4) * (0.5 + Math.random()));
    if (Date.now() + seconds * 1000 > this.#giveUpAt) return false;
    await new Promise((done) => setTimeout(done, seconds * 1000));
    return true;
  }
}

/** Aborts a stream that says nothing for too long. */
class Silence {
  readonly #controller = new AbortController();
  readonly #ms: number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  constructor(ms: number) {
    this.#ms = ms;
    this.restart();
  }
  get signal(): AbortSignal {
    return this.#controller.signal;
  }
  restart(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(), this.#ms);
  }
  end(): void {
    clearTimeout(this.#timer);
    this.#controller.abort();
  }
}

/** The server-sent events of a body; their data is JSON. One that is cut off is none. */
async function* events(body: ReadableStream<Uint8Array>, alive: () => void): AsyncGenerator<{ event: string; data: unknown; id: string }> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let [rest, event, id] = ["", "", ""];
  let data: string[] = [];
  for (;;) {
    const { value, done } = await transport(reader.read());
    if (done) return;
    alive();
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const [, field, text = ""] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
      if (field === "event") event = text;
      else if (field === "data") data.push(text);
      else if (field === "id") id = text;
      else if (line === "") {
        if (data.length > 0) yield { event, data: await transport(parse(data.join("\n"))), id };
        [event, data] = ["", []];
      }
    }
  }
}

const parse = async (text: string): Promise<unknown> => JSON.parse(text);

async function refusal(answer: Response): Promise<Refused> {
  const isProblem = answer.headers.get("content-type")?.includes("problem+json");
  const problem: Problem | undefined = isProblem ? await answer.json().catch(() => undefined) : undefined;
  const words = problem?.detail ?? `The service answered ${answer.status}.`;
  return new Refused(words, answer.status, Number(answer.headers.get("retry-after")) || 0, problem);
}

/** What `fetch` does: its failures, and bodies that break off or are no JSON, become `Refused`. */
async function transport<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    const { message, cause } = error as Error & { cause?: { code?: string } };
    // Nothing was sent, so that nothing was started.
    if (cause?.code === "ECONNREFUSED") throw new Refused("The service refuses connections.", 503, 0, { retryable: true } as Problem);
    throw new Refused(`The service does not answer: ${message}`);
  }
}

// Where there is no Node, this file is a module and nothing else.
declare const process: { argv: string[]; env: Record<string, string | undefined>; exitCode?: number } | undefined;

async function main(argv: string[], env: Record<string, string | undefined>): Promise<number> {
  const [first = "", ...others] = argv;
  const hasUrl = /^https?:\/\//.test(first);
  const url = hasUrl ? first : (env.API_URL ?? "http://localhost:8080");
  const [scope, text] = hasUrl ? others : [first, ...others];
  if (!scope) {
    console.error("usage: client.ts [URL] SCOPE [PARAMETERS]");
    return 3;
  }
  const { TOKEN, IDEMPOTENCY_KEY, GIVE_UP_SECONDS } = env;
  const client = new Client(url, {
    ...(TOKEN && { token: () => TOKEN }),
    giveUpSeconds: Number(GIVE_UP_SECONDS ?? 600),
  });
  const key = IDEMPOTENCY_KEY || crypto.randomUUID();
  try {
    const parameters = text ? JSON.parse(text) : undefined;
    const { execution, results } = await client.run(scope, parameters, { key, onLine: (line) => console.log(line.text) });
    const values = results.map((result) => result.value);
    if (results.length > 0) console.log(JSON.stringify(execution.tasks.total === 1 ? values[0] : values));
    if (execution.state === "failed") console.error(`failed: ${execution.message}`);
    return { succeeded: 0, failed: 1, cancelled: 2, pending: 4, running: 4 }[execution.state];
  } catch (error) {
    if (error instanceof Unknown) {
      console.error(`${error.message} Repeat it with IDEMPOTENCY_KEY=${error.key}.`);
      return 4;
    }
    console.error(error instanceof Error ? error.message : error);
    return 3;
  }
}

const program = typeof process === "undefined" ? undefined : process;
if (program?.argv[1] && import.meta.url === new URL(program.argv[1], "file:").href) {
  program.exitCode = await main(program.argv.slice(2), program.env);
}
