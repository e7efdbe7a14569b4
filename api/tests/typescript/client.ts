// Drives a service with a client that is made of its OpenAPI document. Usage: node client.js URL

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/schema.js";

type Execution = components["schemas"]["Execution"];

const PATIENCE_MS = 20_000;
const baseUrl = process.argv[2];
assert(baseUrl, "usage: node client.js URL");
const client = createClient<paths>({ baseUrl });

async function start(document: string): Promise<Execution> {
  const { data, response } = await client.POST("/scopes/{scope}/process", {
    params: { path: { scope: "acme" } },
    body: { document, limit: 7 },
  });
  assert.equal(response.status, 202);
  assert(data);
  assert.equal(response.headers.get("location"), data.links.self);
  return data;
}

async function finished(name: string): Promise<Execution> {
  const deadline = Date.now() + PATIENCE_MS;
  while (Date.now() < deadline) {
    const { data } = await client.GET("/scopes/{scope}/executions/{name}", {
      params: { path: { scope: "acme", name } },
    });
    assert(data);
    if (data.state !== "pending" && data.state !== "running") return data;
    await pause(20);
  }
  throw new Error(`${name} did not finish in time`);
}

const started = await start("a-1");
const ended = await finished(started.name);
assert.equal(ended.state, "succeeded");
assert.equal(ended.tasks.succeeded, 1);

const path = { scope: "acme", name: started.name };
const logs = await client.GET("/scopes/{scope}/executions/{name}/logs", { params: { path } });
assert(typeof logs.data === "object", "JSON, for no text was asked for");
const lines = logs.data.lines.map((line) => line.text);
assert(lines.includes("  ARG: --document=a-1"), JSON.stringify(lines));

const list = await client.GET("/scopes/{scope}/executions", {
  params: { path: { scope: "acme" }, query: { limit: 1 } },
});
assert.deepEqual(list.data?.executions.map((execution) => execution.name), [started.name]);

const cancelled = await client.POST("/scopes/{scope}/executions/{name}/cancel", { params: { path } });
assert.equal(cancelled.response.status, 200, "it had finished");

const refused = await client.POST("/scopes/{scope}/process", {
  params: { path: { scope: "acme" } },
  // @ts-expect-error: the document says that limit is a number
  body: { document: "a-1", limit: "many" },
});
assert.equal(refused.error?.type, "/problems/validation-failed");

const explained = await client.GET("/problems/{slug}", {
  params: { path: { slug: "validation-failed" } },
  parseAs: "text",
});
assert.match(explained.data ?? "", /What to do/);
