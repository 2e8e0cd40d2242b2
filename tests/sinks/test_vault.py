"""Fields of Vault secrets, against a server that imitates Vault over real TLS (`vault_server`)."""

from __future__ import annotations

import logging
import socket
import ssl
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
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks.sink import StoredValue
from provisioner.sinks.vault import VaultAddress, VaultServer

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
    """Return the waits in seconds, which take no time."""
    return []


@pytest.fixture
def open_server(vault, certificate, waits) -> Callable[..., VaultServer]:
    def open_server_(**changes: str | None) -> VaultServer:
        environment = {
            "VAULT_ADDR": vault.url,
            "VAULT_TOKEN": TOKEN,
            "VAULT_CACERT": str(certificate),
            **changes,
        }
        return VaultServer({k: v for k, v in environment.items() if v}, sleep=waits.append)

    return open_server_


class VaultBackend(Backend):
    credential = TOKEN

    def __init__(self, vault: VaultStandIn, open_server: Callable[..., VaultServer]) -> None:
        self.vault = vault
        self.open_server = open_server
        self.changes: dict[str, str] = {}

    def sink(self, place=0):
        address = VaultAddress("secret", "twenty/shop", f"field-{place}")
        return self.open_server(**self.changes).sink(address)

    def stored(self, place=0):
        return self.vault.latest(PATH).get(f"field-{place}")

    def strange_names(self):
        server = self.open_server()
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
    def backend(self, vault, open_server) -> Backend:
        return VaultBackend(vault, open_server)


def _error_of(action: Callable[[], object]) -> SinkError:
    with pytest.raises(SinkError) as caught:
        action()
    assert TOKEN not in f"{caught.value.message}{caught.value.remedy}"
    assert str(SVC) in caught.value.message
    return caught.value


def test_a_write_changes_only_its_field(vault, open_server) -> None:
    """Other fields keep their values of any type, and the secret keeps its own metadata."""
    vault.put(PATH, {"other": "x", "list": [1, {"a": None}], "svc": 7})
    vault.secret_at(PATH).custom_metadata = {"owner": "ops"}
    open_server().sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"other": "x", "list": [1, {"a": None}], "svc": FIRST}
    assert vault.secret_at(PATH).custom_metadata == {"owner": "ops"}
    assert len(vault.secret_at(PATH).versions) == 2


@pytest.mark.parametrize("state", ["deleted", "destroyed"])
def test_a_deleted_version_is_empty_and_is_followed(vault, open_server, state) -> None:
    """A deleted secret reads as empty, is not restored, and accepts a new token."""
    vault.secret_at(PATH).versions += [
        Version({"x": "1"}),
        Version({"svc": "old"}, **{state: True}),
    ]
    sink = open_server().sink(SVC)
    sink.check()
    assert sink.read() == NoToken()
    sink.write(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": FIRST}
    assert len(vault.secret_at(PATH).versions) == 3


def test_an_engine_may_require_check_and_set(vault, open_server) -> None:
    """With `cas_required`, the first version and the next one can be written."""
    vault.cas_required = True
    for token in (FIRST, SECOND):
        open_server().sink(SVC).write(Secret(token))
    assert vault.latest(PATH) == {"svc": SECOND}


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), ({"a": 1}, '{"a": 1}'), ("", ""), (" a", " a")]
)
def test_a_value_that_is_not_a_text_is_read_as_json(vault, open_server, value, text) -> None:
    """A field of any type is read, so that it can be seen not to be the token."""
    vault.put(PATH, {"svc": value})
    content = open_server().sink(SVC).read()
    assert isinstance(content, StoredValue)
    assert content.value.reveal() == text


@pytest.mark.parametrize("data", [{}, {"other": "x"}, {"svc": None}])
def test_a_secret_without_the_field_is_empty(vault, open_server, data) -> None:
    """Other fields are not read as a token."""
    vault.put(PATH, data)
    assert open_server().sink(SVC).read() == NoToken()


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("answer", [None, (500, {}), (503, {}), (502, {})])
def test_a_write_with_a_lost_answer_happens_once(vault, open_server, handled, answer) -> None:
    """The result is looked up, and the write is repeated only if it did not happen."""
    vault.put(PATH, {"other": "x"})
    vault.faults.append(Fault("POST", "secret/data/*", answer, handled=handled))
    open_server().sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"other": "x", "svc": FIRST}
    assert len(vault.secret_at(PATH).versions) == 2
    assert not vault.faults


