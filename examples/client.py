"""Starts one execution for a scope, follows it to its end, and returns its result. Needs nothing but Python 3.9.

As a program:

    python3 client.py [URL] SCOPE [PARAMETERS]

shows the log lines as they come and prints the result as the last line. It reads API_URL, TOKEN and IDEMPOTENCY_KEY from the
environment. Exit code: 0 it succeeded, 1 it failed, 2 it was cancelled, 3 it could not be started, 4 what became of it is unknown.

As a module:

    client = Client("https://api.example", token=lambda: fresh_token())
    outcome = client.run("acme", {"document": "a"}, on_line=lambda line: print(line["text"]))
    print(outcome.execution["state"], outcome.results)

`run` raises NotStarted if nothing was started, and Unknown if that, or what became of the execution, is not known.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any, Callable, Iterator

# The service says something at least every 15 seconds; a stream that is silent for longer has died.
STREAM_SILENCE_SECONDS = 45
# Longer than the service takes for any start.
ANSWER_SECONDS = 90
# How long to try to read the result of an execution that has ended.
RESULT_SECONDS = 60
# A new execution may be unknown to reads for a moment.
UNLISTED_SECONDS = 30


class NotStarted(Exception):
    """The service refused the start. `problem` is the answer's body, if it had one."""

    def __init__(self, words: str, problem: dict[str, Any] | None = None):
        super().__init__(words)
        self.problem = problem


class Unknown(Exception):
    """No answer in time. Call `run` again with `key`: an execution that was started is found and not started again."""

    def __init__(self, words: str, key: str, path: str | None = None):
        super().__init__(words)
        self.key = key
        self.path = path


@dataclass
class Outcome:
    """An execution that has ended, and what its tasks reported as their results."""

    execution: dict[str, Any]
    results: list[dict[str, Any]]


class Refused(Exception):
    """One request without success: an answer that is none, or a status of 400 and above (None: no answer)."""

    def __init__(self, words: str, status: int | None = None, retry_after: float = 0, problem: dict[str, Any] | None = None):
        super().__init__(words)
        self.status = status
        self.retry_after = retry_after
        self.problem = problem

    @property
    def is_final(self) -> bool:
        """Whether the same request has no chance later."""
        if self.problem:
            return not self.problem.get("retryable") or self.problem.get("type") == "/problems/scope-busy"
        return self.status is not None and self.status < 500 and self.status not in (408, 429)

    @property
    def may_have_started(self) -> bool:
        """Whether a start that was answered like this may have begun all the same."""
        return self.status in (None, 504) or (self.status >= 500 and not self.problem)


class Client:
    """A service that starts executions. `token` returns a bearer token and is called before each request."""

    def __init__(self, url: str, token: Callable[[], str] | None = None, give_up_seconds: float = 600):
        self.url = url.rstrip("/")
        self.token = token
        self.give_up_seconds = give_up_seconds

    def run(
        self,
        scope: str,
        parameters: dict[str, Any] | None = None,
        *,
        process: str | None = None,
        key: str | None = None,
        on_running: str | None = None,
        on_line: Callable[[dict[str, Any]], None] = lambda line: None,
        on_change: Callable[[dict[str, Any]], None] = lambda execution: None,
    ) -> Outcome:
        """Starts once and follows to the end. Keep the key if this process may die: with it, `run` takes up the same start."""
        key = key or str(uuid.uuid4())
        execution = self.start(scope, parameters, process=process, key=key, on_running=on_running)
        on_change(execution)
        path = execution["links"]["self"]
        ended = self._follow(path, key, on_line, on_change)
        return Outcome(ended, self._results(path))

    def start(
        self,
        scope: str,
        parameters: dict[str, Any] | None = None,
        *,
        key: str,
        process: str | None = None,
        on_running: str | None = None,
    ) -> dict[str, Any]:
        """Sends the start with its key until there is an answer to rely on."""
        segments = [scope, "process", *([process] if process else [])]
        path = "/scopes/" + "/".join(urllib.parse.quote(segment, safe="") for segment in segments)
        query = "?" + urllib.parse.urlencode({"on_running": on_running}) if on_running else ""
        body = json.dumps(parameters).encode() if parameters else b""
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        may_have_started = False
        patience = Patience(self.give_up_seconds)
        while True:
            try:
                with self._open("POST", path + query, headers, body, ANSWER_SECONDS) as answer:
                    return _json(answer.read())
            except Refused as refused:
                may_have_started = may_have_started or refused.may_have_started
                if refused.is_final or not patience.wait(refused.retry_after):
                    if may_have_started:
                        raise Unknown(str(refused), key) from refused
                    raise NotStarted(str(refused), refused.problem) from refused

    def _follow(self, path: str, key: str, on_line: Callable, on_change: Callable) -> dict[str, Any]:
        """Reads events to the last one, over connections that break."""
        place, began = "", time.monotonic()
        patience = Patience(self.give_up_seconds)
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": place} if place else {})}
            retry_after = 0.0
            try:
                with self._open("GET", path + "/events", headers, None, STREAM_SILENCE_SECONDS) as answer:
                    if answer.status == 204:
                        return self._read(path)
                    for event, data, id in _events(answer):
                        patience = Patience(self.give_up_seconds)  # it works
                        place = id or place
                        if event == "log":
                            on_line(data)
                        elif event == "execution":
                            on_change(data)
                        elif event == "end":
                            return data
            except Refused as refused:
                retry_after = refused.retry_after
                if refused.status == 400:
                    place = ""  # the place is no longer known: from the beginning
                listed_soon = refused.status == 404 and time.monotonic() - began < UNLISTED_SECONDS
                if refused.is_final and refused.status != 400 and not listed_soon:
                    raise Unknown(str(refused), key, path) from refused
            if not patience.wait(retry_after):
                raise Unknown(f"The execution goes on, but cannot be followed: {self.url}{path}", key, path)

    def _results(self, path: str) -> list[dict[str, Any]]:
        patience = Patience(RESULT_SECONDS)
        while True:
            try:
                return self._read(path + "/result")["results"]
            except Refused as refused:
                if refused.is_final or not patience.wait(refused.retry_after):
                    return []  # the job reported none, or it cannot be read now

    def _read(self, path: str) -> dict[str, Any]:
        with self._open("GET", path, {}, None, ANSWER_SECONDS) as answer:
            return _json(answer.read())

    def _open(self, method: str, path: str, headers: dict[str, str], body: bytes | None, timeout: float):
        if self.token:
            headers = {**headers, "Authorization": f"Bearer {self.token()}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers, data=body)
        try:
            return _Answer(urllib.request.urlopen(request, timeout=timeout))
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
        except ValueError as error:  # the URL is none
            raise Refused(str(error), 400) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                # Nothing was sent, so that nothing was started.
                raise Refused(f"{self.url} refuses connections.", 503, problem={"retryable": True}) from None
            raise Refused(f"{self.url} does not answer: {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"{self.url} does not answer: {error}") from None


class Patience:
    """Waits between the attempts at one thing, until it is time to give up."""

    def __init__(self, seconds: float):
        self.give_up_at = time.monotonic() + seconds
        self.attempts = 0

    def wait(self, retry_after: float) -> bool:
        """Waits as long as the service asks for, else longer each time. False: it is time to give up."""
        self.attempts += 1
        pause = max(retry_after, min(15, 2**self.attempts / 4) * random.uniform(0.5, 1.5))
        if time.monotonic() + pause > self.give_up_at:
            return False
        time.sleep(pause)
        return True


class _Answer:
    """An answer whose connection can break while it is read."""

    def __init__(self, response: http.client.HTTPResponse):
        self.response = response
        self.status = response.status

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()

    def read(self) -> bytes:
        try:
            return self.response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"The answer broke off: {error}") from None

    def lines(self) -> Iterator[str]:
        try:
            for line in self.response:
                yield line.decode()
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"The stream broke off: {error}") from None


