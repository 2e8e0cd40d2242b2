"""Refusals and wall time of `provision apply` against a server that limits its requests.

The embedded Twenty behind a token bucket that starts full at the first request, and a manifest of
more keys than the burst lets through. With the limit declared, or learnt from the first refusal.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING, Literal

from _manifests import ENVIRONMENT, environment
from _process import Programs
from _report import Requirement, quick, table, verdict

from provisioner.sandbox import Dialect, Sandbox
from provisioner.sandbox.exchange import Response, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provisioner.sandbox.exchange import Request

Form = Literal["text", "headers", "nothing"]

_PARALLEL = 4
"""The default, which bounds what is in flight when the first refusal comes."""

_TOLD = ("server", "limit", "refusals say")
_MOST_DECLARED = 3
_MOST_SECONDS = 1.1
"""Times what the limit allows."""


@dataclass(frozen=True, slots=True)
class Case:
    """One limit of a server, and what the client is told of it.

    Attributes:
        requests: the burst, refilled in `seconds`.
        keys: that are missing.
        form: of the refusals.
        declared: whether environments.yaml says the limit, which is one by the minute then.
        whole: whether the bucket forgets the begun token when it lets a request through, as the
            one in Twenty's source; the time of the burst is no time to refill then, so nothing
            is required of it here.
    """

    form: Form
    declared: bool = False
    requests: int = 100
    seconds: float = 60.0
    keys: int = 135
    whole: bool = False

    @property
    def limit(self) -> str:
        """How the client knows."""
        return "declared" if self.declared else "not declared"

    @property
    def server(self) -> str:
        """The kind of its bucket."""
        return "whole tokens" if self.whole else "bucket"

    @property
    def most(self) -> int:
        """Requests that may be refused."""
        return _MOST_DECLARED if self.declared else _PARALLEL

    def allows(self, count: int) -> float:
        """Seconds that so many requests take at the least: the full burst, then the refill."""
        return max(0, count - self.requests) * self.seconds / self.requests

    def __str__(self) -> str:
        return f"{self.server}, {self.form}, {self.limit}"


_CASES = (
    *(
        Case(form, declared)
        for declared in (True, False)
        for form in ("text", "headers", "nothing")
    ),
    Case("text", declared=True, whole=True),
    Case("text", whole=True),
)
_QUICK = (
    Case("text", requests=20, seconds=4.0, keys=30),
    Case("headers", requests=20, seconds=4.0, keys=30),
)


@dataclass(slots=True)
class Bucket:
    """What stands in front of the server.

    Attributes:
        tokens: that are left, at `since`.
        since: `time.monotonic()`; None before the first request.
    """

    case: Case
    tokens: float = 0.0
    since: float | None = None
    passed: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fill(self) -> None:
        """Begins anew: full at the next request."""
        self.since, self.passed, self.refused = None, 0, 0

    def __call__(self, request: Request, inner: Callable[[Request], Response]) -> Response:
        """Lets a request through, or answers that it came too fast."""
        with self.lock:
            wait = self._take(time.monotonic())
        return inner(request) if wait is None else self._refusal(wait)

    def _take(self, now: float) -> float | None:
        """Takes a token, or says in how many seconds there is one."""
        case = self.case
        if self.since is None:
            self.tokens, self.since = float(case.requests), now
        gained = (now - self.since) * case.requests / case.seconds
        have = min(self.tokens + (floor(gained) if case.whole else gained), case.requests)
        if have < 1:
            self.refused += 1
            return (1 - have) * case.seconds / case.requests
        self.passed += 1
        self.tokens, self.since = have - 1, now
        return None

    def _refusal(self, wait: float) -> Response:
        case = self.case
        match case.form:
            case "text":
                said = f"Limit reached ({case.requests} tokens per {case.seconds * 1000:.0f} ms)"
                return json_answer(
                    429, {"statusCode": 429, "error": "ThrottlerException", "messages": [said]}
                )
            case "headers":
                whole = max(1, ceil(wait))
                headers = (
                    ("Retry-After", str(whole)),
                    ("X-RateLimit-Limit", f"{60 * case.requests / case.seconds:.0f}"),
                    ("X-RateLimit-Remaining", "0"),
                    ("X-RateLimit-Reset", str(whole)),
                )
                return json_answer(
                    429, {"statusCode": 429, "retryAfterSeconds": whole}, headers=headers
                )
            case "nothing":
                return Response(429, b"<html>Too Many Requests</html>")


def main() -> int:
    """Measures, prints, and says whether the limits were respected and used."""
    smoke = quick(__doc__)
    rows: list[tuple[object, ...]] = []
    requirements: list[Requirement] = []
    with Programs() as programs:
        measured = [(case, *_measure(case, programs)) for case in (_QUICK if smoke else _CASES)]
    for case, bucket, seconds in measured:
        allowed = case.allows(bucket.passed)
        ratio = seconds / allowed
        done = (bucket.passed, bucket.refused, case.most, seconds, allowed, ratio)
        rows.append((case.server, case.limit, case.form, *done))
        if not case.whole:
            requirements += [
                Requirement(f"{case}: requests refused", bucket.refused, case.most),
                Requirement(f"{case}: time / what the limit allows", ratio, _MOST_SECONDS),
            ]
    table(
        f"provision apply, {_PARALLEL} requests at a time, one run each",
        (*_TOLD, "requests", "refused", "bound", "seconds", "allowed", "ratio"),
        rows,
    )
    return verdict(requirements, smoke=smoke)


def _measure(case: Case, programs: Programs) -> tuple[Bucket, float]:
    """The bucket as it was left, and the seconds of the whole process."""
    bucket = Bucket(case)
    manifests = programs.folder / "manifests"
    with Sandbox(None, Dialect.CORE, session_seconds=86_400.0, around=bucket) as sandbox:
        wanted = _write(manifests, sandbox.url, case)
        token = sandbox.session_token()
        programs.provision("plan", manifests, token=token)  # the first run compiles what it imports
        bucket.fill()
        seconds = programs.provision("apply", manifests, "--quiet", token=token).seconds
        names = [key.name for key in sandbox.keys()]  # noqa: SIM118 - no mapping
    if sorted(names) != sorted(wanted):
        raise SystemExit(f"{case}: not the keys that were wanted")
    return bucket, seconds


def _write(directory: Path, url: str, case: Case) -> list[str]:
    """Writes the manifests of a case; returns the names of the keys."""
    environment(directory, url)
    if case.declared:
        with (directory / "environments.yaml").open("a", encoding="utf-8") as file:
            file.write(f"    limits: {{requests_per_minute: {case.requests}}}\n")
    names = [f"svc-{number:03d}" for number in range(case.keys)]
    head = ["version: 1", f"environment: {ENVIRONMENT}", "defaults: {expires: 90d}", "keys:"]
    lines = [*head, *(f"  - name: {name}" for name in names), ""]
    (directory / "services.yaml").write_text("\n".join(lines), encoding="utf-8")
    return names


if __name__ == "__main__":
    sys.exit(main())
