"""Prefect's two workers for Cloud Run: their own code. Only the factory of their Google client points at the emulator,
because they offer no setting for that."""

import asyncio
import os
import time
import uuid

import google.auth
from google.api_core.client_options import ClientOptions
from googleapiclient import discovery
from prefect.client.schemas import FlowRun
from prefect.utilities.templating import apply_values
from prefect_gcp.credentials import GcpCredentials
from prefect_gcp.workers.cloud_run import CloudRunWorker
from prefect_gcp.workers.cloud_run_v2 import CloudRunWorkerV2

real_build, real_sleep = discovery.build, time.sleep


def build(name, version, **options):
    options["client_options"] = ClientOptions(api_endpoint=os.environ["EMULATOR_URL"])
    options["credentials"] = google.auth.default()[0]
    return real_build(name, version, **options)


discovery.build = build
time.sleep = lambda seconds: real_sleep(min(seconds, 0.2))  # they look after their jobs every five seconds only


class FoundCredentials(GcpCredentials):
    """Credentials that are found where the program runs, as on Google Cloud."""

    _block_type_slug = "found-credentials"

    def get_credentials_from_service_account(self):
        return google.auth.default()[0]


def configuration(worker, **values):
    """What a worker makes of its work pool's template, without a Prefect server to keep that."""
    template = worker.get_default_base_job_template()
    kind = worker.job_configuration
    defaults = kind._get_base_config_defaults(template["variables"]["properties"])
    values = {**defaults, "image": "us-docker.pkg.dev/demo/images/probe", "region": "us-east4", **values}
    values["credentials"] = FoundCredentials(project="demo")
    return kind(**apply_values(template=template["job_configuration"], values=values))


async def run(worker, **values):
    flow_run = FlowRun(name=f"flow-{uuid.uuid4().hex[:6]}", flow_id=uuid.uuid4())
    prepared = configuration(worker, **values)
    prepared.prepare_for_flow_run(flow_run)
    return await worker(work_pool_name="pool").run(flow_run, prepared)


async def check(worker):
    env = {"PREFECT_TEST": "hello"}
    good = run(worker, name="good", command="sh -c 'test $PREFECT_TEST = hello'", env=env)
    bad = run(worker, name="bad", command="sh -c 'exit 3'")
    done, failed = await asyncio.gather(good, bad)
    assert (done.status_code, failed.status_code) == (0, 1), (worker, done, failed)


async def main():
    await asyncio.gather(*(check(worker) for worker in (CloudRunWorker, CloudRunWorkerV2)))


asyncio.run(main())
