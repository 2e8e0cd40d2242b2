"""`--executor`: what travels to workers, what is refused, and what a lost worker costs.

A stand-in for the cluster calls the functions of the workers in this process, with the variables of
a worker. `tests/faults/test_cluster_kill.py` has a real cluster.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_control import Dialect, spent_credits

from provisioner.cli import main
from provisioner.runtime import cluster
from provisioner.runtime.cancellation import Cancellation
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_control import Request, Response

KEYS = ("svc-a", "svc-b", "svc-c")


class StandIn:
    """A cluster of one worker in this process.

    Attributes:
        variables: those of the worker.
        travelled: all that was sent and came back.
        lost: the numbers of the calls that write whose results are lost.
        never_begun: the numbers of the calls that write that are lost before they begin.
        calls: the number of calls that write.
    """

    variables: dict[str, str]
    travelled: list[bytes]
    lost: set[int]
    never_begun: set[int]
    calls = 0

    def __init__(self, address: str = "") -> None:
        self.address = address

    def submit(self, work: Any, value: bytes, then: Any, ticket: Any = None) -> Future[Any]:
        outcome: Future[Any] = Future()
        number = None
        if ticket is not None:
            number = self.calls
            type(self).calls += 1
        if number in self.never_begun:
            outcome.set_result(then("its worker was lost"))
            return outcome
        if ticket is not None:
            assert ticket.take()
        before = dict(os.environ)
        os.environ.update(self.variables)
        try:
            result = work(value, Cancellation())
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.travelled += (value, result)
        outcome.set_result(then("its worker was lost" if number in self.lost else result))
        return outcome

    def ticket(self) -> Ticket:
        return Ticket()

    def has_workers(self) -> bool:
        return True

    def stop(self) -> None:
        """Have nothing to stop."""

    def close(self) -> None:
        """Have nothing to close."""


class Ticket:
    """The right to one call."""

    left, withdrawn = True, False

    def take(self) -> bool:
        left, self.left = self.left, False
        return left

    def withdraw(self) -> bool:
        self.withdrawn |= self.take()
        return self.withdrawn

    def close(self) -> None:
        """Have nothing to forget."""


@pytest.fixture
def worker(monkeypatch) -> type[StandIn]:
    class Fresh(StandIn):
        variables: dict[str, str] = {}  # noqa: RUF012 - of this class, which is new for each test
        travelled: list[bytes] = []  # noqa: RUF012 - as above
        lost: set[int] = set()  # noqa: RUF012 - as above
        never_begun: set[int] = set()  # noqa: RUF012 - as above

    monkeypatch.setattr(cluster, "Cluster", Fresh)
    return Fresh


@pytest.fixture
def apply(tmp_path, capsys) -> Callable[..., tuple[int, Any, str]]:
    """Return a function that applies manifests on a cluster; it returns code, JSON and stderr."""

    def apply_(url: str, sink: str | None = None, **environment: Any) -> tuple[int, Any, str]:
        folder = tmp_path / "manifests"
        folder.mkdir(exist_ok=True)
        body = {"url": url, "role": "Admin", **environment}
        declared = {"version": 1, "environments": {"shop": body}}
        (folder / "environments.yaml").write_text(json.dumps(declared))
        path = str(tmp_path / "shop.env") if sink is None else sink
        manifest = {
            "version": 1,
            "environment": "shop",
            "defaults": {"expires": "90d", "deliver": [{"file": path}]},
            "keys": [{"name": name} for name in KEYS],
        }
        (folder / "keys.yaml").write_text(json.dumps(manifest))
        command = ["apply", "-m", str(folder), "--executor", "dask://scheduler:8786"]
        code = main([*command, "--format", "json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.startswith("{") else out, err

    return apply_


TOKEN = {"token": "${TWENTY_TOKEN}"}


def names_of(served: Any) -> list[str]:
    return sorted(one.name for one in served.sandbox.keys() if one.name in KEYS)


def test_no_secret_travels_in_either_direction(serve, worker, apply, tmp_path) -> None:
    """The worker has the credentials, this process does not, and tokens stay on the worker."""
    served = serve(Dialect.CORE_1)
    secrets = {"TWENTY_TOKEN": served.sandbox.api_token(), "GATE": "a-password-of-the-proxy"}
    worker.variables = secrets
    headers = {"X-Gate": "${GATE}"}
    for created in (3, 0):
        code, document, _ = apply(served.sandbox.url, auth=TOKEN, headers=headers)
        assert (code, document["environments"][0]["summary"]["created"]) == (0, created)
    lines = (tmp_path / "shop.env").read_text().splitlines()
    tokens = [line.partition("=")[2].strip("'\"") for line in lines]
    assert len(tokens) == 3
    assert len(worker.travelled) == 6  # the second run sends no plan
    for secret in (*secrets.values(), *tokens):
        assert not any(secret.encode() in one for one in worker.travelled)


def test_a_secret_cannot_be_pickled() -> None:
    """So that one that is added to a value that travels is noticed."""
    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps((Secret("x", mask=False),))


def test_what_a_lost_worker_did_is_observed_and_not_repeated(serve, worker, apply) -> None:
    """Its keys exist, so nothing is created twice, and the report counts them as created."""
    served = serve(Dialect.CORE_1)
    worker.variables = {"TWENTY_TOKEN": served.sandbox.api_token()}
    worker.lost = {0}
    code, document, _ = apply(served.sandbox.url, auth=TOKEN)
    assert code == 0
    (shop,) = document["environments"]
    assert shop["summary"]["created"] == 3
    ids = {one.name: one.id for one in served.sandbox.keys() if one.name in KEYS}
    assert {one["name"]: one["id"] for one in shop["results"]} == ids
    assert names_of(served) == list(KEYS)


def test_what_is_left_of_a_lost_plan_is_done_by_another_worker(
    serve, worker, apply, tmp_path
) -> None:
    """The first worker creates the keys, the second one mints and delivers their tokens."""

    def no_tokens_at_first(request: Request, answer: Callable[[Request], Response]) -> Response:
        minted = b"generateApiKeyToken" in request.body
        return spent_credits(request) if minted and worker.calls == 1 else answer(request)

    served = serve(Dialect.CORE_1, around=no_tokens_at_first)
    worker.variables = {"TWENTY_TOKEN": served.sandbox.api_token()}
    worker.lost = {0}
    code, document, _ = apply(served.sandbox.url, auth=TOKEN)
    assert (code, worker.calls) == (0, 2)
    (shop,) = document["environments"]
    assert (shop["summary"]["created"], shop["summary"]["delivered"]) == (3, 0)
    assert names_of(served) == list(KEYS)
    assert len((tmp_path / "shop.env").read_text().splitlines()) == 3


def test_a_plan_that_was_never_begun_is_sent_again_as_it_is(serve, worker, apply) -> None:
    """Its worker died before it took the ticket, so nothing needs to be observed again."""
    served = serve(Dialect.CORE_1)
    worker.variables = {"TWENTY_TOKEN": served.sandbox.api_token()}
    worker.never_begun = {0}
    code, document, _ = apply(served.sandbox.url, auth=TOKEN)
    assert (code, document["environments"][0]["summary"]["created"]) == (0, 3)
    assert len(worker.travelled) == 4  # to observe and back, to execute and back
    assert names_of(served) == list(KEYS)


def test_a_worker_that_is_always_lost_leaves_an_incomplete_run(serve, worker, apply) -> None:
    """Nothing was begun, so nothing was written, and the report says so with a code."""
    served = serve(Dialect.CORE_1)
    worker.variables = {"TWENTY_TOKEN": served.sandbox.api_token()}
    worker.never_begun = set(range(10))
    code, document, _ = apply(served.sandbox.url, auth=TOKEN)
    assert code == 4
    errors = [one["error"]["code"] for one in document["environments"][0]["results"]]
    assert errors == ["worker_lost"] * 3
    assert names_of(served) == []


def test_a_stop_withdraws_what_has_not_begun(serve, worker, apply, monkeypatch) -> None:
    """It is skipped, the exit code is that of the signal, and nobody waits for it."""

    def interrupted(_: Any, work: Any, value: bytes, then: Any, ticket: Any = None) -> Future[Any]:
        if ticket is None:
            return submit(worker(), work, value, then)
        os.kill(os.getpid(), signal.SIGINT)
        return Future()

    submit = worker.submit
    monkeypatch.setattr(worker, "submit", interrupted)
    served = serve(Dialect.CORE_1)
    worker.variables = {"TWENTY_TOKEN": served.sandbox.api_token()}
    code, document, _ = apply(served.sandbox.url, auth=TOKEN)
    assert code == 130
    results = document["environments"][0]["results"]
    assert {(one["status"], one["error"]["code"]) for one in results} == {("skipped", "stopped")}
    assert names_of(served) == []


def test_a_guard_on_a_worker_refuses_the_whole_run(serve, worker, apply) -> None:
    """The worker knows whose credential it has; the refusal comes back with its exit code."""
    served = serve(Dialect.CORE_1)
    worker.variables = {"TWENTY_TOKEN": served.sandbox.api_token()}
    other = "20202020-1c25-4d02-bf25-6aeccf7ea419"
    code, document, _ = apply(served.sandbox.url, auth=TOKEN, workspace=other)
    assert (code, document["refusal"]["code"]) == (5, "workspace_mismatch")
    assert worker.calls == 0


def test_a_worker_without_credentials_fails_its_environment(serve, worker, apply) -> None:
    """The message names the variable, which this process may well have."""
    served = serve(Dialect.CORE_1)
    code, document, _ = apply(served.sandbox.url, auth=TOKEN)
    error = document["environments"][0]["error"]
    assert (code, error["code"]) == (4, "credential_missing")
    assert "TWENTY_TOKEN" in error["message"]
    assert served.journal == []


@pytest.mark.parametrize(
    ("url", "sink"), [("sandbox:", "/shared/shop.env"), ("https://crm.example.com", "shop.env")]
)
def test_what_is_on_this_machine_only_is_refused(worker, apply, url, sink) -> None:
    """A worker would write to its own disk, where nobody looks."""
    auth = {} if url == "sandbox:" else {"auth": TOKEN}
    code, _, err = apply(url, sink, **auth)
    assert (code, err.startswith("executor_unusable: ")) == (64, True)
    assert worker.travelled == []


def test_a_missing_extra_is_named(apply, monkeypatch) -> None:
    """It is checked before anything is sent."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = apply("https://crm.example.com", "/shared/shop.env", auth=TOKEN)
    assert code == 4
    assert "needs the library Dask, which is not installed. " + extra_remedy("dask") in err
