"""The workspace of an environment: opened with its credential, or in the embedded Twenty."""

from __future__ import annotations

import errno
import gc
import socket
import weakref
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from builders import URL, environment_with, limits_with
from sandbox_control import Dialect
from sandbox_control import Sandbox as SandboxWithKeys

from provisioner import sandbox
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.http_client.network import Network
from provisioner.model.environment import SessionToken
from provisioner.model.token_claims import claims_of
from provisioner.reconcile import connection
from provisioner.reconcile.connection import WorkspaceOpener
from provisioner.runtime.cancellation import Cancellation
from provisioner.sandbox import Sandbox
from provisioner.secret import Secret
from provisioner.twenty.sign_ins import SignIns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.model.environment import Environment

SHOP = environment_with(url="sandbox:", role="Admin")
STOP = Cancellation()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def sandboxes(monkeypatch: pytest.MonkeyPatch) -> list[Sandbox]:
    """Return the embedded Twenties that are started from now on."""
    started: list[Sandbox] = []

    class Kept(Sandbox):
        def start(self) -> Any:
            started.append(self)
            return super().start()

    monkeypatch.setattr(sandbox, "Sandbox", Kept)
    return started


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return the arguments of all connections from now on; the workspaces themselves are fake."""
    calls: list[tuple[Any, ...]] = []

    class Closable:
        def close(self) -> None:
            calls.append(("closed",))

    def connect(*arguments: Any, **options: Any) -> Closable:
        calls.append((*arguments, options))
        return Closable()

    monkeypatch.setattr(connection, "connect", connect)
    return calls


def failure_of(opener: WorkspaceOpener, environment: Environment, stack: ExitStack) -> Failure:
    with pytest.raises(WorkspaceError) as failed:
        opener(environment, stack)
    return failed.value.failure


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_the_embedded_twenty_keeps_its_keys_below_the_root(tmp_path, stack, dialect) -> None:
    """They are in `.provision/`, in a file with the name of the environment, for each run."""
    with SandboxWithKeys(tmp_path / ".provision" / "shop.sqlite3", dialect) as kept:
        kept.seed(["svc-a"])
    shop = environment_with(url=f"sandbox:{dialect}")
    observation = WorkspaceOpener(tmp_path, STOP)(shop, stack).observe()
    assert [key.name for key in observation.keys] == ["svc-a"]
    assert [file.name for file in tmp_path.iterdir()] == [".provision"]


@pytest.mark.parametrize(("timeout", "lock_wait"), [(4.0, 2.0), (30.0, 10.0), (20.0, 10.0)])
def test_a_lock_is_waited_for_at_most_half_as_long_as_an_answer(
    tmp_path, stack, sandboxes, connected, timeout, lock_wait
) -> None:
    """So the embedded Twenty answers that its file is locked before the request times out."""
    shop = environment_with(url="sandbox:", limits=limits_with(timeout=timeout))
    WorkspaceOpener(tmp_path, STOP)(shop, stack)
    assert [one.lock_wait for one in sandboxes] == [lock_wait]
    assert len(connected) == 1


def test_all_embedded_twenties_of_a_run_share_one_server(
    tmp_path, sandboxes, connected, stack
) -> None:
    """Each environment has its own path and file; closing the run closes the port."""
    opener = WorkspaceOpener(tmp_path, STOP)
    with ExitStack() as run:
        for name in "ab":
            opener(environment_with(name=name, url="sandbox:"), run)
        first, second = (urlsplit(one.url) for one in sandboxes)
        assert first.netloc == second.netloc
        assert (first.path, second.path) == ("/1", "/2")
        addresses = [urlsplit(arguments[1]) for arguments in connected]
        assert addresses == [first, second]
        closes = [arguments[-1]["on_idle_closed"] for arguments in connected]
        assert closes == [one.close_idle_files for one in sandboxes]
        assert {file.name for file in (tmp_path / ".provision").glob("*.sqlite3")} == {
            "a.sqlite3",
            "b.sqlite3",
        }
        socket.create_connection((first.hostname, first.port)).close()
    assert connected[2:] == [("closed",), ("closed",)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((first.hostname, first.port))


def test_a_run_is_signed_in_to_the_embedded_twenty_for_a_day(tmp_path, stack, connected) -> None:
    """A run never signs in to it again, however long it waits for a person."""
    before = datetime.now(UTC).replace(microsecond=0)
    WorkspaceOpener(tmp_path, STOP, others_wait=True)(SHOP, stack)
    [(environment, url, credential, stop, options)] = connected
    assert (environment, stop, options["others_wait"]) == (SHOP, STOP, True)
    assert url.startswith("http://127.0.0.1:")
    assert isinstance(credential, SessionToken)
    claims = claims_of(credential.token)
    assert claims is not None
    assert claims.expires_at is not None
    lifetime = claims.expires_at - before
    assert timedelta(days=1) <= lifetime <= timedelta(days=1, minutes=1)


@pytest.mark.parametrize("others_wait", [True, False])
def test_a_server_is_opened_with_the_credential_of_its_environment(
    tmp_path, stack, connected, others_wait
) -> None:
    """Nothing is written below the root, and the end of the run closes a workspace in use."""
    credential = SessionToken(Secret("t"))
    shop = environment_with(credential=credential)
    with ExitStack() as run:
        _in_use = WorkspaceOpener(tmp_path, STOP, others_wait=others_wait)(shop, run)
        [(*arguments, options)] = connected
        assert arguments == [shop, URL, credential, STOP]
        assert isinstance(options.pop("sign_ins"), SignIns)
        assert isinstance(options.pop("network"), Network)
        del options["on_activity"]
        assert options == {"others_wait": others_wait, "on_idle_closed": None}
    assert connected[1:] == [("closed",)]
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_nobody_uses_any_more_is_not_kept(tmp_path, connected) -> None:
    """In a fleet, thousands of environments have nothing to do once they are planned."""
    shop = environment_with(credential=SessionToken(Secret("t")))
    with ExitStack() as run:
        opener = WorkspaceOpener(tmp_path, STOP)
        kept = weakref.ref(opener(shop, run))
        gc.collect()
        assert kept() is None
    assert ("closed",) not in connected


def test_an_environment_without_a_credential_is_refused(tmp_path, stack, connected) -> None:
    """The failure has its name and says what to add; nothing is contacted."""
    failure = failure_of(WorkspaceOpener(tmp_path, STOP), environment_with(), stack)
    assert failure == Failure(
        Code.AUTH_MISSING,
        "The environment shop has no credential.",
        "Add `auth:` to this environment.",
    )
    assert connected == []


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
            Failure(
                Code.SANDBOX_UNUSABLE,
                "The embedded Twenty for shop cannot start: Cannot assign requested address.",
                "Free a loopback port for this user and run the command again.",
            ),
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            Failure(
                Code.UNREACHABLE,
                "Cannot reach shop: this process has reached its limit on open files.",
                "Raise the limit (`ulimit -n`), or process fewer environments at once.",
            ),
        ),
    ],
)
def test_an_embedded_twenty_that_cannot_listen_says_why(
    tmp_path, stack, connected, monkeypatch, error, failure
) -> None:
    """The failure has the name of the environment, and another run may start it."""

    def front() -> None:
        raise error

    opener = WorkspaceOpener(tmp_path, STOP)
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "Front", front)
        assert failure_of(opener, SHOP, stack) == failure
    assert connected == []
    opener(SHOP, stack)
    assert len(connected) == 1
