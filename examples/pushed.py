"""What Pub/Sub pushes when an execution has ended (docs/recipes.md), read from standard input: prints its scope, name and state."""

import base64
import json
import sys


def ended(push: dict) -> tuple[str, str, str]:
    entry = json.loads(base64.b64decode(push["message"]["data"]))
    execution = entry["protoPayload"]["response"]
    container = execution["spec"]["template"]["spec"]["containers"][0]
    environment = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
    completed = next(c for c in execution["status"]["conditions"] if c["type"] == "Completed")
    if completed["status"] == "True":
        state = "succeeded"
    else:
        state = "cancelled" if completed.get("reason") == "Cancelled" else "failed"
    return environment["SCOPE"], execution["metadata"]["name"], state


print(*ended(json.load(sys.stdin)))
