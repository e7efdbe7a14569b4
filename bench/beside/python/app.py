"""The alternative in Python: FastAPI on uvicorn, and Google's client over REST."""

import json
import os

from fastapi import FastAPI
from google.auth import compute_engine
from google.cloud import run_v2
from google.cloud.run_v2.services.jobs.transports import JobsRestTransport
from pydantic import BaseModel

JOB = "projects/p/locations/europe-west1/jobs/worker"
transport = JobsRestTransport(host=os.environ["UPSTREAM"], url_scheme="http", credentials=compute_engine.Credentials())
client = run_v2.JobsClient(transport=transport)
app = FastAPI()


class Parameters(BaseModel):
    document: str
    limit: int = 100


@app.post("/scopes/{scope}/process", status_code=202)
def process(scope: str, parameters: Parameters):
    env = [{"name": "SCOPE", "value": scope}, {"name": "LIMIT", "value": str(parameters.limit)}]
    args = [f"--scope={scope}", f"--document={parameters.document}"]
    overrides = {"container_overrides": [{"args": args, "env": env}]}
    operation = client.run_job({"name": JOB, "overrides": overrides})
    return json.loads(run_v2.Execution.to_json(operation.metadata))
