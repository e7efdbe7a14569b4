"""google-api-python-client, v1 and v2, with the discovery documents that it ships."""

import os
import time

import google.auth
from google.api_core.client_options import ClientOptions
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

options = ClientOptions(api_endpoint=os.environ["EMULATOR_URL"])
credentials, project = google.auth.default()
assert project == "demo", project


def client(version):
    return build("run", version, client_options=options, credentials=credentials, static_discovery=True)


def refused(code, request):
    try:
        request.execute()
    except HttpError as error:
        assert error.status_code == code, error
        return
    raise AssertionError(f"not refused with {code}")


# v2, all of it.
v2 = client("v2").projects().locations()
parent = "projects/demo/locations/us-east4"
container = {"image": "us-docker.pkg.dev/demo/images/probe"}
body = {"template": {"template": {"containers": [container], "maxRetries": 0, "timeout": "2s"}}}
created = v2.jobs().create(parent=parent, jobId="two", body=body).execute()
assert created["done"] and created["response"]["latestCreatedExecution"] == {}, created
name = f"{parent}/jobs/two"


def run(env, **overrides):
    variables = [{"name": key, "value": value} for key, value in env.items()]
    overrides = {"containerOverrides": [{"env": variables}], **overrides}
    operation = v2.jobs().run(name=name, body={"overrides": overrides}).execute()
    return v2.operations().wait(name=operation["name"], body={"timeout": "20s"}).execute()


assert run({"CODE": "0"}, taskCount=2)["response"]["succeededCount"] == 2
assert run({"CODE": "1"})["error"]["code"] == 10
assert run({"SECONDS": "60"})["error"]["code"] == 4
operation = v2.jobs().run(name=name).execute()  # neither body nor content type
assert v2.operations().wait(name=operation["name"], body={}).execute()["done"]
running = v2.jobs().run(name=name, body={"overrides": {"timeout": "60s", "containerOverrides": [{"env": [{"name": "SECONDS", "value": "60"}]}]}}).execute()
execution = running["metadata"]["name"]
v2.jobs().executions().cancel(name=execution, body={}).execute()
cancelled = v2.operations().wait(name=running["name"], body={"timeout": "20s"}).execute()
assert cancelled["done"] and "error" not in cancelled, cancelled

listing, names = v2.jobs().executions(), []
request = listing.list(parent=name, pageSize=2)
while request is not None:
    page = request.execute()
    names += [item["name"] for item in page["executions"]]
    request = listing.list_next(request, page)
assert len(names) == len(set(names)) == 5, names
everything = listing.list(parent=f"{parent}/jobs/-", showDeleted=False).execute()
assert len(everything["executions"]) == 5
tasks = listing.tasks().list(parent=names[-1]).execute()["tasks"]
assert [task.get("index", 0) for task in tasks] == [0, 1]
assert listing.tasks().get(name=tasks[1]["name"]).execute() == tasks[1]
assert listing.get(name=execution).execute()["cancelledCount"] == 1

job = v2.jobs().get(name=name).execute()
job["labels"] = {"team": "a"}
assert v2.jobs().patch(name=name, body=job).execute()["response"]["labels"] == {"team": "a"}
assert v2.jobs().patch(name=f"{parent}/jobs/three", allowMissing=True, body=body).execute()["done"]
policy = v2.jobs().getIamPolicy(resource=name).execute()
policy["bindings"] = [{"role": "roles/run.invoker", "members": ["allUsers"]}]
v2.jobs().setIamPolicy(resource=name, body={"policy": policy}).execute()
assert v2.jobs().getIamPolicy(resource=name).execute()["bindings"] == policy["bindings"]
permissions = {"permissions": ["run.jobs.run"]}
assert v2.jobs().testIamPermissions(resource=name, body=permissions).execute() == permissions
operations = v2.operations().list(name=parent).execute()["operations"]
assert running["name"] in [operation["name"] for operation in operations]
v2.operations().delete(name=running["name"]).execute()
refused(404, v2.operations().get(name=running["name"]))
listing.delete(name=execution).execute()
refused(404, listing.get(name=execution))
v2.jobs().delete(name=f"{parent}/jobs/three").execute()

# v1 over the same state.
v1 = client("v1").namespaces()
jobs, executions = v1.jobs(), v1.executions()
seen = [job["metadata"]["name"] for job in jobs.list(parent="namespaces/demo").execute()["items"]]
assert "two" in seen and "three" not in seen, seen
job = jobs.get(name="namespaces/demo/jobs/two").execute()
assert job["metadata"]["labels"]["team"] == "a"
job["spec"]["template"]["spec"]["taskCount"] = 3
assert jobs.replaceJob(name="namespaces/demo/jobs/two", body=job).execute()["metadata"]["generation"] == 2
execution = jobs.run(name="namespaces/demo/jobs/two", body={}).execute()
name = f"namespaces/demo/executions/{execution['metadata']['name']}"
deadline = time.monotonic() + 20
while True:
    execution = executions.get(name=name).execute()
    completed = execution["status"]["conditions"][0]
    if completed["status"] != "Unknown":
        break
    assert time.monotonic() < deadline, execution
    time.sleep(0.05)
assert completed["status"] == "True" and execution["status"]["succeededCount"] == 3, execution
selector = "run.googleapis.com/job = two"
listed = executions.list(parent="namespaces/demo", labelSelector=selector, limit=100).execute()
assert len(listed["items"]) == 5
assert len(v1.tasks().list(parent="namespaces/demo", limit=2).execute()["items"]) == 2
refused(400, executions.cancel(name=name, body={}))
executions.delete(name=name).execute()
jobs.delete(name="namespaces/demo/jobs/two").execute()
refused(404, jobs.get(name="namespaces/demo/jobs/two"))
