"""A job in Python: reads its parameters, works page by page, and reports progress and a result.

Replace `work` by your own. The rest is the contract with the service, which docs/your-job.md explains.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

SCOPE = os.environ.get("SCOPE", "")
PARAMETERS = json.loads(os.environ.get("PARAMETERS", "{}"))
EXECUTION = os.environ.get("CLOUD_RUN_EXECUTION") or f"process-{os.getpid()}"  # there is none when you run it by hand
TASK_INDEX = int(os.environ.get("CLOUD_RUN_TASK_INDEX", "0"))
TASK_COUNT = int(os.environ.get("CLOUD_RUN_TASK_COUNT", "1"))

stopping = threading.Event()


def report(message: str, **fields: object) -> None:
    """Prints one line of JSON, which is one log line: `message` is for people, the other fields are for programs."""
    print(json.dumps({"message": message, **fields}), flush=True)


def is_repetition() -> bool:
    """Whether another execution has this start's INVOCATION_ID, and so does its work.

    The first task that creates the file has the start. Cloud Run's retries of that task find their own execution in it and go
    on. All executions must see the same CLAIMS_DIR: on Cloud Run that is a mounted file share. If your work ends up in a
    database, do it there instead, as docs/never-twice.md shows.
    """
    invocation = os.environ.get("INVOCATION_ID")
    if not invocation:
        return False
    claims = Path(os.environ.get("CLAIMS_DIR", os.path.join(tempfile.gettempdir(), "invocations")))
    claims.mkdir(mode=0o700, parents=True, exist_ok=True)
    claim = claims / f"{invocation}.{TASK_INDEX}"
    own = claims / f"{invocation}.{TASK_INDEX}.{EXECUTION}"
    own.write_text(EXECUTION)
    try:
        os.link(own, claim)  # fails if there is one, and never shows half a file
    except FileExistsError:
        pass
    owner = claim.read_text()
    if owner != EXECUTION:
        report(f"The execution {owner} does the work of this start. This one ends.", severity="WARNING")
    return owner != EXECUTION


def work() -> dict:
    """Imports every page that is this task's share, and returns the result."""
    pages = range(1 + TASK_INDEX, 1 + int(PARAMETERS.get("pages", 5)), TASK_COUNT)
    report(f"{len(pages)} pages to do", processProgress={"done": 0, "total": len(pages)})
    for done, page in enumerate(pages, start=1):
        if stopping.wait(float(PARAMETERS.get("seconds_per_page", 1))):
            report(f"stopped before page {page}", severity="WARNING")
            sys.exit(128 + signal.SIGTERM)
        report(f"page {page}", processProgress={"done": done, "total": len(pages)})
    return {"scope": SCOPE, "pages": len(pages)}


def main() -> None:
    # Cloud Run sends SIGTERM when the execution is cancelled or its time is up, and SIGKILL ten seconds later. The first
    # process of a container does not end by itself at SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    if not is_repetition():
        report("finished", processResult=work())


main()
