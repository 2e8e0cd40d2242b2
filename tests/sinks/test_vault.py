"""Fields of Vault's secrets, against a stand-in over real TLS (`vault_server`)."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
from compliance import FIRST, SECOND, Backend, Compliance
from vault_server import (
    ALL,
    DEFAULT_POLICY,
    UPGRADING,
    WAITING,
    Fault,
    VaultStandIn,
    Version,
)

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_address import VaultAddress
from provisioner.secret import Secret
from provisioner.sinks.sink import Empty, StoredValue
from provisioner.sinks.vault import VaultServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKEN = "hvs.CAESIvault-canary-4f81"
PATH = "secret/twenty/shop"
SVC = VaultAddress("secret", "twenty/shop", "svc")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority, tmp_path) -> Path:
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return file


def _tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def vault(authority) -> Iterator[VaultStandIn]:
    with VaultStandIn(_tls(authority)) as server:
        server.policies[TOKEN] = {**DEFAULT_POLICY, "secret/*": ALL, "team/kv/*": ALL, "old/*": ALL}
        yield server


@pytest.fixture
def waits() -> list[float]:
    """The seconds that were waited for, which took no time."""
    return []


@pytest.fixture
def opened(vault, certificate, waits) -> Callable[..., VaultServer]:
    def opened_(**changes: str | None) -> VaultServer:
        environment = {
            "VAULT_ADDR": vault.url,
            "VAULT_TOKEN": TOKEN,
            "VAULT_CACERT": str(certificate),
            **changes,
        }
        return VaultServer({k: v for k, v in environment.items() if v}, sleep=waits.append)

    return opened_


class VaultBackend(Backend):
    credential = TOKEN

    def __init__(self, vault: VaultStandIn, opened: Callable[..., VaultServer]) -> None:
        self.vault = vault
        self.opened = opened
        self.changes: dict[str, str] = {}

    def sink(self, place=0):
        address = VaultAddress("secret", "twenty/shop", f"field-{place}")
        return self.opened(**self.changes).sink(address)

    def stored(self, place=0):
        return self.vault.latest(PATH).get(f"field-{place}")

    def strange_names(self):
        server = self.opened()
        return tuple(
            server.sink(VaultAddress("secret", path, field))
            for path, field in (
                ("twenty/Schlüssel für alles/🔑", "Ein Feld, ganz/fremd"),
                ("100%/a?b#c&d=e+f;g", "token"),
                ("100%25/a", "token"),
                ("~x/'\"<>|\\", ""),
            )
        )

    @contextmanager
    def denied(self):
        granted = self.vault.policies[TOKEN]
        self.vault.policies[TOKEN] = {**DEFAULT_POLICY, "secret/other/*": ALL}
        yield
        self.vault.policies[TOKEN] = granted

    @contextmanager
    def unreachable(self):
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.changes = {"VAULT_ADDR": f"https://127.0.0.1:{bound.getsockname()[1]}"}
            yield
        self.changes = {}

    @contextmanager
    def wrong_credential(self):
        self.changes = {"VAULT_TOKEN": "hvs.wrong-canary"}
        self.credential = "hvs.wrong-canary"
        yield
        self.changes = {}


class TestVault(Compliance):
    @pytest.fixture
    def backend(self, vault, opened) -> Backend:
        return VaultBackend(vault, opened)


def _refused(act: Callable[[], object]) -> SinkError:
    with pytest.raises(SinkError) as caught:
        act()
    assert TOKEN not in f"{caught.value.message}{caught.value.remedy}"
    assert str(SVC) in caught.value.message
    return caught.value


def test_a_write_changes_its_field_and_nothing_else(vault, opened) -> None:
    """Other fields keep their values, of any type, and the secret keeps its own metadata."""
    vault.put(PATH, {"other": "x", "list": [1, {"a": None}], "svc": 7})
    vault.secret_at(PATH).custom_metadata = {"owner": "ops"}
    opened().sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"other": "x", "list": [1, {"a": None}], "svc": FIRST}
    assert vault.secret_at(PATH).custom_metadata == {"owner": "ops"}
    assert len(vault.secret_at(PATH).versions) == 2


@pytest.mark.parametrize("gone", ["deleted", "destroyed"])
def test_a_version_that_is_gone_holds_nothing_and_is_followed(vault, opened, gone) -> None:
    """A deleted secret reads as empty, is not brought back, and takes a new token."""
    vault.secret_at(PATH).versions += [Version({"x": "1"}), Version({"svc": "old"}, **{gone: True})]
    sink = opened().sink(SVC)
    sink.check()
    assert sink.read() == Empty()
    sink.write(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": FIRST}
    assert len(vault.secret_at(PATH).versions) == 3


def test_an_engine_that_demands_check_and_set_is_served(vault, opened) -> None:
    """`cas_required` is no obstacle, for the first version nor for the next."""
    vault.cas_required = True
    for token in (FIRST, SECOND):
        opened().sink(SVC).write(Secret(token))
    assert vault.latest(PATH) == {"svc": SECOND}


@pytest.mark.parametrize(
    ("value", "told"), [(7, "7"), ({"a": 1}, '{"a": 1}'), ("", ""), (" a", " a")]
)
def test_what_is_no_text_is_something_else_than_a_token(vault, opened, value, told) -> None:
    """A field of any type is there, as its JSON, so that it is seen not to be the token."""
    vault.put(PATH, {"svc": value})
    content = opened().sink(SVC).read()
    assert isinstance(content, StoredValue)
    assert content.value.reveal() == told


@pytest.mark.parametrize("data", [{}, {"other": "x"}, {"svc": None}])
def test_a_secret_without_the_field_holds_nothing(vault, opened, data) -> None:
    """Other fields are no token."""
    vault.put(PATH, data)
    assert opened().sink(SVC).read() == Empty()


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("answer", [None, (500, {}), (503, {}), (502, {})])
def test_a_write_whose_answer_is_lost_is_made_once(vault, opened, handled, answer) -> None:
    """Whether it was done is looked up, and it is sent again only where it was not."""
    vault.put(PATH, {"other": "x"})
    vault.faults.append(Fault("POST", "secret/data/*", answer, handled=handled))
    opened().sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"other": "x", "svc": FIRST}
    assert len(vault.secret_at(PATH).versions) == 2
    assert not vault.faults


def test_who_is_overtaken_reads_again(vault, opened) -> None:
    """What others write in between is kept, seven times over."""
    for number in range(7):
        others = {str(one): "x" for one in range(number + 1)}
        meanwhile = lambda data=others: vault.put(PATH, data)  # noqa: E731 - its data is bound now
        vault.faults.append(Fault("POST", "secret/data/*", before=meanwhile, passed_on=True))
    opened().sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {**{str(one): "x" for one in range(7)}, "svc": FIRST}


def test_who_is_always_overtaken_says_so(vault, opened, waits) -> None:
    """After eight times it fails, has lost nothing of the others, and waited between."""
    for _ in range(8):
        meanwhile = lambda: vault.put(PATH, {"other": "x"})  # noqa: E731 - one line
        vault.faults.append(Fault("POST", "secret/data/*", before=meanwhile, passed_on=True))
    error = _refused(lambda: opened().sink(SVC).write(Secret(FIRST)))
    assert error.code == "sink_failed"
    assert vault.latest(PATH) == {"other": "x"}
    assert len(waits) == 8
    assert all(0 < wait <= 2 for wait in waits)


def test_a_write_that_is_refused_for_good_is_not_repeated(vault, opened, waits) -> None:
    """A status that says no is told with its number, at once."""
    vault.faults.append(Fault("POST", "secret/data/*", (413, {})))
    error = _refused(lambda: opened().sink(SVC).write(Secret(FIRST)))
    assert error.code == "sink_failed"
    assert "413" in error.message
    assert not waits


def test_threads_of_one_run_never_overtake_each_other(vault, opened) -> None:
    """However many fields of one secret are written at once, each write succeeds at first."""
    server = opened()
    places = [VaultAddress("secret", "twenty/shop", str(number)) for number in range(24)]
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda place: server.sink(place).write(Secret(FIRST)), places))
    assert vault.latest(PATH) == {place.field: FIRST for place in places}
    assert vault.count("POST", "secret/data/*") == len(places)


@pytest.mark.parametrize("status", [429, 412, 500, 502, 503])
def test_what_passes_is_waited_for(vault, opened, waits, status) -> None:
    """A server that is sealed, a standby or overloaded is asked again, with growing waits."""
    vault.put(PATH, {"svc": FIRST})
    vault.faults.extend(Fault("GET", "secret/data/*", (status, {})) for _ in range(4))
    content = opened().sink(SVC).read()
    assert isinstance(content, StoredValue)
    assert content.value.reveal() == FIRST
    assert len(waits) == 4
    assert 0.1 < waits[0] <= 0.25
    assert 1 <= waits[3] <= 2


def test_what_does_not_pass_is_told(vault, opened) -> None:
    """A server that stays sealed is unavailable, with its status."""
    vault.faults.extend(Fault("GET", "*", (503, {})) for _ in range(5))
    error = _refused(lambda: opened().sink(SVC).read())
    assert error.code == "sink_unavailable"
    assert "503" in error.message
    assert not vault.faults


STARTING = [
    (400, UPGRADING),
    (400, WAITING),
    (404, 'no handler for route "secret/data/twenty/shop". route entry not found.'),
]
"""What an engine answers that was upgraded or mounted a moment ago."""


@pytest.mark.parametrize(("status", "says"), STARTING)
def test_an_engine_that_is_starting_is_waited_for(vault, opened, waits, status, says) -> None:
    """Read and written as soon as it answers; what it holds is not taken for nothing meanwhile."""
    vault.put(PATH, {"svc": FIRST, "other": "x"})
    vault.faults.extend(Fault("GET", "secret/*", (status, {}), message=says) for _ in range(4))
    content = opened().sink(SVC).read()
    assert isinstance(content, StoredValue)
    assert len(waits) == 4
    vault.faults.extend(Fault("POST", "secret/*", (status, {}), message=says) for _ in range(3))
    opened().sink(SVC).write(Secret(SECOND))
    assert vault.latest(PATH) == {"svc": SECOND, "other": "x"}
    assert len(vault.secret_at(PATH).versions) == 2


@pytest.mark.parametrize(("status", "says"), STARTING)
@pytest.mark.parametrize(("step", "method"), [("read", "GET"), ("write", "POST")])
def test_an_engine_that_does_not_start_is_told(vault, opened, step, method, status, says) -> None:
    """As a server that stays sealed is; nothing was written."""
    vault.put(PATH, {"svc": FIRST})
    vault.faults.extend(Fault(method, "secret/*", (status, {}), message=says) for _ in range(8))
    sink = opened().sink(SVC)
    arguments = (Secret(SECOND),) if step == "write" else ()
    error = _refused(lambda: getattr(sink, step)(*arguments))
    assert error.code == "sink_unavailable"
    assert "upgrading or mounting" in error.message
    assert vault.latest(PATH) == {"svc": FIRST}


@pytest.mark.parametrize("path", ["sys/internal/*", "sys/capabilities-self"])
def test_a_lookup_meets_an_engine_that_is_starting(vault, opened, waits, path) -> None:
    """What is asked before a token is minted waits for it too."""
    for method in ("GET", "POST"):
        vault.faults.append(Fault(method, path, (400, {}), message=WAITING))
    opened().sink(SVC).check()
    assert len(waits) == 1


def test_another_400_is_not_waited_for(vault, opened, waits) -> None:
    """A refusal is one, whatever words of it are alike."""
    vault.faults.append(Fault("POST", "secret/*", (400, {}), message="invalid: versioned data"))
    assert _refused(lambda: opened().sink(SVC).write(Secret(FIRST))).code == "sink_failed"
    assert not waits


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("30", 30), ("soon", 0.25)])
def test_a_wait_that_is_asked_for_is_kept(vault, opened, waits, asked, waited) -> None:
    """`Retry-After` is honoured up to half a minute."""
    vault.faults.append(Fault("GET", "secret/data/*", (429, {"Retry-After": asked})))
    opened().sink(SVC).read()
    assert len(waits) == 1
    assert waited / 2 <= waits[0] <= waited


@pytest.mark.parametrize("asked", ["31", "1000000000", "9" * 400])
def test_a_longer_wait_is_given_up_at_once(vault, opened, waits, asked) -> None:
    """Four waits of any length would hold the run for as long as the server likes."""
    vault.faults.append(Fault("GET", "secret/data/*", (503, {"Retry-After": asked})))
    assert _refused(lambda: opened().sink(SVC).read()).code == "sink_unavailable"
    assert waits == []


def test_a_redirect_does_not_get_the_token(vault, opened, authority) -> None:
    """A standby that sends elsewhere is told of, and nothing is sent there."""
    with VaultStandIn(_tls(authority)) as elsewhere:
        vault.faults.append(Fault("GET", "*", (307, {"Location": f"{elsewhere.url}/v1/x"})))
        error = _refused(lambda: opened().sink(SVC).read())
        assert elsewhere.journal == []
    assert error.code == "sink_unavailable"
    assert "redirect" in error.message


def test_an_unknown_authority_gets_nothing(vault, opened, waits) -> None:
    """A certificate that is not trusted ends it before anything is sent, and says what to set."""
    error = _refused(lambda: opened(VAULT_CACERT=None).sink(SVC).write(Secret(FIRST)))
    assert error.code == "sink_unavailable"
    assert "VAULT_CACERT" in error.remedy
    assert vault.journal == []
    assert not waits


@pytest.mark.parametrize("name", ["BAO_CACERT", "VAULT_CAPATH", "REQUESTS_CA_BUNDLE"])
def test_other_names_of_authorities_are_known(vault, opened, certificate, name) -> None:
    """Whichever variable names them, they are trusted."""
    opened(VAULT_CACERT=None, **{name: str(certificate)}).sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": FIRST}


def test_authorities_that_cannot_be_read_are_told(opened, tmp_path) -> None:
    """A CA file that is not there is named by its variable."""
    error = _refused(lambda: opened(VAULT_CACERT=str(tmp_path / "nothing.pem")).sink(SVC).read())
    assert error.code == "sink_unavailable"
    assert "VAULT_CACERT" in error.remedy


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_unverified_tls_is_the_users_choice_and_logged(vault, opened, caplog) -> None:
    """`VAULT_SKIP_VERIFY` is honoured, with a warning; a false one is not."""
    with caplog.at_level(logging.WARNING, "provisioner"):
        _refused(lambda: opened(VAULT_CACERT=None, VAULT_SKIP_VERIFY="0").sink(SVC).read())
        assert not caplog.records
        opened(VAULT_CACERT=None, VAULT_SKIP_VERIFY="true").sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": FIRST}
    assert ["VAULT_SKIP_VERIFY" in one.getMessage() for one in caplog.records] == [True]


def test_plain_http_is_for_loopback_alone(opened) -> None:
    """A development server on this machine is served; elsewhere nothing is even looked up."""
    with VaultStandIn() as plain:
        plain.policies[TOKEN] = {"secret/*": ALL}
        opened(VAULT_ADDR=plain.url).sink(SVC).write(Secret(FIRST))
        assert plain.latest(PATH) == {"svc": FIRST}
    error = _refused(lambda: opened(VAULT_ADDR="http://vault.example.com").sink(SVC).check())
    assert error.code == "sink_unsuitable"
    assert "https://" in error.remedy


@pytest.mark.parametrize(
    "address", [None, "vault.example.com:8200", "https://", "http://[::1", "ftp://x"]
)
def test_an_address_that_is_none_is_told(opened, address) -> None:
    """What is missing or no URL is told with the variable to set."""
    error = _refused(lambda: opened(VAULT_ADDR=address).sink(SVC).check())
    assert error.code == "sink_missing"
    assert "VAULT_ADDR" in error.remedy


def test_namespaces_are_apart(vault, opened) -> None:
    """The namespace of the environment is the one that is read and written."""
    opened(VAULT_NAMESPACE="ops/eu").sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH, "ops/eu") == {"svc": FIRST}
    assert opened().sink(SVC).read() == Empty()


def test_openbaos_names_win(vault, opened) -> None:
    """Where both are set, `BAO_…` is meant."""
    wrong = {"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_TOKEN": "wrong", "VAULT_NAMESPACE": "x"}
    right = {"BAO_ADDR": vault.url, "BAO_TOKEN": TOKEN, "BAO_NAMESPACE": "y"}
    opened(**wrong, **right).sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH, "y") == {"svc": FIRST}


@pytest.mark.parametrize("name", ["HOME", "BAO_TOKEN_PATH", "VAULT_TOKEN_PATH"])
def test_a_login_may_leave_the_token_in_a_file(vault, opened, tmp_path, name) -> None:
    """Without a variable the file of the CLIs is read, blanks around the token aside."""
    file = tmp_path / ".vault-token"
    file.write_text(f"{TOKEN}\n")
    value = str(tmp_path if name == "HOME" else file)
    opened(VAULT_TOKEN=None, **{name: value}).sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": FIRST}


@pytest.mark.parametrize("token", [None, " ", "hvs.split\ncanary", "hvs.tök"])
def test_a_token_that_cannot_be_sent_is_told_and_not_shown(opened, tmp_path, token) -> None:
    """No token, or one that is none, is a matter of the credential."""
    error = _refused(lambda: opened(VAULT_TOKEN=token, HOME=str(tmp_path)).sink(SVC).check())
    assert error.code == "sink_denied"
    assert "VAULT_TOKEN" in error.remedy
    assert "hvs" not in error.message


def test_the_netrc_is_not_read(vault, opened, tmp_path, monkeypatch) -> None:
    """No credential of another program is sent along."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password netrc-canary\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    opened().sink(SVC).read()
    assert vault.journal
    assert not [one for one in vault.journal if "Authorization" in one.headers]
    assert {one.headers["X-Vault-Token"] for one in vault.journal} == {TOKEN}


