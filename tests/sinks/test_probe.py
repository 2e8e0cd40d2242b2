"""Opening sinks once for each vendor, and reading and checking them in parallel."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import NOW
from sandbox_control import Sandbox

from provisioner.errors.exceptions import SinkError
from provisioner.errors.failure import Failure
from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable, Unreadable
from provisioner.runtime.cancellation import STOPPED, Cancellation
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.aws import AwsAddress
from provisioner.sinks.command import CommandAddress
from provisioner.sinks.file import FileAddress
from provisioner.sinks.github import GithubAddress
from provisioner.sinks.gitlab import GitlabAddress
from provisioner.sinks.kubernetes import KubernetesAddress
from provisioner.sinks.probe import check_all, read_all
from provisioner.sinks.registry import SinkRegistry
from provisioner.sinks.sink import StoredValue, sink_error
from provisioner.sinks.vault import VaultAddress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provisioner.model.sink_address import Address
    from provisioner.sinks.sink import Content, Sink

DENIED = Failure("sink_denied", "The sink refused it.", "Ask for more.")
PARALLEL = 8


def file(number: int) -> FileAddress:
    return FileAddress("a.env", f"A{number}")


@dataclass
class FakeSink:
    """A sink with a given answer."""

    answer: Callable[[], Content | None]

    def check(self) -> None:
        self.answer()

    def read(self) -> Content:
        found = self.answer()
        assert found is not None
        return found

    def write(self, _: Secret) -> None:
        raise AssertionError("nothing may be written")


def refuse() -> Content:
    raise sink_error("sink_denied", "The sink refused it.", "Ask for more.")


def refuse_to_open(_: Address) -> Sink:
    raise sink_error("sink_denied", "The sink refused it.", "Ask for more.")


def test_read_all_returns_claims_and_no_tokens(tmp_path: Path) -> None:
    """Real files contain a key's token, a session token, other text, half a token or nothing."""
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


def test_a_write_only_sink_returns_its_update_time() -> None:
    """The results have the order of the addresses."""
    sinks = {
        file(1): FakeSink(lambda: Unreadable(NOW)),
        file(2): FakeSink(Unreadable),
        file(3): FakeSink(NoToken),
        file(4): FakeSink(lambda: StoredValue(Secret("no-token-at-all"))),
    }
    found = read_all(sinks, sinks.__getitem__, Cancellation())
    assert list(found.items()) == [
        (file(1), Unreadable(NOW)),
        (file(2), Unreadable(None)),
        (file(3), NoToken()),
        (file(4), NotAToken()),
    ]


def test_a_failing_sink_does_not_affect_others() -> None:
    """Opening, reading or checking may fail; the other sinks are still returned."""
    sinks: dict[Address, Sink] = {file(1): FakeSink(refuse), file(2): FakeSink(NoToken)}
    found = read_all(sinks, sinks.__getitem__, Cancellation())
    assert found == {file(1): Unavailable(DENIED), file(2): NoToken()}
    assert read_all([file(1)], refuse_to_open, Cancellation()) == {file(1): Unavailable(DENIED)}
    assert check_all(sinks, sinks.__getitem__, Cancellation()) == {file(1): DENIED}
    assert check_all([file(1)], refuse_to_open, Cancellation()) == {file(1): DENIED}
    assert check_all([file(2)], sinks.__getitem__, Cancellation()) == {}


@pytest.mark.parametrize("visit_all", [read_all, check_all])
def test_each_sink_is_opened_once(visit_all: Any) -> None:
    """Repeated addresses are opened once, and no thread is started without addresses."""
    opened: list[Address] = []

    def open_sink(address: Address) -> Sink:
        opened.append(address)
        return FakeSink(NoToken)

    visit_all([file(1), file(2), file(1), file(1), file(2)], open_sink, Cancellation())
    assert sorted(opened, key=str) == [file(1), file(2)]
    before = threading.active_count()
    assert visit_all(iter(()), open_sink, Cancellation()) == {}
    assert (len(opened), threading.active_count()) == (2, before)


@pytest.mark.parametrize("visit_all", [read_all, check_all])
def test_eight_sinks_are_opened_in_parallel_and_none_after_a_stop(visit_all: Any) -> None:
    """Eight of them wait for each other, so fewer would block; the others are never opened."""
    stop = Cancellation()
    together = threading.Barrier(PARALLEL)
    opened: list[Address] = []

    def answer() -> Content:
        if together.wait(10) == 0:
            stop.request()
        stop.wait()
        return NoToken()

    def open_sink(address: Address) -> Sink:
        opened.append(address)
        return FakeSink(answer)

    addresses = [file(number) for number in range(20)]
    found = visit_all(addresses, open_sink, stop)
    assert sorted(opened, key=str) == sorted(addresses[:PARALLEL], key=str)
    stopped = Unavailable(STOPPED) if visit_all is read_all else STOPPED
    answered = dict.fromkeys(addresses[:PARALLEL], NoToken()) if visit_all is read_all else {}
    assert found == answered | dict.fromkeys(addresses[PARALLEL:], stopped)


