// @google-cloud/run for Node over gRPC, its default: with no option but the endpoint and credentials without TLS.

import assert from 'node:assert/strict';
import {createRequire} from 'node:module';

const require = createRequire(import.meta.url);
const {protos, v2} = require('@google-cloud/run');
const {grpc} = require('google-gax');
const {hostname, port} = new URL(process.env.EMULATOR_URL);
const options = {apiEndpoint: hostname, port: Number(port), sslCreds: grpc.credentials.createInsecure()};
const jobs = new v2.JobsClient(options);
const executions = new v2.ExecutionsClient(options);
const tasks = new v2.TasksClient(options);
const parent = 'projects/demo/locations/us-east4';
const name = `${parent}/jobs/node`;

async function run(env, overrides = {}) {
  const variables = Object.entries(env).map(([name, value]) => ({name, value}));
  const [operation] = await jobs.runJob({name, overrides: {containerOverrides: [{env: variables}], ...overrides}});
  return operation;
}

const containers = [{image: 'us-docker.pkg.dev/demo/images/probe', name: 'main'}];
const template = {template: {containers, maxRetries: 0}};
const [creation] = await jobs.createJob({parent, jobId: 'node', job: {template}});
const [job] = await creation.promise();
assert.equal(job.name, name);

const good = await run({CODE: '0'}, {taskCount: 2, timeout: {seconds: 30}});
const bad = await run({CODE: '3'});
const late = await run({SECONDS: '60'}, {timeout: {seconds: 1}});
const running = await run({SECONDS: '60'});
await executions.cancelExecution({name: running.metadata.name});
const [[execution], , , [cancelled]] = await Promise.all([
  good.promise(),
  assert.rejects(bad.promise(), error => error.code === 10),
  assert.rejects(late.promise(), error => error.code === 4),
  running.promise(),
]);
assert.equal(execution.succeededCount, 2);
const completed = cancelled.conditions.find(condition => condition.type === 'Completed');
assert.equal(completed.executionReason, protos.google.cloud.run.v2.Condition.ExecutionReason.CANCELLED);
await assert.rejects(executions.cancelExecution({name: cancelled.name}), error => error.code === 9);

const [listed] = await tasks.listTasks({parent: execution.name});
assert.deepEqual(listed.map(task => task.index), [0, 1]);
const names = [];
for await (const {name} of executions.listExecutionsAsync({parent: `${parent}/jobs/-`, pageSize: 2})) names.push(name);
assert.deepEqual([names.length, new Set(names).size], [4, 4]);
const [deletion] = await jobs.deleteJob({name});
const [deleted] = await deletion.promise();
assert.ok(deleted.deleteTime);
await assert.rejects(jobs.getJob({name}), error => error.code === 5);
