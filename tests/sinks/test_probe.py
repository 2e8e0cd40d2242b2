"""Sinks are opened once for each vendor, asked side by side, and each of them once."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import NOW

from provisioner.errors.exceptions import SinkError
from provisioner.errors.failure import Failure
from provisioner.model.sink_address import (
    AwsAddress,
    CommandAddress,
    FileAddress,
    GithubAddress,
    GitlabAddress,
    KubernetesAddress,
    VaultAddress,
)
from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable, Unreadable
from provisioner.runtime.cancellation import STOPPED, Cancellation
from provisioner.sandbox import Sandbox
from provisioner.secret import Secret
from provisioner.sinks.probe import check_all, read_all
from provisioner.sinks.registry import SinkRegistry
from provisioner.sinks.sink import Empty, StoredValue, WriteOnly, sink_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provisioner.model.sink_address import Address
    from provisioner.sinks.sink import Content, Sink

DENIED = Failure("sink_denied", "The sink refused it. Ask for more.")
SIDE_BY_SIDE = 8


def file(number: int) -> FileAddress:
    return FileAddress("a.env", f"A{number}")


@dataclass
class Answers:
    """A sink that answers as it is told."""

    answer: Callable[[], Content | None]

    def check(self) -> None:
        self.answer()

    def read(self) -> Content:
        found = self.answer()
        assert found is not None
        return found

    def write(self, _: Secret) -> None:
        raise AssertionError("a survey writes nothing")


def refuse() -> Content:
    raise sink_error("sink_denied", "The sink refused it.", "Ask for more.")


def no_way(_: Address) -> Sink:
    raise sink_error("sink_denied", "The sink refused it.", "Ask for more.")


def test_a_survey_tells_claims_and_never_a_token(tmp_path: Path) -> None:
    """Of real files: a key's token, a session's, junk, half a token, and nothing."""
    with Sandbox(tmp_path / "state.sqlite3") as sandbox:
        [key_id] = sandbox.seed(["a"])
        good, session = sandbox.token_of(key_id, seconds=3600), sandbox.session_token()
    lines = {"GOOD": good, "SESSION": session, "JUNK": "not-a-token", "HALF": good[:-5]}
    (tmp_path / "a.env").write_text("".join(f"{name}={text}\n" for name, text in lines.items()))
    (tmp_path / "folder").mkdir()
    addresses = {name: FileAddress("a.env", name) for name in (*lines, "NONE")}
    folder = FileAddress("folder", "A")
    stop = Cancellation()
    found = read_all([*addresses.values(), folder], SinkRegistry(tmp_path, {}, stop).open, stop)
    of_key = found[addresses["GOOD"]]
    assert isinstance(of_key, ApiKeyToken)
    assert of_key.key == key_id
    assert of_key.expires_at is not None
    assert timedelta(minutes=55) < of_key.expires_at - datetime.now(UTC) < timedelta(minutes=61)
    assert [found[addresses[name]] for name in ("SESSION", "JUNK", "HALF", "NONE")] == [
        *[NotAToken()] * 3,
        NoToken(),
    ]
    assert isinstance(found[folder], Unavailable)
    assert found[folder].failure.code == "sink_unsuitable"
    assert not [text for text in lines.values() if text in repr(found)]


def test_a_sink_that_cannot_be_read_back_tells_its_time_or_nothing() -> None:
    """As it was told; the order is that of the question."""
    sinks = {
        file(1): Answers(lambda: WriteOnly(NOW)),
        file(2): Answers(WriteOnly),
        file(3): Answers(Empty),
        file(4): Answers(lambda: StoredValue(Secret("no-token-at-all"))),
    }
    found = read_all(sinks, sinks.__getitem__, Cancellation())
    assert list(found.items()) == [
        (file(1), Unreadable(NOW)),
        (file(2), Unreadable(None)),
        (file(3), NoToken()),
        (file(4), NotAToken()),
    ]


def test_a_sink_that_fails_is_its_own_failure_alone() -> None:
    """Whether it cannot be opened, read or prepared; the others are told."""
    sinks: dict[Address, Sink] = {file(1): Answers(refuse), file(2): Answers(Empty)}
    found = read_all(sinks, sinks.__getitem__, Cancellation())
    assert found == {file(1): Unavailable(DENIED), file(2): NoToken()}
    assert read_all([file(1)], no_way, Cancellation()) == {file(1): Unavailable(DENIED)}
    assert check_all(sinks, sinks.__getitem__, Cancellation()) == {file(1): DENIED}
    assert check_all([file(1)], no_way, Cancellation()) == {file(1): DENIED}
    assert check_all([file(2)], sinks.__getitem__, Cancellation()) == {}


@pytest.mark.parametrize("ask", [read_all, check_all])
def test_each_sink_is_asked_once_however_often_it_is_named(ask: Any) -> None:
    """And none where there is none."""
    asked: list[Address] = []

    def open_sink(address: Address) -> Sink:
        asked.append(address)
        return Answers(Empty)

    ask([file(1), file(2), file(1), file(1), file(2)], open_sink, Cancellation())
    assert sorted(asked, key=str) == [file(1), file(2)]
    before = threading.active_count()
    assert ask(iter(()), open_sink, Cancellation()) == {}
    assert (len(asked), threading.active_count()) == (2, before)


@pytest.mark.parametrize("ask", [read_all, check_all])
def test_eight_sinks_are_asked_at_once_and_none_after_a_stop(ask: Any) -> None:
    """They wait for each other, so that fewer would never meet; the rest is not asked."""
    stop = Cancellation()
    together = threading.Barrier(SIDE_BY_SIDE)
    asked: list[Address] = []

    def answer() -> Content:
        if together.wait(10) == 0:
            stop.ask()
        stop.wait()
        return Empty()

    def open_sink(address: Address) -> Sink:
        asked.append(address)
        return Answers(answer)

    addresses = [file(number) for number in range(20)]
    found = ask(addresses, open_sink, stop)
    assert sorted(asked, key=str) == sorted(addresses[:SIDE_BY_SIDE], key=str)
    stopped = Unavailable(STOPPED) if ask is read_all else STOPPED
    answered = dict.fromkeys(addresses[:SIDE_BY_SIDE], NoToken()) if ask is read_all else {}
    assert found == answered | dict.fromkeys(addresses[SIDE_BY_SIDE:], stopped)


@pytest.mark.parametrize("ask", [read_all, check_all])
def test_a_bug_in_a_sink_is_no_failure_of_it(ask: Any) -> None:
    """It ends the survey, so that nobody takes it for an answer."""

    def bug() -> Content:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask([file(1)], lambda _: Answers(bug), Cancellation())


# --- Opening -------------------------------------------------------------------------------------

ADDRESSES: dict[Address, Address] = {
    FileAddress("a.env", "A"): FileAddress("a.env", "B"),
    VaultAddress("secret", "a"): VaultAddress("secret", "b"),
    AwsAddress("a"): AwsAddress("b", "eu-central-1"),
    GithubAddress("acme", "A"): GithubAddress("acme", "B", "web", "live"),
    GitlabAddress("acme/web", "A"): GitlabAddress("acme", "B"),
    KubernetesAddress("web", "a"): KubernetesAddress("web", "b"),
}
"""Two of each vendor; a command has none."""


def test_every_kind_of_address_opens_its_sink_and_vendors_are_made_once(tmp_path: Path) -> None:
    """Without any variable, without the network; two sinks of a vendor share what it is."""
    sinks = SinkRegistry(tmp_path, {}, Cancellation())
    shown = {type(sinks.open(address)).__name__ for address in ADDRESSES}
    assert len(shown) == len(ADDRESSES)
    vendors = dict(sinks._vendors)
    assert len(vendors) == len(ADDRESSES)
    for address in (*ADDRESSES, *ADDRESSES.values()):
        sinks.open(address)
    assert {kind: id(one) for kind, one in sinks._vendors.items()} == {
        kind: id(one) for kind, one in vendors.items()
    }
    command = CommandAddress((sys.executable, "-c", "print('x')"))
    assert type(sinks.open(command)).__name__ not in shown
    assert len(sinks._vendors) == len(vendors) + 1  # what programs share


def test_sinks_that_are_opened_at_once_share_their_vendor(tmp_path: Path) -> None:
    """Threads that meet there find one file, so that neither loses the other's token."""
    sinks = SinkRegistry(tmp_path, {}, Cancellation())
    together = threading.Barrier(SIDE_BY_SIDE)

    def write(number: int) -> None:
        together.wait(10)
        sinks.open(file(number)).write(Secret(f"token-{number}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(SIDE_BY_SIDE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(sinks._vendors) == 1
    lines = (tmp_path / "a.env").read_text().splitlines()
    assert sorted(lines) == [f"A{number}=token-{number}" for number in range(SIDE_BY_SIDE)]


def test_relative_paths_and_programs_stand_at_the_root(tmp_path: Path) -> None:
    """Wherever the command was run."""
    sinks = SinkRegistry(tmp_path, {}, Cancellation())
    sinks.open(FileAddress("x/a.env", "A")).write(Secret("token-1"))
    assert (tmp_path / "x" / "a.env").read_text() == "A=token-1\n"
    store = "import sys; open('kept', 'w').write(sys.stdin.read())"
    sinks.open(CommandAddress((sys.executable, "-c", store))).write(Secret("token-2"))
    assert (tmp_path / "kept").read_text() == "token-2"


@pytest.mark.parametrize(
    ("address", "library"),
    [(VaultAddress("secret", "a"), "hvac"), (AwsAddress("a"), "boto3")],
)
def test_a_library_that_is_missing_is_told_when_it_is_needed(
    address: Address, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink opens, and says which extra to install; sinks of others work."""
    for name in [one for one in sys.modules if one.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    stop = Cancellation()
    open_sink = SinkRegistry(tmp_path, {}, stop).open
    found = read_all([address, file(1)], open_sink, stop)
    lacking = found[address]
    assert isinstance(lacking, Unavailable)
    assert lacking.failure.code == "sink_extra_missing"
    assert str(address) in lacking.failure.message
    assert "twenty-provisioner[" in lacking.failure.message
    assert found[file(1)] == NoToken()
    assert check_all([address, file(1)], open_sink, stop) == {address: lacking.failure}
    with pytest.raises(SinkError):
        open_sink(address).write(Secret("token-1"))


@pytest.mark.parametrize("address", [one for one in ADDRESSES if not isinstance(one, AwsAddress)])
def test_a_vendor_without_a_credential_is_told_with_the_sinks_own_name(
    address: Address, tmp_path: Path
) -> None:
    """What opens it comes from the variables of the run alone; a file needs none."""
    stop = Cancellation()
    found = check_all([address], SinkRegistry(tmp_path, {}, stop).open, stop)
    if isinstance(address, FileAddress):
        assert found == {}
    else:
        assert str(address) in found[address].message


class Noted(Cancellation):
    """A stop that notes its waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


KUBECONFIG = """\
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: u, user: {{token: credential}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@pytest.mark.parametrize(
    ("address", "variables"),
    [
        (VaultAddress("secret", "a"), {"VAULT_ADDR": "{url}", "VAULT_TOKEN": "credential"}),
        (GithubAddress("acme", "A"), {"GITHUB_API_URL": "{url}", "GITHUB_TOKEN": "credential"}),
        (GitlabAddress("acme", "A"), {"GITLAB_API_URL": "{url}", "GITLAB_TOKEN": "credential"}),
        (KubernetesAddress("web", "a"), {"KUBECONFIG": "{root}/config"}),
    ],
)
def test_a_vendor_that_is_busy_is_waited_for_as_long_as_the_run_may_wait(
    address: Address, variables: dict[str, str], tmp_path: Path, scripted, answer
) -> None:
    """Its waits are those of the run, so that a stop ends them; then it is told as busy."""
    server = scripted(*[answer(503, "{}", Retry_After="1")] * 50)
    (tmp_path / "config").write_text(KUBECONFIG.format(url=server.url))
    environ = {name: text.format(url=server.url, root=tmp_path) for name, text in variables.items()}
    stop = Noted()
    found = read_all([address], SinkRegistry(tmp_path, environ, stop).open, stop)
    assert isinstance(found[address], Unavailable)
    assert found[address].failure.code == "sink_unavailable"
    assert len(server.requests) > 1
    assert stop.waits
    assert max(stop.waits) >= 1
