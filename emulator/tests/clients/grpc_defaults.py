"""google-cloud-run for Python over gRPC, its default: with no option but the endpoint and a channel without TLS."""

import os
from datetime import timedelta
from urllib.parse import urlsplit

import grpc
from google.api_core import exceptions
from google.cloud import run_v2
from google.longrunning import operations_pb2
from google.cloud.run_v2.services.executions.transports import ExecutionsGrpcTransport
from google.cloud.run_v2.services.jobs.transports import JobsGrpcTransport
from google.cloud.run_v2.services.tasks.transports import TasksGrpcTransport

from helpers import completed, refused

PARENT = "projects/demo/locations/us-east4"
channel = grpc.insecure_channel(urlsplit(os.environ["EMULATOR_URL"]).netloc)
jobs = run_v2.JobsClient(transport=JobsGrpcTransport(channel=channel))
executions = run_v2.ExecutionsClient(transport=ExecutionsGrpcTransport(channel=channel))
tasks = run_v2.TasksClient(transport=TasksGrpcTransport(channel=channel))
State = run_v2.Condition.State


def job(**task):
    container = run_v2.Container(image="us-docker.pkg.dev/demo/images/probe:latest", name="main")
    template = run_v2.TaskTemplate(containers=[container], **task)
    return run_v2.Job(template=run_v2.ExecutionTemplate(template=template), labels={"team": "a"})


def run(name, env, **overrides):
    variables = [run_v2.EnvVar(name=key, value=value) for key, value in env.items()]
    overrides = {"container_overrides": [{"env": variables}], **overrides}
    return jobs.run_job({"name": f"{PARENT}/jobs/{name}", "overrides": overrides})


created = jobs.create_job(parent=PARENT, job=job(max_retries=0), job_id="grpc").result(timeout=30)
assert created.name == f"{PARENT}/jobs/grpc" and created.labels["team"] == "a", created
assert created.terminal_condition.state == State.CONDITION_SUCCEEDED
assert jobs.get_job(name=created.name) == created
taken = refused(exceptions.AlreadyExists, lambda: jobs.create_job(parent=PARENT, job=job(), job_id="grpc"))
assert taken.message == "Resource 'grpc' already exists.", taken

operation = run("grpc", {"CODE": "0"}, task_count=3, timeout="30s")
assert operation.metadata.reconciling and operation.metadata.job == "grpc"
execution = operation.result(timeout=30)
assert (execution.succeeded_count, execution.task_count, execution.template.timeout.seconds) == (3, 3, 30)
assert completed(execution).state == State.CONDITION_SUCCEEDED
assert executions.get_execution(name=execution.name) == execution
listed = list(tasks.list_tasks({"parent": execution.name, "page_size": 2}))
assert [task.index for task in listed] == [0, 1, 2]
assert tasks.get_task(name=listed[2].name) == listed[2]

failing = run("grpc", {"CODE": "3"})
refused(exceptions.Aborted, lambda: failing.result(timeout=30))
late = run("grpc", {"SECONDS": "60"}, timeout="1s")
refused(exceptions.DeadlineExceeded, lambda: late.result(timeout=30))
running = run("grpc", {"SECONDS": "60"})
executions.cancel_execution(name=running.metadata.name).result(timeout=30)
cancelled = running.result(timeout=30)
assert completed(cancelled).execution_reason == run_v2.Condition.ExecutionReason.CANCELLED
refused(exceptions.FailedPrecondition, lambda: executions.cancel_execution(name=cancelled.name))

names = [execution.name for execution in executions.list_executions({"parent": f"{PARENT}/jobs/-", "page_size": 2})]
assert len(names) == len(set(names)) == 4, names
names = [job.name for job in jobs.list_jobs({"parent": PARENT, "page_size": 1})]
assert len(names) == len(set(names)) == 2, names

changed = jobs.get_job(name=created.name)
changed.template.task_count = 2
changed = jobs.update_job(job=changed).result(timeout=30)
assert (changed.generation, changed.template.task_count, changed.execution_count) == (2, 2, 4)
refused(exceptions.NotFound, lambda: jobs.update_job(job=run_v2.Job(job(), name=f"{PARENT}/jobs/new")))
policy = jobs.get_iam_policy({"resource": created.name})
policy.bindings.add(role="roles/run.invoker", members=["allUsers"])
assert jobs.set_iam_policy({"resource": created.name, "policy": policy}).bindings == policy.bindings
refused(exceptions.Aborted, lambda: jobs.set_iam_policy({"resource": created.name, "policy": policy}))
asked = {"resource": created.name, "permissions": ["run.jobs.run"]}
assert list(jobs.test_iam_permissions(asked).permissions) == ["run.jobs.run"]
operations = jobs.list_operations({"name": PARENT}).operations
assert running.operation.name in [operation.name for operation in operations]
jobs.delete_operation({"name": running.operation.name})
refused(exceptions.NotFound, lambda: jobs.get_operation({"name": running.operation.name}))
waited = jobs.wait_operation({"name": late.operation.name, "timeout": timedelta(seconds=1)})  # the library returns it undecoded
assert operations_pb2.Operation.FromString(waited).error.code == 4

assert executions.delete_execution(name=cancelled.name).result(timeout=30).delete_time
assert jobs.delete_job(name=created.name).result(timeout=30).expire_time
refused(exceptions.NotFound, lambda: jobs.get_job(name=created.name))
refused(exceptions.InvalidArgument, lambda: jobs.create_job(parent=PARENT, job=job(), job_id="Capital"))
other = "projects/demo/locations/elsewhere/jobs/grpc"
refused(exceptions.NotFound, lambda: jobs.get_job(name=other))
