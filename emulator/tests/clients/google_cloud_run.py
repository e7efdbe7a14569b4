"""google-cloud-run, Google's Python library, over REST: with no option but the endpoint; credentials are found as on Google."""

import os

from google.api_core import exceptions
from google.cloud import run_v2

from helpers import completed, refused

PARENT = "projects/demo/locations/us-east4"
options = {"api_endpoint": os.environ["EMULATOR_URL"]}
jobs = run_v2.JobsClient(transport="rest", client_options=options)
executions = run_v2.ExecutionsClient(transport="rest", client_options=options)
tasks = run_v2.TasksClient(transport="rest", client_options=options)
State = run_v2.Condition.State


def job(**task):
    container = run_v2.Container(image="us-docker.pkg.dev/demo/images/probe:latest", name="main")
    template = run_v2.TaskTemplate(containers=[container], **task)
    return run_v2.Job(template=run_v2.ExecutionTemplate(template=template), launch_stage="BETA")


def create(name, **task):
    created = jobs.create_job(parent=PARENT, job=job(**task), job_id=name).result(timeout=30)
    assert created.name == f"{PARENT}/jobs/{name}", created
    assert created.terminal_condition.state == State.CONDITION_SUCCEEDED
    assert created.generation == created.observed_generation == 1 and created.etag and created.uid
    return created


def run(name, env, **overrides):
    variables = [run_v2.EnvVar(name=key, value=value) for key, value in env.items()]
    container = {"name": "main", "env": variables}
    overrides = {"container_overrides": [container], **overrides}
    return jobs.run_job({"name": f"{PARENT}/jobs/{name}", "overrides": overrides})


create("python", max_retries=0)
create("flaky", max_retries=2)
create("slow", max_retries=0, timeout="1s")

# Success, with several tasks and what overrides say.
operation = run("python", {"CODE": "0"}, task_count=3, timeout="30s")
assert operation.metadata.reconciling and operation.metadata.job == "python"
execution = operation.result(timeout=30)
assert (execution.succeeded_count, execution.task_count) == (3, 3), execution
assert execution.template.timeout.seconds == 30
assert execution.template.containers[0].env[0].value == "0"
assert completed(execution).state == State.CONDITION_SUCCEEDED
assert execution.name.startswith(f"{PARENT}/jobs/python/executions/python-")
assert executions.get_execution(name=execution.name) == execution
indexes = [task.index for task in tasks.list_tasks(parent=execution.name)]
assert indexes == [0, 1, 2], indexes
assert tasks.get_task(name=f"{execution.name}/tasks/{execution.name.split('/')[-1]}-task2").index == 2

# Arguments are replaced and cleared.
for container, expected in (({"args": ["a", "b"]}, ["a", "b"]), ({"clear_args": True}, [])):
    request = {"name": f"{PARENT}/jobs/python", "overrides": {"container_overrides": [container]}}
    assert list(jobs.run_job(request).result(timeout=30).template.containers[0].args) == expected

# Failure is code 10, a timeout 4, and a cancellation a response.
operation = run("python", {"CODE": "3"})
refused(exceptions.GoogleAPICallError, lambda: operation.result(timeout=30))
assert operation.operation.error.code == 10
failed = executions.get_execution(name=operation.metadata.name)
assert completed(failed).execution_reason == run_v2.Condition.ExecutionReason.NON_ZERO_EXIT_CODE
(task,) = tasks.list_tasks(parent=failed.name)
assert (task.last_attempt_result.exit_code, task.last_attempt_result.status.code) == (3, 10)

operation = run("slow", {"SECONDS": "60"})
refused(exceptions.GoogleAPICallError, lambda: operation.result(timeout=30))
assert operation.operation.error.code == 4

operation = run("python", {"SECONDS": "60"})
cancelled = executions.cancel_execution(name=operation.metadata.name).result(timeout=30)
assert cancelled.cancelled_count == 1 or completed(cancelled).state == State.CONDITION_FAILED
execution = operation.result(timeout=30)
assert completed(execution).execution_reason == run_v2.Condition.ExecutionReason.CANCELLED
refused(exceptions.BadRequest, lambda: executions.cancel_execution(name=execution.name))

# Two attempts fail, the third succeeds.
execution = run("flaky", {"GOOD_ATTEMPT": "2"}).result(timeout=30)
assert execution.retried_count == 1
(task,) = tasks.list_tasks(parent=execution.name)
assert task.retried == 2

# Lists in pages, also while something is created.
pages = executions.list_executions({"parent": f"{PARENT}/jobs/python", "page_size": 2})
names = [execution.name for execution in pages]
assert len(names) == len(set(names)) == 5, names
listed = iter(jobs.list_jobs({"parent": PARENT, "page_size": 1}))
names = [next(listed).name]
create("meanwhile")
names += [job.name for job in listed]
assert len(names) == len(set(names)) == 4, names

# The rest of the surface.
changed = jobs.get_job(name=f"{PARENT}/jobs/flaky")
changed.template.task_count = 2
changed = jobs.update_job(job=changed).result(timeout=30)
assert (changed.generation, changed.template.task_count, changed.execution_count) == (2, 2, 1)
assert changed.latest_created_execution.completion_status == run_v2.ExecutionReference.CompletionStatus.EXECUTION_SUCCEEDED
assert jobs.get_iam_policy({"resource": changed.name}).version == 1
assert len(jobs.list_operations({"name": PARENT}).operations) > 5
refused(exceptions.NotFound, lambda: jobs.get_job(name=f"{PARENT}/jobs/nosuch"))
refused(exceptions.Conflict, lambda: jobs.create_job(parent=PARENT, job=job(), job_id="python"))
other = {"container_overrides": [{"name": "other"}]}
refused(exceptions.BadRequest, lambda: jobs.run_job({"name": f"{PARENT}/jobs/python", "overrides": other}))
deleted = executions.delete_execution(name=execution.name).result(timeout=30)
assert deleted.delete_time
deleted = jobs.delete_job(name=f"{PARENT}/jobs/python").result(timeout=30)
assert deleted.expire_time
refused(exceptions.NotFound, lambda: jobs.get_job(name=f"{PARENT}/jobs/python"))