def test_what_is_alike_is_looked_up_once(vault, opened) -> None:
    """A thousand places of an engine cost one question for the engine, however many threads."""
    server = opened()
    places = [VaultAddress("secret", f"twenty/{number}") for number in range(60)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda place: server.sink(place).check(), places))
    assert vault.count("GET", "sys/internal/ui/mounts/*") == 1
    assert vault.count("POST", "sys/capabilities-self") == len(places)
    assert len(vault.journal) == len(places) + 1


def test_a_server_out_of_reach_is_tried_once_for_all(opened, waits) -> None:
    """The second of its sinks fails as the first did, without waiting again."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = opened(VAULT_ADDR=f"https://127.0.0.1:{bound.getsockname()[1]}")
        first = _refused(server.sink(SVC).check)
        waited = len(waits)
        assert waited == 4
        second = _refused(server.sink(SVC).read)
    assert (first.code, first.message) == (second.code, second.message)
    assert len(waits) == waited


def test_nothing_is_written_while_preparing(vault, opened) -> None:
    """Preparing and reading send nothing that could change a secret."""
    sink = opened().sink(SVC)
    sink.check()
    sink.read()
    assert {one.path for one in vault.journal if one.method == "POST"} == {"sys/capabilities-self"}


def test_an_engine_may_have_slashes_in_its_mount(vault, opened) -> None:
    """The server tells where the mount ends and the path begins."""
    sink = opened().sink(VaultAddress("team", "kv/app/x", "svc"))
    sink.check()
    sink.write(Secret(FIRST))
    assert vault.latest("team/kv/app/x") == {"svc": FIRST}


def test_version_1_is_refused(vault, opened) -> None:
    """An engine that cannot check and set is no place for a field."""
    with pytest.raises(SinkError) as caught:
        opened().sink(VaultAddress("old", "x")).check()
    assert caught.value.code == "sink_unsuitable"
    assert "version 2" in caught.value.message


def test_a_mount_that_is_not_there_is_told_apart_from_a_bad_token(vault, opened) -> None:
    """A valid token is said to be valid."""
    with pytest.raises(SinkError, match="is valid but") as caught:
        opened().sink(VaultAddress("typo", "x")).check()
    assert caught.value.code == "sink_denied"
    with pytest.raises(SinkError, match="not valid"):
        opened(VAULT_TOKEN="other").sink(VaultAddress("typo", "x")).check()


def test_a_server_that_knows_no_such_namespace_is_told(vault, opened) -> None:
    """A 404 for the engine is a place that is not there."""
    vault.faults.append(Fault("GET", "sys/*", (404, {})))
    assert _refused(lambda: opened().sink(SVC).check()).code == "sink_missing"


@pytest.mark.parametrize("granted", [("read",), ("create", "update"), ("deny",), ("list", "read")])
def test_half_the_rights_are_refused_when_prepared(vault, opened, granted) -> None:
    """Who may not both read and write is told what to grant, before a token is made."""
    vault.policies[TOKEN] = {**DEFAULT_POLICY, "secret/*": granted}
    error = _refused(lambda: opened().sink(SVC).check())
    assert error.code == "sink_denied"
    assert "secret/data/twenty/shop" in error.remedy


@pytest.mark.parametrize("granted", [("root",), ("read", "create"), ("read", "update")])
def test_enough_rights_are_accepted(vault, opened, granted) -> None:
    """Root, or reading with either kind of writing."""
    vault.policies[TOKEN] = {**DEFAULT_POLICY, "secret/*": granted}
    sink = opened().sink(SVC)
    sink.check()
    assert sink.read() == Empty()


def test_a_token_that_may_not_ask_for_its_rights_is_good_if_it_reads(vault, opened) -> None:
    """A policy of the engine alone, without the default one, is enough."""
    vault.policies[TOKEN] = {"secret/*": ALL}
    opened().sink(SVC).check()
    vault.policies[TOKEN] = {"secret/*": ("create",)}
    assert _refused(lambda: opened().sink(SVC).check()).code == "sink_denied"


def test_a_write_without_the_right_is_told(vault, opened) -> None:
    """A policy that lets read alone is told when written too."""
    vault.policies[TOKEN] = {"secret/*": ("read",)}
    error = _refused(lambda: opened().sink(SVC).write(Secret(FIRST)))
    assert error.code == "sink_denied"
    assert vault.latest(PATH) == {}


@pytest.mark.parametrize("path", ["a//b", "../x", "a/./b", "a/", "", "a\nb", "a/.."])
def test_a_path_that_would_lead_elsewhere_is_refused(vault, opened, path) -> None:
    """Dots and empty parts are never sent."""
    with pytest.raises(SinkError) as caught:
        opened().sink(VaultAddress("secret", path)).write(Secret(FIRST))
    assert caught.value.code == "sink_unsuitable"
    assert vault.journal == []


@pytest.mark.parametrize("body", ["<html>", "[]", '"x"', "{}", '{"data": {"data": {"svc": "x"}}}'])
def test_another_program_in_vaults_place_is_told(opened, scripted, answer, body) -> None:
    """A success that is not Vault's is no success."""
    mount = '{"data": {"path": "secret/", "type": "kv", "options": {"version": "2"}}}'
    for script in ([answer(200, body)], [answer(200, mount), answer(200, body)]):
        server = scripted(*script)
        error = _refused(lambda url=server.url: opened(VAULT_ADDR=url).sink(SVC).read())
        assert error.code == "sink_unavailable"
        assert len(server.requests) == len(script)