def test_a_write_after_a_conflict_is_repeated(vault, open_server) -> None:
    """The changes of other writers are kept, even after seven conflicts."""
    for number in range(7):
        others = {str(one): "x" for one in range(number + 1)}
        write_first = lambda data=others: vault.put(PATH, data)  # noqa: E731 - binds its data now
        vault.faults.append(Fault("POST", "secret/data/*", before=write_first, passed_on=True))
    open_server().sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {**{str(one): "x" for one in range(7)}, "svc": FIRST}


def test_endless_conflicts_are_reported(vault, open_server, waits) -> None:
    """After eight attempts with waits the write fails, and the others have lost nothing."""
    for _ in range(8):
        write_first = lambda: vault.put(PATH, {"other": "x"})  # noqa: E731 - one line
        vault.faults.append(Fault("POST", "secret/data/*", before=write_first, passed_on=True))
    error = _error_of(lambda: open_server().sink(SVC).write(Secret(FIRST)))
    assert error.code == "sink_failed"
    assert vault.latest(PATH) == {"other": "x"}
    assert len(waits) == 8
    assert all(0 < wait <= 2 for wait in waits)


def test_a_refused_write_is_not_repeated(vault, open_server, waits) -> None:
    """The status of a final refusal is reported at once."""
    vault.faults.append(Fault("POST", "secret/data/*", (413, {})))
    error = _error_of(lambda: open_server().sink(SVC).write(Secret(FIRST)))
    assert error.code == "sink_failed"
    assert "413" in error.message
    assert not waits


def test_threads_of_one_run_never_conflict(vault, open_server) -> None:
    """If many threads write fields of one secret, each write succeeds at the first attempt."""
    server = open_server()
    places = [VaultAddress("secret", "twenty/shop", str(number)) for number in range(24)]
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda place: server.sink(place).write(Secret(FIRST)), places))
    assert vault.latest(PATH) == {place.field: FIRST for place in places}
    assert vault.count("POST", "secret/data/*") == len(places)


@pytest.mark.parametrize("status", [429, 412, 500, 502, 503])
def test_transient_failures_are_retried(vault, open_server, waits, status) -> None:
    """A sealed, standby or overloaded server is asked again, with growing waits."""
    vault.put(PATH, {"svc": FIRST})
    vault.faults.extend(Fault("GET", "secret/data/*", (status, {})) for _ in range(4))
    content = open_server().sink(SVC).read()
    assert isinstance(content, StoredValue)
    assert content.value.reveal() == FIRST
    assert len(waits) == 4
    assert 0.1 < waits[0] <= 0.25
    assert 1 <= waits[3] <= 2


def test_persistent_failures_are_reported(vault, open_server) -> None:
    """A server that stays sealed is unavailable, and the message has its status."""
    vault.faults.extend(Fault("GET", "*", (503, {})) for _ in range(5))
    error = _error_of(lambda: open_server().sink(SVC).read())
    assert error.code == "sink_unavailable"
    assert "503" in error.message
    assert not vault.faults


STARTING = [
    (400, UPGRADING),
    (400, WAITING),
    (404, 'no handler for route "secret/data/twenty/shop". route entry not found.'),
]
"""The answers of an engine that was upgraded or mounted a moment ago."""


@pytest.mark.parametrize(("status", "message"), STARTING)
def test_a_starting_engine_is_waited_for(vault, open_server, waits, status, message) -> None:
    """It is read and written as soon as it answers, and is never taken for empty."""
    vault.put(PATH, {"svc": FIRST, "other": "x"})
    vault.faults.extend(Fault("GET", "secret/*", (status, {}), message=message) for _ in range(4))
    content = open_server().sink(SVC).read()
    assert isinstance(content, StoredValue)
    assert len(waits) == 4
    vault.faults.extend(Fault("POST", "secret/*", (status, {}), message=message) for _ in range(3))
    open_server().sink(SVC).write(Secret(SECOND))
    assert vault.latest(PATH) == {"svc": SECOND, "other": "x"}
    assert len(vault.secret_at(PATH).versions) == 2