def _events(answer: _Answer) -> Iterator[tuple[str, Any, str]]:
    """The server-sent events of an answer; their data is JSON. One that is cut off is none."""
    event, data, id = "", [], ""
    for line in answer.lines():
        if not line.endswith("\n"):
            return
        field, _, value = line.rstrip("\r\n").partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            id = value
        elif not field and not value:
            if data:
                yield event, _json("\n".join(data)), id
            event, data = "", []


def _json(body: bytes | str) -> dict[str, Any]:
    try:
        return json.loads(body)
    except ValueError:
        raise Refused("The answer is not JSON.") from None


def _refusal(error: urllib.error.HTTPError) -> Refused:
    problem = None
    if "problem+json" in error.headers.get("content-type", ""):
        try:
            problem = json.loads(error.read())
        except (ValueError, OSError, http.client.HTTPException):
            pass
    retry_after = error.headers.get("retry-after", "")
    words = (problem or {}).get("detail") or f"The service answered {error.code}."
    return Refused(words, error.code, float(retry_after) if retry_after.isdigit() else 0, problem)


def main() -> int:
    arguments = sys.argv[1:]
    url = os.environ.get("API_URL", "http://localhost:8080")
    if arguments and arguments[0].startswith(("http://", "https://")):
        url = arguments.pop(0)
    if not 1 <= len(arguments) <= 2 or arguments[0] == "--help":
        print(__doc__, file=sys.stderr)
        return 3
    try:
        parameters = json.loads(arguments[1]) if len(arguments) == 2 else None
    except ValueError as error:
        print(f"PARAMETERS is not JSON: {error}", file=sys.stderr)
        return 3
    token = os.environ.get("TOKEN")
    give_up = float(os.environ.get("GIVE_UP_SECONDS", "600"))
    client = Client(url, token=(lambda: token) if token else None, give_up_seconds=give_up)
    key = os.environ.get("IDEMPOTENCY_KEY") or str(uuid.uuid4())
    try:
        outcome = client.run(arguments[0], parameters, key=key, on_line=lambda line: print(line["text"], flush=True))
    except NotStarted as error:
        print(error, file=sys.stderr)
        return 3
    except Unknown as error:
        print(f"{error} Repeat it with IDEMPOTENCY_KEY={error.key}.", file=sys.stderr)
        return 4
    values = [result["value"] for result in outcome.results]
    if outcome.execution["tasks"]["total"] == 1:
        values = values[0] if values else None
    if outcome.results:
        print(json.dumps(values))
    if outcome.execution["state"] == "failed":
        print(f"failed: {outcome.execution.get('message')}", file=sys.stderr)
    return {"succeeded": 0, "failed": 1, "cancelled": 2}.get(outcome.execution["state"], 4)


if __name__ == "__main__":
    sys.exit(main())
