"""google-cloud-logging, Google's Python library, over REST: lines are read by filters, and in pages."""

import os

from google.cloud import logging, run_v2

PARENT = "projects/demo/locations/us-east4"
SCRIPT = """echo Hello 1; echo 'hello 2'; echo '{"message": "lost", "n": 3, "severity": "ERROR"}'; echo '{"message": "four", "n": 4}'"""
options = {"api_endpoint": os.environ["EMULATOR_URL"]}
jobs = run_v2.JobsClient(transport="rest", client_options=options)
client = logging.Client(project="demo", _use_grpc=False, client_options=options)

container = run_v2.Container(image="us-docker.pkg.dev/demo/images/talker", command=["sh", "-c", SCRIPT])
template = run_v2.ExecutionTemplate(template=run_v2.TaskTemplate(containers=[container]))
jobs.create_job(parent=PARENT, job=run_v2.Job(template=template), job_id="talker").result(timeout=30)
execution = jobs.run_job(name=f"{PARENT}/jobs/talker").result(timeout=30).name.rsplit("/", 1)[-1]


def read(filter_, order=logging.ASCENDING):
    own = f'labels."run.googleapis.com/execution_name"="{execution}" AND {filter_}'
    return list(client.list_entries(filter_=own, order_by=order, page_size=1))


lost = {"message": "lost", "n": 3.0}
four = {"message": "four", "n": 4.0}
# As Airflow reads them.
every = 'resource.type="cloud_run_job" NOT logName:"cloudaudit.googleapis.com"'
assert [entry.payload for entry in read(every)] == ["Hello 1", "hello 2", lost, four]
assert [entry.payload for entry in read(every, logging.DESCENDING)] == [four, lost, "hello 2", "Hello 1"]
for filter_, expected in [
    ('textPayload:"HELLO"', ["Hello 1", "hello 2"]),
    ('textPayload=~"^hello"', ["hello 2"]),
    ('jsonPayload.n>=3 AND (severity>=ERROR OR jsonPayload.message="FOUR")', [lost, four]),
    ("-textPayload:* jsonPayload.n!=4", [lost]),
    ("labels.nope!=x", []),
]:
    assert [entry.payload for entry in read(filter_)] == expected, filter_
[entry] = read("severity=ERROR")
assert entry.severity == "ERROR" and entry.resource.labels["job_name"] == "talker", entry
assert entry.log_name == "projects/demo/logs/run.googleapis.com%2Fstdout" and entry.timestamp and entry.insert_id
