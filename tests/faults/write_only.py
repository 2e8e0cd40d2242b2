"""A shop whose one rotated key is delivered to a GitHub that cannot be read, and may be slow."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from builders import desired_key, environment_with, github_sink, rotation_with
from github_server import GithubServer
from tls_server import HttpResponse

from provisioner.model.environment import SessionToken
from provisioner.model.token_claims import claims_of
from provisioner.plan import PlanOptions
from provisioner.reconcile.connection import workspace_opener
from provisioner.reconcile.guards import GuardOverrides
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.cancellation import Cancellation
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sandbox import Dialect, Request, Response, Sandbox
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tls_server import HttpRequest

    from provisioner.execution import RunResult
    from provisioner.sandbox import ApiKey

SLOWEST = 1.5
"""Seconds that GitHub takes for a write, at most."""

REPOSITORY = ("repos", "acme", "billing", "actions")
WANTED = desired_key("svc-a", github_sink(), rotation=rotation_with())


class SlowGithub(GithubServer):
    """Takes its time before it does what a write asks for, and dates it by a clock of its own."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(plain=True)
        self.chance = chance
        self.slow = False
        self.refuses = False
        self.at_write: Callable[[], None] = lambda: None

    def respond(self, request: HttpRequest) -> HttpResponse | None:
        if request.method == "PUT" and self.slow:
            time.sleep(self.chance.uniform(0, SLOWEST))
        if request.method == "PUT" and self.refuses:
            return HttpResponse(
                403, {"message": "Resource not accessible by personal access token"}
            )
        if request.method == "PUT":
            self.at_write()
        return super().respond(request)


def unchanged(request: Request, answer: Callable[[Request], Response]) -> Response:
    return answer(request)


class Shop:
    """A workspace with one rotated key, whose token goes to one secret that cannot be read."""

    def __init__(self, sandbox: Sandbox, github: SlowGithub, root: Path) -> None:
        self.sandbox = sandbox
        self.github = github
        self.root = root
        self.around: Callable[[Request, Callable[[Request], Response]], Response] = unchanged
        legacy = sandbox.dialect is Dialect.LEGACY
        self.wanted = WANTED if legacy else WANTED._replace(role="Admin")

    def run(self, stop: Cancellation | None = None, **options: Any) -> tuple[bool, RunResult]:
        """One pipeline; whether it ends with 0."""
        stop = stop or Cancellation()
        environment = environment_with(
            url=self.sandbox.url,
            credential=SessionToken(Secret(self.sandbox.session_token())),
            owns=("svc-*",),
        )
        environ = {"GH_TOKEN": self.github.token, "GITHUB_API_URL": self.github.url}
        sinks = SinkRegistry(self.root, environ, stop)
        with Reconciler(
            (environment,), workspace_opener(self.root, stop), sinks.open, ThreadExecutor(1), stop
        ) as reconciler:
            now = datetime.now(UTC).replace(microsecond=0)
            plan = reconciler.plan(
                {"shop": (self.wanted,)}, now, PlanOptions(**options), GuardOverrides(max_revoke=9)
            )
            result = reconciler.apply(plan, lambda _: None)
            assert reconciler.internal_error is None, reconciler.internal_error
        return not result.incomplete and reconciler.refusal is None, result

    def days_pass(self, days: int) -> None:
        """Everything that is there is so much older; a token ends no earlier than its key."""
        past = timedelta(days=days)
        self.sandbox.put(*(older(key, past) for key in self.sandbox.keys()))
        for kept in self.github.containers[REPOSITORY].values():
            kept.updated_at -= past

    @property
    def works(self) -> bool:
        """Whether the key of the token in the secret is live."""
        claims = claims_of(Secret(self.github.containers[REPOSITORY]["A"].value))
        assert claims is not None
        row = next(one for one in self.sandbox.keys() if one.id == claims.key)
        return row.revoked_at is None and datetime.fromisoformat(row.expires_at) > datetime.now(UTC)


def older(key: ApiKey, past: timedelta) -> ApiKey:
    def moved(text: str) -> str:
        return (datetime.fromisoformat(text) - past).isoformat(timespec="milliseconds")

    return replace(
        key,
        created_at=moved(key.created_at).replace("+00:00", "Z"),
        expires_at=moved(key.expires_at).replace("+00:00", "Z"),
    )
