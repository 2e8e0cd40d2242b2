"""A shop with one rotated key, delivered to GitHub, which cannot be read and may be slow."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from builders import desired_key, environment_with, github_sink, rotation_with
from github_server import GithubServer
from sandbox_control import Dialect, Request, Response, Sandbox
from tls_server import HttpResponse

from provisioner.model.environment import SessionToken
from provisioner.model.token_claims import claims_of
from provisioner.plan import GuardOverrides, PlanOptions
from provisioner.reconcile.connection import WorkspaceOpener
from provisioner.reconcile.proposal import PlanRequest
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.cancellation import Cancellation
from provisioner.runtime.executor import ThreadExecutor
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from github_server import StoredSecret, StoredVariable
    from sandbox_control import ApiKey
    from tls_server import HttpRequest

    from provisioner.execution import RunResult
    from provisioner.plan import FormerSink

MAX_WRITE_SECONDS = 1.5
"""The longest time that GitHub takes for a write, in seconds."""

REPOSITORY = ("repos", "acme", "billing", "actions")
ORGANISATION = ("orgs", "acme", "actions")
DESIRED = desired_key("svc-a", github_sink(), rotation=rotation_with())


class SlowGithub(GithubServer):
    """A GitHub that delays writes and dates them with its own clock."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(plain=True)
        self.rng = rng
        self.slow = False
        self.refuses = False
        self.at_write: Callable[[], None] = lambda: None

    def respond(self, request: HttpRequest) -> HttpResponse | None:
        if request.method == "PUT" and self.slow:
            time.sleep(self.rng.uniform(0, MAX_WRITE_SECONDS))
        if request.method == "PUT" and self.refuses:
            return HttpResponse(
                403, {"message": "Resource not accessible by personal access token"}
            )
        if request.method == "PUT":
            self.at_write()
        return super().respond(request)


def pass_through(request: Request, answer: Callable[[Request], Response]) -> Response:
    return answer(request)


class Shop:
    """A workspace with one rotated key, whose token goes to a secret that cannot be read."""

    def __init__(
        self, sandbox: Sandbox, github: SlowGithub, root: Path, **sink_fields: Any
    ) -> None:
        self.sandbox = sandbox
        self.github = github
        self.root = root
        self.around: Callable[[Request, Callable[[Request], Response]], Response] = pass_through
        legacy = sandbox.dialect is Dialect.LEGACY
        address = github_sink(**sink_fields)
        self.container = REPOSITORY if address.repository else ORGANISATION
        desired = DESIRED._replace(deliver=(address,))
        self.desired = desired if legacy else desired._replace(role="Admin")

    @property
    def secrets(self) -> dict[str, StoredSecret]:
        return self.github.containers[self.container]

    @property
    def receipts(self) -> dict[str, StoredVariable]:
        return self.github.variables[self.container]

    @property
    def secret(self) -> StoredSecret:
        return self.secrets["A"]

    @property
    def receipt(self) -> StoredVariable:
        return self.receipts["A_RECEIPT"]

    def edit_settings(self) -> None:
        """Change a setting of the secret, which changes its time and not its value."""
        self.github.edit_settings(self.container, "A")

    def run(
        self,
        stop: Cancellation | None = None,
        former: Mapping[str, tuple[FormerSink, ...]] = MappingProxyType({}),
        **options: Any,
    ) -> tuple[bool, RunResult]:
        """Run a pipeline; return whether it succeeded, and its result."""
        stop = stop or Cancellation()
        environment = environment_with(
            url=self.sandbox.url,
            credential=SessionToken(Secret(self.sandbox.session_token())),
            owns=("svc-*",),
        )
        environ = {"GH_TOKEN": self.github.token, "GITHUB_API_URL": self.github.url}
        sinks = SinkRegistry(self.root, environ, stop)
        with closing(
            Reconciler(
                (environment,),
                WorkspaceOpener(self.root, stop),
                sinks.open,
                ThreadExecutor(1),
                stop,
            )
        ) as reconciler:
            now = datetime.now(UTC).replace(microsecond=0)
            desired = {"shop": (self.desired,)}
            overrides = GuardOverrides(max_revoke=9)
            request = PlanRequest(desired, now, PlanOptions(**options), overrides, former=former)
            proposal = reconciler.propose(request)
            result = reconciler.execute(proposal)
            assert not any(part.bug for part in result.environments), result
        return not result.incomplete and proposal.refusal is None, result

    def days_pass(self, days: int) -> None:
        """Make all keys and secrets older by some days."""
        age = timedelta(days=days)
        self.sandbox.put(*(older(key, age) for key in self.sandbox.keys()))
        self.github.days_pass(age)

    @property
    def works(self) -> bool:
        """True if the key of the token in the secret is live."""
        claims = claims_of(Secret(self.secret.value))
        assert claims is not None
        row = next(one for one in self.sandbox.keys() if one.id == claims.key)
        return row.revoked_at is None and datetime.fromisoformat(row.expires_at) > datetime.now(UTC)


def older(key: ApiKey, age: timedelta) -> ApiKey:
    def shifted(text: str) -> str:
        return (datetime.fromisoformat(text) - age).isoformat(timespec="milliseconds")

    return replace(
        key,
        created_at=shifted(key.created_at).replace("+00:00", "Z"),
        expires_at=shifted(key.expires_at).replace("+00:00", "Z"),
    )
