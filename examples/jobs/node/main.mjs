// A job in Node: reads its parameters, works page by page, and reports progress and a result.
// Replace `work` by your own. The rest is the contract with the service, which docs/your-job.md explains.

import { linkSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const { SCOPE = "" } = process.env;
const EXECUTION = process.env.CLOUD_RUN_EXECUTION || `process-${process.pid}`; // there is none when you run it by hand
const PARAMETERS = JSON.parse(process.env.PARAMETERS ?? "{}");
const TASK_INDEX = Number(process.env.CLOUD_RUN_TASK_INDEX ?? 0);
const TASK_COUNT = Number(process.env.CLOUD_RUN_TASK_COUNT ?? 1);

const stopping = new AbortController();

/** Prints one line of JSON, which is one log line: `message` is for people, the other fields are for programs. */
function report(message, fields = {}) {
  console.log(JSON.stringify({ message, ...fields }));
}

/**
 * Whether another execution has this start's INVOCATION_ID, and so does its work.
 *
 * The first task that creates the file has the start. Cloud Run's retries of that task find their own execution in it and go on.
 * All executions must see the same CLAIMS_DIR: on Cloud Run that is a mounted file share. If your work ends up in a database,
 * do it there instead, as docs/never-twice.md shows.
 */
function isRepetition() {
  const invocation = process.env.INVOCATION_ID;
  if (!invocation) return false;
  const claims = process.env.CLAIMS_DIR ?? join(tmpdir(), "invocations");
  mkdirSync(claims, { mode: 0o700, recursive: true });
  const claim = join(claims, `${invocation}.${TASK_INDEX}`);
  const own = `${claim}.${EXECUTION}`;
  writeFileSync(own, EXECUTION);
  try {
    linkSync(own, claim); // fails if there is one, and never shows half a file
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
  const owner = readFileSync(claim, "utf8");
  if (owner !== EXECUTION) {
    report(`The execution ${owner} does the work of this start. This one ends.`, { severity: "WARNING" });
  }
  return owner !== EXECUTION;
}

/** Imports every page that is this task's share, and returns the result. */
async function work() {
  const pages = [];
  for (let page = 1 + TASK_INDEX; page <= (PARAMETERS.pages ?? 5); page += TASK_COUNT) pages.push(page);
  const total = pages.length;
  report(`${total} pages to do`, { processProgress: { done: 0, total } });
  for (const [index, page] of pages.entries()) {
    await sleep(1000 * (PARAMETERS.seconds_per_page ?? 1), undefined, { signal: stopping.signal });
    report(`page ${page}`, { processProgress: { done: index + 1, total } });
  }
  return { scope: SCOPE, pages: total };
}

// Cloud Run sends SIGTERM when the execution is cancelled or its time is up, and SIGKILL ten seconds later. The first process of
// a container does not end by itself at SIGTERM.
process.on("SIGTERM", () => stopping.abort());

try {
  if (!isRepetition()) report("finished", { processResult: await work() });
} catch (error) {
  if (!stopping.signal.aborted) throw error;
  report("stopped", { severity: "WARNING" });
  process.exitCode = 128 + 15;
}