@pytest.mark.parametrize(("status", "message"), STARTING)
@pytest.mark.parametrize(("step", "method"), [("read", "GET"), ("write", "POST")])
def test_an_engine_that_does_not_start_is_reported(
    vault, open_server, step, method, status, message
) -> None:
    """It is reported like a server that stays sealed, and nothing is written."""
    vault.put(PATH, {"svc": FIRST})
    vault.faults.extend(Fault(method, "secret/*", (status, {}), message=message) for _ in range(8))
    sink = open_server().sink(SVC)
    arguments = (Secret(SECOND),) if step == "write" else ()
    error = _error_of(lambda: getattr(sink, step)(*arguments))
    assert error.code == "sink_unavailable"
    assert "upgrading or mounting" in error.message
    assert vault.latest(PATH) == {"svc": FIRST}


@pytest.mark.parametrize("path", ["sys/internal/*", "sys/capabilities-self"])
def test_a_lookup_waits_for_a_starting_engine(vault, open_server, waits, path) -> None:
    """The requests before a token is minted wait for the engine too."""
    for method in ("GET", "POST"):
        vault.faults.append(Fault(method, path, (400, {}), message=WAITING))
    open_server().sink(SVC).check()
    assert len(waits) == 1


def test_another_400_is_not_retried(vault, open_server, waits) -> None:
    """Any other refusal is final, even if its message is similar."""
    vault.faults.append(Fault("POST", "secret/*", (400, {}), message="invalid: versioned data"))
    assert _error_of(lambda: open_server().sink(SVC).write(Secret(FIRST))).code == "sink_failed"
    assert not waits


@pytest.mark.parametrize(("header", "waited"), [("7", 7), ("30", 30), ("soon", 0.25)])
def test_a_wait_that_the_server_asks_for_is_kept(vault, open_server, waits, header, waited) -> None:
    """`Retry-After` is honoured up to half a minute."""
    vault.faults.append(Fault("GET", "secret/data/*", (429, {"Retry-After": header})))
    open_server().sink(SVC).read()
    assert len(waits) == 1
    assert waited / 2 <= waits[0] <= waited


@pytest.mark.parametrize("header", ["31", "1000000000", "9" * 400])
def test_a_longer_wait_is_refused_at_once(vault, open_server, waits, header) -> None:
    """Otherwise four waits of any length would hold up the run."""
    vault.faults.append(Fault("GET", "secret/data/*", (503, {"Retry-After": header})))
    assert _error_of(lambda: open_server().sink(SVC).read()).code == "sink_unavailable"
    assert waits == []


def test_a_redirect_does_not_get_the_token(vault, open_server, authority) -> None:
    """A redirect of a standby is reported, and nothing is sent to its target."""
    with VaultStandIn(_tls(authority)) as elsewhere:
        vault.faults.append(Fault("GET", "*", (307, {"Location": f"{elsewhere.url}/v1/x"})))
        error = _error_of(lambda: open_server().sink(SVC).read())
        assert elsewhere.journal == []
    assert error.code == "sink_unavailable"
    assert "redirect" in error.message


def test_an_unknown_authority_gets_nothing(vault, open_server, waits) -> None:
    """With an untrusted certificate nothing is sent, and the error says what to set."""
    error = _error_of(lambda: open_server(VAULT_CACERT=None).sink(SVC).write(Secret(FIRST)))
    assert error.code == "sink_unavailable"
    assert "VAULT_CACERT" in error.remedy
    assert vault.journal == []
    assert not waits


@pytest.mark.parametrize("name", ["BAO_CACERT", "VAULT_CAPATH", "REQUESTS_CA_BUNDLE"])
def test_ca_certificates_have_several_variables(vault, open_server, certificate, name) -> None:
    """The CA certificates are trusted, whichever variable names them."""
    open_server(VAULT_CACERT=None, **{name: str(certificate)}).sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": FIRST}


def test_unreadable_ca_certificates_are_reported(open_server, tmp_path) -> None:
    """The error for a missing CA file names its variable."""
    error = _error_of(
        lambda: open_server(VAULT_CACERT=str(tmp_path / "nothing.pem")).sink(SVC).read()
    )
    assert error.code == "sink_unavailable"
    assert "VAULT_CACERT" in error.remedy