@pytest.mark.parametrize("visit_all", [read_all, check_all])
def test_a_bug_in_a_sink_is_not_a_failure(visit_all: Any) -> None:
    """It is raised, so that nobody takes it for a result."""

    def bug() -> Content:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        visit_all([file(1)], lambda _: FakeSink(bug), Cancellation())


# --- Opening -------------------------------------------------------------------------------------

ADDRESSES: dict[Address, Address] = {
    FileAddress("a.env", "A"): FileAddress("a.env", "B"),
    VaultAddress("secret", "a"): VaultAddress("secret", "b"),
    AwsAddress("a"): AwsAddress("b", "eu-central-1"),
    GithubAddress("acme", "A"): GithubAddress("acme", "B", "web", "live"),
    GitlabAddress("acme/web", "A"): GitlabAddress("acme", "B"),
    KubernetesAddress("web", "a"): KubernetesAddress("web", "b"),
}
"""Two addresses of each vendor; a command has none."""


def test_each_kind_of_address_opens_and_vendors_are_shared(tmp_path: Path) -> None:
    """This needs no variable and no network, and the sinks of a vendor share their state."""
    sinks = SinkRegistry(tmp_path, {}, Cancellation())
    type_names = {type(sinks.open(address)).__name__ for address in ADDRESSES}
    assert len(type_names) == len(ADDRESSES)
    vendors = dict(sinks._open_sinks)
    assert len(vendors) == len(ADDRESSES)
    for address in (*ADDRESSES, *ADDRESSES.values()):
        sinks.open(address)
    assert {kind: id(one) for kind, one in sinks._open_sinks.items()} == {
        kind: id(one) for kind, one in vendors.items()
    }
    command = CommandAddress((sys.executable, "-c", "print('x')"))
    assert type(sinks.open(command)).__name__ not in type_names
    assert len(sinks._open_sinks) == len(vendors) + 1  # the state of all programs


def test_sinks_opened_in_parallel_share_their_vendor(tmp_path: Path) -> None:
    """Parallel threads get one file, so that none loses the token of another."""
    sinks = SinkRegistry(tmp_path, {}, Cancellation())
    together = threading.Barrier(PARALLEL)

    def write(number: int) -> None:
        together.wait(10)
        sinks.open(file(number)).write(Secret(f"token-{number}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(PARALLEL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(sinks._open_sinks) == 1
    lines = (tmp_path / "a.env").read_text().splitlines()
    assert sorted(lines) == [f"A{number}=token-{number}" for number in range(PARALLEL)]


def test_relative_paths_and_programs_start_from_the_root(tmp_path: Path) -> None:
    """The current folder of the command does not matter."""
    sinks = SinkRegistry(tmp_path, {}, Cancellation())
    sinks.open(FileAddress("x/a.env", "A")).write(Secret("token-1"))
    assert (tmp_path / "x" / "a.env").read_text() == "A=token-1\n"
    store = "import sys; open('stored', 'w').write(sys.stdin.read())"
    sinks.open(CommandAddress((sys.executable, "-c", store))).write(Secret("token-2"))
    assert (tmp_path / "stored").read_text() == "token-2"


def test_a_missing_library_is_reported_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink opens, and then names the extra to install; other sinks work."""
    address = AwsAddress("a")
    for name in [one for one in sys.modules if one.partition(".")[0] == "boto3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)
    stop = Cancellation()
    open_sink = SinkRegistry(tmp_path, {}, stop).open
    found = read_all([address, file(1)], open_sink, stop)
    content = found[address]
    assert isinstance(content, Unavailable)
    assert content.failure.code == "sink_extra_missing"
    assert str(address) in content.failure.text
    assert extra_remedy("aws") in content.failure.text
    assert found[file(1)] == NoToken()
    assert check_all([address, file(1)], open_sink, stop) == {address: content.failure}
    with pytest.raises(SinkError):
        open_sink(address).write(Secret("token-1"))


@pytest.mark.parametrize("address", [one for one in ADDRESSES if not isinstance(one, AwsAddress)])
def test_a_missing_credential_is_reported_with_the_address(
    address: Address, tmp_path: Path
) -> None:
    """The credential comes only from the variables of the run; a file needs none."""
    stop = Cancellation()
    found = check_all([address], SinkRegistry(tmp_path, {}, stop).open, stop)
    if isinstance(address, FileAddress):
        assert found == {}
    else:
        assert str(address) in found[address].message


class RecordingCancellation(Cancellation):
    """A cancellation that records its waits."""

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
def test_a_busy_vendor_is_waited_for(
    address: Address, variables: dict[str, str], tmp_path: Path, scripted, answer
) -> None:
    """The waits are those of the run, so that a stop ends them; then the sink is unavailable."""
    server = scripted(*[answer(503, "{}", Retry_After="1")] * 50)
    (tmp_path / "config").write_text(KUBECONFIG.format(url=server.url))
    environ = {name: text.format(url=server.url, root=tmp_path) for name, text in variables.items()}
    stop = RecordingCancellation()
    found = read_all([address], SinkRegistry(tmp_path, environ, stop).open, stop)
    assert isinstance(found[address], Unavailable)
    assert found[address].failure.code == "sink_unavailable"
    assert len(server.requests) > 1
    assert stop.waits
    assert max(stop.waits) >= 1
