// <process-button scope="acme" label="Import"> starts a process once and follows it to its end.
// Attributes: scope, process, api, label, log, if-running, name, parameters (JSON), usual-seconds. Each is a property too.
// Properties: parameters, token, getToken, and to read: execution, progress, result.
// Methods: start(), cancel(), follow(name).
// Events: process-starting (cancelable), -started, -changed, -progress, -ended, -refused.

const TRIES = 10; // sends of one start, all under one key: about a minute
const RESUME_MS = 600_000; // how long a reload repeats a start that has no answer yet
const SAME_WISH_MS = 3_600_000; // how long a click repeats such a start, if its parameters are the same
const SILENCE_MS = 22_000; // a heartbeat comes every 15 s: a connection that is silent for longer is dead
const HEARTBEAT_MS = 16_000; // the longest wait for a heartbeat after a device has woken up
const UNLISTED_MS = 30_000; // how long an execution may be unknown after its start
const LAST_LINES_MS = 15_000; // how long the last lines of an ended execution are waited for
const LATE_LINES_MS = 5_000; // how long to wait for lines that were missing at the end
const LINES = 5000; // of the log kept on the page
const DRAW_MS = 40; // lines that come within this time are drawn together
const FINISHED = ['succeeded', 'failed', 'cancelled'];
const HOME = import.meta.url; // a token goes to the origin of this address, or to the one that `api` names

/** A new element: its properties, then its children. No HTML is parsed, so that Trusted Types have nothing to object to. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