@pytest.mark.parametrize("joined", [False, True])
def test_a_client_certificate_is_sent(authority, certificate, tmp_path, joined) -> None:
    """A server may demand one; its key is in the same file or in one of its own."""
    context = _tls(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    issued = authority.issue_cert("client.example")
    chain = issued.cert_chain_pems[0].bytes()
    key = issued.private_key_pem.bytes()
    (tmp_path / "me.pem").write_bytes(chain + key if joined else chain)
    (tmp_path / "me.key").write_bytes(key)
    environment = {
        "VAULT_TOKEN": TOKEN,
        "VAULT_CACERT": str(certificate),
        "VAULT_CLIENT_CERT": str(tmp_path / "me.pem"),
        "VAULT_CLIENT_KEY": "" if joined else str(tmp_path / "me.key"),
    }
    with VaultStandIn(context) as server:
        server.policies[TOKEN] = {"secret/*": ALL}
        environment["VAULT_ADDR"] = server.url
        VaultServer(environment).sink(SVC).write(Secret(FIRST))
        assert server.latest(PATH) == {"svc": FIRST}
        environment["VAULT_CLIENT_CERT"] = str(tmp_path / "gone.pem")
        error = _error_of(VaultServer(environment).sink(SVC).read)
    assert error.code == "sink_unavailable"
    assert "VAULT_CLIENT_CERT" in error.remedy


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_unverified_tls_is_the_users_choice_and_logged(vault, open_server, caplog) -> None:
    """`VAULT_SKIP_VERIFY` is honoured with a warning; a false value has no effect."""
    with caplog.at_level(logging.WARNING, "provisioner"):
        _error_of(lambda: open_server(VAULT_CACERT=None, VAULT_SKIP_VERIFY="0").sink(SVC).read())
        assert not caplog.records
        open_server(VAULT_CACERT=None, VAULT_SKIP_VERIFY="true").sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": FIRST}
    assert ["VAULT_SKIP_VERIFY" in one.getMessage() for one in caplog.records] == [True]


def test_plain_http_is_only_for_loopback(open_server) -> None:
    """A development server on this machine works; other servers get no request at all."""
    with VaultStandIn() as plain:
        plain.policies[TOKEN] = {"secret/*": ALL}
        open_server(VAULT_ADDR=plain.url).sink(SVC).write(Secret(FIRST))
        assert plain.latest(PATH) == {"svc": FIRST}
    error = _error_of(lambda: open_server(VAULT_ADDR="http://vault.example.com").sink(SVC).check())
    assert error.code == "sink_unsuitable"
    assert "https://" in error.remedy


@pytest.mark.parametrize(
    "address", [None, "vault.example.com:8200", "https://", "http://[::1", "ftp://x"]
)
def test_an_invalid_address_is_reported(open_server, address) -> None:
    """For a missing or invalid URL the error names the variable to set."""
    error = _error_of(lambda: open_server(VAULT_ADDR=address).sink(SVC).check())
    assert error.code == "sink_missing"
    assert "VAULT_ADDR" in error.remedy


def test_namespaces_are_separate(vault, open_server) -> None:
    """The namespace of the environment is the one that is read and written."""
    open_server(VAULT_NAMESPACE="ops/eu").sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH, "ops/eu") == {"svc": FIRST}
    assert open_server().sink(SVC).read() == NoToken()


def test_openbao_names_take_precedence(vault, open_server) -> None:
    """If both are set, the `BAO_…` variable counts."""
    wrong = {"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_TOKEN": "wrong", "VAULT_NAMESPACE": "x"}
    right = {"BAO_ADDR": vault.url, "BAO_TOKEN": TOKEN, "BAO_NAMESPACE": "y"}
    open_server(**wrong, **right).sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH, "y") == {"svc": FIRST}


