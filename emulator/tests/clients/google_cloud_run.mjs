// @google-cloud/run, Google's Node library, over REST: credentials are found as on Google.

import assert from 'node:assert/strict';
import {createRequire} from 'node:module';

const {protos, v2} = createRequire(import.meta.url)('@google-cloud/run');
const {ExecutionsClient, JobsClient, TasksClient} = v2;
const {ExecutionReason, State} = protos.google.cloud.run.v2.Condition;
const {hostname, port} = new URL(process.env.EMULATOR_URL);
const options = {fallback: 'rest', apiEndpoint: hostname, port: Number(port), protocol: 'http'};
const jobs = new JobsClient(options);
const executions = new ExecutionsClient(options);
const tasks = new TasksClient(options);
const parent = 'projects/demo/locations/us-east4';

async function create(jobId, task) {
  const containers = [{image: 'us-docker.pkg.dev/demo/images/probe', name: 'main'}];
  const template = {template: {containers, ...task}};
  const [operation] = await jobs.createJob({parent, jobId, job: {template}});
  const [job] = await operation.promise();
  assert.equal(job.name, `${parent}/jobs/${jobId}`);
  assert.equal(job.terminalCondition.state, State.CONDITION_SUCCEEDED);
}

async function run(job, env, overrides = {}) {
  const variables = Object.entries(env).map(([name, value]) => ({name, value}));
  const containerOverrides = [{name: 'main', env: variables}];
  const [operation] = await jobs.runJob({name: `${parent}/jobs/${job}`, overrides: {containerOverrides, ...overrides}});
  return operation;
}

const completed = execution => execution.conditions.find(condition => condition.type === 'Completed');

await create('node', {maxRetries: 0});
await create('flaky', {maxRetries: 2});

// Success, with several tasks and what overrides say.
let operation = await run('node', {CODE: '0'}, {taskCount: 3, timeout: {seconds: 30}});
assert.equal(operation.metadata.reconciling, true);
let [execution] = await operation.promise();
assert.deepEqual([execution.succeededCount, execution.taskCount], [3, 3]);
assert.equal(Number(execution.template.timeout.seconds), 30);
assert.equal(completed(execution).state, State.CONDITION_SUCCEEDED);
const [read] = await executions.getExecution({name: execution.name});
assert.equal(read.uid, execution.uid);
const [listed] = await tasks.listTasks({parent: execution.name});
assert.deepEqual(listed.map(task => task.index), [0, 1, 2]);

// Failure is code 10, a timeout 4, and a cancellation a response.
const failing = await run('node', {CODE: '3'});
const late = await run('node', {SECONDS: '60'}, {timeout: {seconds: 1}});
await Promise.all([
  assert.rejects(failing.promise(), error => error.code === 10),
  assert.rejects(late.promise(), error => error.code === 4),
]);
operation = await run('node', {SECONDS: '60'});
await executions.cancelExecution({name: operation.metadata.name});
[execution] = await operation.promise();
assert.equal(completed(execution).executionReason, ExecutionReason.CANCELLED);
await assert.rejects(executions.cancelExecution({name: execution.name}), error => error.code === 400);

// Two attempts fail, the third succeeds.
[execution] = await (await run('flaky', {GOOD_ATTEMPT: '2'})).promise();
assert.equal(execution.retriedCount, 1);

// Lists in pages.
const names = [];
for await (const {name} of executions.listExecutionsAsync({parent: `${parent}/jobs/-`, pageSize: 2})) names.push(name);
assert.deepEqual([names.length, new Set(names).size], [5, 5]);
const found = [];
for await (const {name} of jobs.listJobsAsync({parent, pageSize: 1})) found.push(name);
assert.deepEqual([found.length, new Set(found).size], [3, 3]);

// The rest of the surface.
const [job] = await jobs.getJob({name: `${parent}/jobs/node`});
job.template.taskCount = 2;
[operation] = await jobs.updateJob({job});
const [changed] = await operation.promise();
assert.deepEqual([Number(changed.generation), changed.template.taskCount], [2, 2]);
await assert.rejects(jobs.getJob({name: `${parent}/jobs/nosuch`}), error => error.code === 404);
[operation] = await executions.deleteExecution({name: execution.name});
await operation.promise();
[operation] = await jobs.deleteJob({name: `${parent}/jobs/node`});
const [deleted] = await operation.promise();
assert.ok(deleted.deleteTime);