def test_a_missing_page_of_another_program_is_no_empty_secret(opened, scripted, answer) -> None:
    """Only Vault's own 404 says that nothing is there."""
    mount = '{"data": {"path": "secret/", "type": "kv", "options": {"version": "2"}}}'
    server = scripted(answer(200, mount), answer(404, "<html>"))
    error = _refused(lambda: opened(VAULT_ADDR=server.url).sink(SVC).read())
    assert error.code == "sink_unavailable"


@pytest.mark.parametrize("path", ["a?b", "a#b", "a%2Fb", "a b", "ü/🔑", "a;b&c=d+e", "~\\'\""])
def test_a_path_arrives_as_it_is_written(vault, opened, path) -> None:
    """No sign of a path means anything on the way."""
    opened().sink(VaultAddress("secret", path, "svc")).write(Secret(FIRST))
    assert vault.latest(f"secret/{path}") == {"svc": FIRST}


def test_without_the_library_the_extra_is_named(opened, monkeypatch) -> None:
    """Who has not installed the extra is told how."""
    monkeypatch.setitem(sys.modules, "hvac.adapters", None)
    error = _refused(lambda: opened().sink(SVC).check())
    assert error.code == "sink_extra_missing"
    assert "twenty-provisioner[vault]" in error.remedy