@pytest.mark.parametrize("name", ["HOME", "BAO_TOKEN_PATH", "VAULT_TOKEN_PATH"])
def test_a_login_may_leave_the_token_in_a_file(vault, open_server, tmp_path, name) -> None:
    """Without a variable the token file of the CLIs is read, and whitespace is removed."""
    file = tmp_path / ".vault-token"
    file.write_text(f"{TOKEN}\n")
    value = str(tmp_path if name == "HOME" else file)
    open_server(VAULT_TOKEN=None, **{name: value}).sink(SVC).write(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": FIRST}


@pytest.mark.parametrize("token", [None, " ", "hvs.split\ncanary", "hvs.tök"])
def test_an_unusable_token_is_reported_and_not_shown(open_server, tmp_path, token) -> None:
    """A missing or invalid token is an error of the credential."""
    error = _error_of(lambda: open_server(VAULT_TOKEN=token, HOME=str(tmp_path)).sink(SVC).check())
    assert error.code == "sink_denied"
    assert "VAULT_TOKEN" in error.remedy
    assert "hvs" not in error.message


def test_the_netrc_is_not_read(vault, open_server, tmp_path, monkeypatch) -> None:
    """No credential of another program is sent."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password netrc-canary\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    open_server().sink(SVC).read()
    assert vault.journal
    assert not [one for one in vault.journal if "Authorization" in one.headers]
    assert {one.headers["X-Vault-Token"] for one in vault.journal} == {TOKEN}


def test_an_engine_is_looked_up_once(vault, open_server) -> None:
    """Sixty places of an engine need only one lookup of it, for any number of threads."""
    server = open_server()
    places = [VaultAddress("secret", f"twenty/{number}") for number in range(60)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda place: server.sink(place).check(), places))
    assert vault.count("GET", "sys/internal/ui/mounts/*") == 1
    assert vault.count("POST", "sys/capabilities-self") == len(places)
    assert len(vault.journal) == len(places) + 1


def test_an_unreachable_server_is_tried_once_for_all_sinks(open_server, waits) -> None:
    """The second of its sinks fails like the first, without waiting again."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = open_server(VAULT_ADDR=f"https://127.0.0.1:{bound.getsockname()[1]}")
        first = _error_of(server.sink(SVC).check)
        waited = len(waits)
        assert waited == 4
        second = _error_of(server.sink(SVC).read)
    assert (first.code, first.message) == (second.code, second.message)
    assert len(waits) == waited


def test_check_and_read_write_nothing(vault, open_server) -> None:
    """They send no request that could change a secret."""
    sink = open_server().sink(SVC)
    sink.check()
    sink.read()
    assert {one.path for one in vault.journal if one.method == "POST"} == {"sys/capabilities-self"}


def test_a_mount_may_contain_slashes(vault, open_server) -> None:
    """The server knows where the mount ends and the path begins."""
    sink = open_server().sink(VaultAddress("team", "kv/app/x", "svc"))
    sink.check()
    sink.write(Secret(FIRST))
    assert vault.latest("team/kv/app/x") == {"svc": FIRST}


def test_version_1_is_refused(vault, open_server) -> None:
    """An engine without check-and-set cannot be used."""
    with pytest.raises(SinkError) as caught:
        open_server().sink(VaultAddress("old", "x")).check()
    assert caught.value.code == "sink_unsuitable"
    assert "version 2" in caught.value.message


def test_a_missing_mount_differs_from_an_invalid_token(vault, open_server) -> None:
    """The message says whether the token is valid."""
    with pytest.raises(SinkError, match="is valid but") as caught:
        open_server().sink(VaultAddress("typo", "x")).check()
    assert caught.value.code == "sink_denied"
    with pytest.raises(SinkError, match="not valid"):
        open_server(VAULT_TOKEN="other").sink(VaultAddress("typo", "x")).check()


def test_a_missing_namespace_is_reported(vault, open_server) -> None:
    """A 404 for the engine means that the place does not exist."""
    vault.faults.append(Fault("GET", "sys/*", (404, {})))
    assert _error_of(lambda: open_server().sink(SVC).check()).code == "sink_missing"


@pytest.mark.parametrize("granted", [("read",), ("create", "update"), ("deny",), ("list", "read")])
def test_incomplete_permissions_are_refused_by_the_check(vault, open_server, granted) -> None:
    """The check fails before a token is minted, and the error says what to grant."""
    vault.policies[TOKEN] = {**DEFAULT_POLICY, "secret/*": granted}
    error = _error_of(lambda: open_server().sink(SVC).check())
    assert error.code == "sink_denied"
    assert "secret/data/twenty/shop" in error.remedy


@pytest.mark.parametrize("granted", [("root",), ("read", "create"), ("read", "update")])
def test_sufficient_permissions_are_accepted(vault, open_server, granted) -> None:
    """Root is sufficient, and so is reading with either kind of writing."""
    vault.policies[TOKEN] = {**DEFAULT_POLICY, "secret/*": granted}
    sink = open_server().sink(SVC)
    sink.check()
    assert sink.read() == NoToken()


def test_a_token_that_may_read_passes_without_a_capability_lookup(vault, open_server) -> None:
    """A policy for the engine is enough, without the default policy."""
    vault.policies[TOKEN] = {"secret/*": ALL}
    open_server().sink(SVC).check()
    vault.policies[TOKEN] = {"secret/*": ("create",)}
    assert _error_of(lambda: open_server().sink(SVC).check()).code == "sink_denied"


def test_a_write_without_permission_is_reported(vault, open_server) -> None:
    """A read-only policy is also reported by the write."""
    vault.policies[TOKEN] = {"secret/*": ("read",)}
    error = _error_of(lambda: open_server().sink(SVC).write(Secret(FIRST)))
    assert error.code == "sink_denied"
    assert vault.latest(PATH) == {}


@pytest.mark.parametrize("path", ["a//b", "../x", "a/./b", "a/", "", "a\nb", "a/.."])
def test_a_path_that_would_lead_elsewhere_is_refused(vault, open_server, path) -> None:
    """Dots and empty parts are never sent."""
    with pytest.raises(SinkError) as caught:
        open_server().sink(VaultAddress("secret", path)).write(Secret(FIRST))
    assert caught.value.code == "sink_unsuitable"
    assert vault.journal == []


@pytest.mark.parametrize("body", ["<html>", "[]", '"x"', "{}", '{"data": {"data": {"svc": "x"}}}'])
def test_an_answer_of_another_program_is_reported(open_server, scripted, answer, body) -> None:
    """A success that is not Vault's does not count."""
    mount = '{"data": {"path": "secret/", "type": "kv", "options": {"version": "2"}}}'
    for script in ([answer(200, body)], [answer(200, mount), answer(200, body)]):
        server = scripted(*script)
        error = _error_of(lambda url=server.url: open_server(VAULT_ADDR=url).sink(SVC).read())
        assert error.code == "sink_unavailable"
        assert len(server.requests) == len(script)


def test_a_404_of_another_program_is_not_an_empty_secret(open_server, scripted, answer) -> None:
    """Only Vault's own 404 means that there is no secret."""
    mount = '{"data": {"path": "secret/", "type": "kv", "options": {"version": "2"}}}'
    server = scripted(answer(200, mount), answer(404, "<html>"))
    error = _error_of(lambda: open_server(VAULT_ADDR=server.url).sink(SVC).read())
    assert error.code == "sink_unavailable"


@pytest.mark.parametrize("path", ["a?b", "a#b", "a%2Fb", "a b", "ü/🔑", "a;b&c=d+e", "~\\'\""])
def test_a_path_arrives_unchanged(vault, open_server, path) -> None:
    """No character of a path is special on the way."""
    open_server().sink(VaultAddress("secret", path, "svc")).write(Secret(FIRST))
    assert vault.latest(f"secret/{path}") == {"svc": FIRST}


def test_a_removal_keeps_the_other_fields(vault, open_server) -> None:
    """Other fields keep their values of any type; the last field leaves an empty secret."""
    vault.put(PATH, {"other": [1], "svc": FIRST})
    vault.secret_at(PATH).custom_metadata = {"owner": "ops"}
    assert open_server().sink(SVC).remove(Secret(FIRST))
    assert vault.latest(PATH) == {"other": [1]}
    vault.put(PATH, {"svc": FIRST})
    assert open_server().sink(SVC).remove(Secret(FIRST))
    assert vault.latest(PATH) == {}
    assert vault.secret_at(PATH).custom_metadata == {"owner": "ops"}
    assert open_server().sink(SVC).read() == NoToken()


def test_a_removal_overtaken_by_another_writer_compares_again(vault, open_server) -> None:
    """The field that another writer has set in the meantime stays."""
    vault.put(PATH, {"svc": FIRST})
    theirs = lambda: vault.put(PATH, {"svc": "theirs"})  # noqa: E731 - a short hook
    vault.faults.append(Fault("POST", "secret/data/*", before=theirs, passed_on=True))
    assert not open_server().sink(SVC).remove(Secret(FIRST))
    assert vault.latest(PATH) == {"svc": "theirs"}
