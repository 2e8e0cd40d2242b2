"""Refusals and wall time of `provision apply` against a server that limits its requests.

The embedded Twenty is behind a token bucket that is full at the first request, and a manifest has
more keys than the burst allows. The limit is declared, declared ten times too high, or learnt from
the first refusal. In one more case other clients use up the limit: posts are refused at random.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING, Literal

from _manifests import ENVIRONMENT, environment
from _process import Programs
from _report import Requirement, quick, table, verdict
from _sandbox import Dialect, Response, Sandbox, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from _sandbox import Request

Form = Literal["text", "headers", "nothing"]

_PARALLEL = 4
"""The default, which limits the requests in flight at the first refusal."""

_CASE_COLUMNS = ("server", "limit", "refusals say")
_MOST_DECLARED = 3
_MOST_SECONDS = 1.1
"""Maximum ratio to the time that the limit allows."""

_TOO_HIGH = 10
"""Factor by which a limit is declared too high."""

_MOST_TOO_HIGH = 0.08
"""Maximum share of the requests that are refused then."""

_AT_RANDOM = 0.3
"""Share of the posts that are refused at random."""

_RANDOM_KEYS = 45
_MOST_RANDOM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """A limit of a server, and what the client knows about it.

    Attributes:
        requests: the size of the burst, refilled in `seconds`.
        keys: the number of missing keys.
        form: the form of the refusals.
        declared: whether environments.yaml declares the limit, which is then for each minute.
        times: the factor on the limit that it declares.
        at_random: the share of the posts that are refused whatever the limit, by others' use.
        whole: whether the bucket discards the partial token when it accepts a request, as in
            Twenty's source. The burst then delays the refill, so there is no requirement.
    """

    form: Form
    declared: bool = False
    requests: int = 100
    seconds: float = 60.0
    keys: int = 135
    whole: bool = False
    times: int = 1
    at_random: float = 0.0

    @property
    def limit(self) -> str:
        """The source of the limit."""
        if self.times > 1:
            return f"declared {self.times} times too high"
        return "declared" if self.declared else "not declared"

    @property
    def server(self) -> str:
        """The kind of bucket."""
        if self.at_random:
            return f"{self.at_random:.0%} at random"
        return "whole tokens" if self.whole else "bucket"

    @property
    def most(self) -> int:
        """The number of requests that may be refused."""
        if self.times > 1:
            return floor(_MOST_TOO_HIGH * self.keys)
        return _MOST_DECLARED if self.declared else _PARALLEL

    def allows(self, count: int) -> float:
        """Return the minimum seconds for this many requests: the full burst, then the refill."""
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
    Case("text", declared=True, times=_TOO_HIGH),
    Case("nothing", declared=True, times=_TOO_HIGH),
)
_RANDOM = Case("nothing", requests=1_000_000, keys=_RANDOM_KEYS, at_random=_AT_RANDOM)
_QUICK = (
    Case("text", requests=20, seconds=4.0, keys=30),
    Case("headers", requests=20, seconds=4.0, keys=30),
)


@dataclass(slots=True)
class Bucket:
    """A token bucket in front of the server.

    Attributes:
        tokens: the tokens that were left at `since`.
        since: a time by `time.monotonic()`; None before the first request.
    """

    case: Case
    tokens: float = 0.0
    since: float | None = None
    passed: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def fill(self) -> None:
        """Reset the bucket, so that it is full at the next request."""
        self.since, self.passed, self.refused = None, 0, 0

    def __call__(self, request: Request, inner: Callable[[Request], Response]) -> Response:
        """Forward a request, or refuse it if it came too fast."""
        with self.lock:
            is_unlucky = request.method == "POST" and self.dice.random() < self.case.at_random
            self.refused += is_unlucky
            wait = 0.0 if is_unlucky else self._take(time.monotonic())
        return inner(request) if wait is None else self._refusal(wait)

    def _take(self, now: float) -> float | None:
        """Take a token, or return the seconds until one is available."""
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
                message = f"Limit reached ({case.requests} tokens per {case.seconds * 1000:.0f} ms)"
                return json_answer(
                    429, {"statusCode": 429, "error": "ThrottlerException", "messages": [message]}
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
    """Measure and print; return 1 if a limit was exceeded or not used fully."""
    smoke = quick(__doc__)
    rows: list[tuple[object, ...]] = []
    requirements: list[Requirement] = []
    with Programs() as programs:
        measured = [(case, *_measure(case, programs)) for case in (_QUICK if smoke else _CASES)]
        unlucky, unlucky_seconds = _measure(_RANDOM, programs)
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
        (*_CASE_COLUMNS, "requests", "refused", "bound", "seconds", "allowed", "ratio"),
        rows,
    )
    table(
        f"provision apply of {_RANDOM_KEYS} keys with tokens in one file, one run",
        ("server", "requests", "refused", "bound", "seconds"),
        [(_RANDOM.server, unlucky.passed, unlucky.refused, _MOST_RANDOM_SECONDS, unlucky_seconds)],
    )
    requirements.append(Requirement(f"{_RANDOM}: seconds", unlucky_seconds, _MOST_RANDOM_SECONDS))
    return verdict(requirements, smoke=smoke)


def _measure(case: Case, programs: Programs) -> tuple[Bucket, float]:
    """Return the bucket after the run, and the seconds of the whole process."""
    bucket = Bucket(case)
    manifests = programs.folder / "manifests"
    with Sandbox(None, Dialect.CORE, session_seconds=86_400.0, around=bucket) as sandbox:
        names = _write(manifests, sandbox.url, case)
        token = sandbox.session_token()
        programs.provision("plan", manifests, token=token)  # the first run compiles its imports
        bucket.fill()
        seconds = programs.provision("apply", manifests, "--quiet", token=token).seconds
        created = [key.name for key in sandbox.keys()]  # noqa: SIM118 - not a mapping
    if sorted(created) != sorted(names):
        raise SystemExit(f"{case}: the keys are not those of the manifests")
    return bucket, seconds


def _write(directory: Path, url: str, case: Case) -> list[str]:
    """Write the manifests of a case and return the names of the keys."""
    environment(directory, url)
    if case.declared:
        with (directory / "environments.yaml").open("a", encoding="utf-8") as file:
            declared = case.times * case.requests
            file.write(f"    limits: {{requests_per_minute: {declared}}}\n")
    names = [f"svc-{number:03d}" for number in range(case.keys)]
    sink = ", deliver: [{file: tokens.env}]" if case.at_random else ""
    defaults = f"defaults: {{expires: 90d{sink}}}"
    head = ["version: 1", f"environment: {ENVIRONMENT}", defaults, "keys:"]
    lines = [*head, *(f"  - name: {name}" for name in names), ""]
    (directory / "services.yaml").write_text("\n".join(lines), encoding="utf-8")
    return names


if __name__ == "__main__":
    sys.exit(main())
