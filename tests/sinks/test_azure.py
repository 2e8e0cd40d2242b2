"""Secrets of Azure Key Vault, against a server that follows Microsoft's documentation.

The access tokens come from azure-identity itself, which asks the same server as it asks a managed
identity of App Service.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from azure.core.pipeline.transport import RequestsTransport
from azure_server import ACCESS_TOKEN, IDENTITY_HEADER, AzureServer, error
from compliance import FIRST, SECOND, Backend, Compliance
from tls_server import HttpResponse

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.azure import SINK, AzureAddress, KeyVaults
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "twenty"
HTML = b"<html>not found</html>"
SECRET = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")


@pytest.fixture(scope="module")
def running() -> Iterator[AzureServer]:
    with AzureServer() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(running, monkeypatch) -> dict[str, str]:
    """Provide the environment of a machine with a managed identity."""
    running.reset()
    for name in list(os.environ):
        if name.startswith(("AZURE_", "IDENTITY_", "MSI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(RequestsTransport, "sleep", lambda *_: None)
    variables = {
        "IDENTITY_ENDPOINT": f"{running.url}/identity",
        "IDENTITY_HEADER": IDENTITY_HEADER,
        "REQUESTS_CA_BUNDLE": running.ca_file,
    }
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    return variables


@pytest.fixture
def vaults(environment) -> KeyVaults:
    return KeyVaults(environment, lambda _: None)


@pytest.fixture
def address(running) -> AzureAddress:
    return AzureAddress(running.url.removeprefix("https://"), NAME)


class AzureBackend(Backend):
    credential = ACCESS_TOKEN

    def __init__(self, server: AzureServer, environment: dict[str, str], monkeypatch) -> None:
        self.server = server
        self.environment = environment
        self.monkeypatch = monkeypatch
        self.vault = server.url.removeprefix("https://")

    def open_sink(self, secret: str):
        return KeyVaults(self.environment, lambda _: None).sink(AzureAddress(self.vault, secret))

    def sink(self, place: int = 0):
        return self.open_sink(f"place-{place}")

    def stored(self, place: int = 0) -> str | None:
        found = self.server.secrets.get(f"place-{place}")
        return found[-1]["value"] if found and found[-1]["attributes"]["enabled"] else None

    def strange_names(self):
        return tuple(map(self.open_sink, ("a" * 127, "-9", "0--A")))

    @contextmanager
    def denied(self):
        self.server.refusal = error(403, "Forbidden", "ForbiddenByRbac", f"not {ACCESS_TOKEN}")
        yield
        self.server.refusal = None

    @contextmanager
    def unreachable(self):
        """Leave the vault unanswered; without a token there would be no request to it."""
        answer = self.server.answer

        def only_identity(request):
            return answer(request) if request.names == ("identity",) else None

        with self.monkeypatch.context() as patch:
            patch.setattr(self.server, "answer", only_identity)
            yield

    @contextmanager
    def wrong_credential(self):
        with self.monkeypatch.context() as patch:
            patch.setenv("IDENTITY_HEADER", "wrong")
            yield


class TestAzure(Compliance):
    @pytest.fixture
    def backend(self, running, environment, monkeypatch) -> Backend:
        return AzureBackend(running, environment, monkeypatch)


def error_of(action: Callable[[], object]) -> SinkError:
    with pytest.raises(SinkError) as caught:
        action()
    text = f"{caught.value.message}{caught.value.remedy}"
    assert caught.value.message.startswith("azure localhost:")
    assert not [one for one in (FIRST, ACCESS_TOKEN, IDENTITY_HEADER) if one in text]
    return caught.value


def test_tags_and_content_type_are_kept(running, vaults, address) -> None:
    """Key Vault keeps them for each version, so they are written again; old versions stay."""
    running.add(NAME, "before", tags={"team": "shop"}, contentType="text/plain")
    vaults.sink(address).write(Secret(FIRST))
    assert running.values(NAME) == ["before", FIRST]
    new = running.secrets[NAME][-1]
    assert (new["tags"], new["contentType"]) == ({"team": "shop"}, "text/plain")


def test_a_deleted_secret_must_be_recovered_first(running, vaults, address) -> None:
    """A secret that somebody deleted is empty but blocks its name, which check and write say."""
    sink = vaults.sink(address)
    sink.write(Secret(FIRST))
    running.delete(NAME)
    assert sink.read() == NoToken()
    assert sink.remove(Secret(FIRST))
    for step in (sink.check, lambda: sink.write(Secret(SECOND))):
        failed = error_of(step)
        assert (failed.code, "keyvault secret recover" in failed.remedy) == (
            "sink_unsuitable",
            True,
        )
    running.secrets[NAME] = running.deleted.pop(NAME)
    sink.check()
    sink.write(Secret(SECOND))
    assert running.values(NAME) == [FIRST, SECOND]


def test_a_removal_disables_only_the_version_with_the_token(running, vaults, address) -> None:
    """It can be undone, older versions stay as they are, and the next delivery just works."""
    running.add(NAME, "by hand")
    sink = vaults.sink(address)
    sink.write(Secret(FIRST))
    assert sink.remove(Secret(FIRST))
    assert (running.values(NAME), running.enabled(NAME)) == (["by hand", FIRST], [True, False])
    assert sink.read() == NoToken()
    sink.check()
    sink.write(Secret(SECOND))
    assert sink.read() == StoredValue(Secret(SECOND))


def test_a_removal_of_a_version_without_an_id_fails(running, vaults, address) -> None:
    """An answer that does not name its version is not from Key Vault, and nothing is changed."""
    running.add(NAME, FIRST, id=f"{running.url}/secrets/{NAME}")
    failed = error_of(lambda: vaults.sink(address).remove(Secret(FIRST)))
    assert failed.code == "sink_unavailable"
    assert running.enabled(NAME) == [True]


@pytest.mark.parametrize("code", ["ObjectIsBeingDeleted", "ObjectIsBeingRecovered"])
def test_a_deletion_or_recovery_in_progress_is_awaited(running, vaults, address, code) -> None:
    """Key Vault needs some seconds for it, during which it refuses the write."""
    sink = vaults.sink(address)
    sink.read()
    running.outcomes = [None, error(409, "Conflict", code), error(409, "Conflict", code)]
    sink.write(Secret(FIRST))
    assert running.values(NAME) == [FIRST]
    running.outcomes = [None, *[error(409, "Conflict", code)] * 4]
    assert error_of(lambda: sink.write(Secret(SECOND))).code == "sink_unavailable"


def test_a_disabled_secret_is_empty(running, vaults, address) -> None:
    """Its readers get no token; a write adds an enabled version, and a removal keeps it."""
    running.add(NAME, FIRST, enabled=False)
    sink = vaults.sink(address)
    sink.check()
    assert sink.read() == NoToken()
    assert sink.remove(Secret(FIRST))
    assert NAME in running.secrets
    sink.write(Secret(SECOND))
    assert running.values(NAME) == [FIRST, SECOND]


def test_the_secret_of_a_certificate_is_refused(running, vaults, address) -> None:
    """The check reports it before a token is minted, because the certificate needs it."""
    running.add(NAME, "pem", managed=True)
    assert error_of(vaults.sink(address).check).code == "sink_unsuitable"


@pytest.mark.parametrize("outcome", ["lose", HttpResponse(503)])
def test_a_removal_whose_answer_was_lost_is_complete(running, vaults, address, outcome) -> None:
    """The repeat finds a disabled version, which is what was wanted."""
    running.add(NAME, FIRST)
    sink = vaults.sink(address)
    sink.read()
    running.outcomes = [None, outcome]
    assert sink.remove(Secret(FIRST))
    assert running.enabled(NAME) == [False]


@pytest.mark.parametrize(
    ("refusal", "expected_code", "advice"),
    [
        (error(401, "Unauthorized"), "sink_denied", "AZURE_TENANT_ID"),
        (error(403, "Forbidden", "AccessDenied", FIRST), "sink_denied", "Secrets Officer"),
        (error(403, "Forbidden", "ForbiddenByFirewall"), "sink_denied", "network"),
        (HttpResponse(403, HTML), "sink_denied", "Secrets Officer"),
        (error(400, "BadParameter", FIRST, FIRST), "sink_failed", "portal"),
        (error(409, "Conflict", FIRST), "sink_failed", "portal"),
        (HttpResponse(404, HTML), "sink_unavailable", "the name of the vault"),
        (HttpResponse(200, HTML), "sink_unavailable", "address"),
        (HttpResponse(302, HTML, {"Location": "/"}), "sink_unavailable", "address"),
    ],
)
def test_each_refusal_has_its_meaning(
    running, vaults, address, refusal: HttpResponse, expected_code: str, advice: str
) -> None:
    """It is reported without its text, and an answer that is not Azure's is no empty secret."""
    running.refusal = refusal
    failed = error_of(vaults.sink(address).read)
    assert (failed.code, advice in failed.remedy) == (expected_code, True)


def test_a_vault_that_does_not_exist_is_reported(running, vaults) -> None:
    """Its host is unknown, so the advice is about the name; the token is only for its domain."""
    with pytest.raises(SinkError, match="cannot be reached") as caught:
        vaults.sink(AzureAddress("none.vault.invalid", NAME)).check()
    assert "the name of the vault" in caught.value.remedy
    assert running.resources == ["https://vault.invalid"]


def test_a_removal_needs_the_permission_to_update(running, vaults, address) -> None:
    """A removal that is not allowed names the permission."""
    running.add(NAME, FIRST)
    sink = vaults.sink(address)
    sink.read()
    running.outcomes = [None, error(403, "Forbidden", "ForbiddenByRbac")]
    failed = error_of(lambda: sink.remove(Secret(FIRST)))
    assert (failed.code, "disable" in failed.message) == ("sink_denied", True)
    assert running.enabled(NAME) == [True]


def test_a_run_needs_one_access_token_for_each_cloud(running, vaults, address) -> None:
    """Its threads share the token, which is only for vaults of the domain of the host."""
    sinks = [vaults.sink(AzureAddress(address.vault, f"many-{n}")) for n in range(12)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda sink: sink.write(Secret(FIRST)), sinks))
    assert len(running.secrets) == 12
    assert running.resources == ["https://localhost"]


def test_an_access_token_is_renewed_before_it_expires(running, vaults, address) -> None:
    """A run that takes longer than the token is valid goes on."""
    running.lifetime = 200
    for _ in range(2):
        vaults.sink(address).read()
    assert len(running.resources) == 2


def test_a_refused_identity_is_asked_once(running, vaults, address, monkeypatch) -> None:
    """A run with thousands of keys reports the failure for each, without a request for each."""
    monkeypatch.setenv("IDENTITY_HEADER", "wrong")
    for _ in range(3):
        failed = error_of(vaults.sink(address).read)
        assert (failed.code, "az login" in failed.remedy) == ("sink_denied", True)
    assert len(running.requests) == 1


def test_an_invalid_setting_of_the_identity_is_reported(vaults, address, monkeypatch) -> None:
    """What azure-identity itself refuses is an error of the sink too."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
    assert error_of(vaults.sink(address).read).code == "sink_denied"


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, True),
        ({"AZURE_TOKEN_CREDENTIALS": "dev"}, True),
        ({"AZURE_TOKEN_CREDENTIALS": "prod"}, False),
        (dict.fromkeys(SECRET, "x"), False),
        (dict.fromkeys(SECRET[:2], "x"), True),
        ({"IDENTITY_ENDPOINT": "x"}, False),
        ({"PATH": "/nowhere"}, False),
    ],
)
def test_the_cli_is_a_program(tmp_path, variables: dict[str, str], asked: bool) -> None:
    """`--no-programs` covers it where it would be asked: if no variables configure an identity."""
    (tmp_path / "az").touch(0o755)
    program = SINK.program_of(AzureAddress("v", NAME), {"PATH": str(tmp_path)} | variables)
    assert (program is not None) == asked


@pytest.mark.parametrize(
    ("vault", "host"),
    [
        ("Acme-Prod", "acme-prod.vault.azure.net"),
        ("acme.vault.azure.cn", "acme.vault.azure.cn"),
        ("acme.vault.usgovcloudapi.net", "acme.vault.usgovcloudapi.net"),
    ],
)
def test_a_vault_has_a_name_or_a_host(vault: str, host: str) -> None:
    """A name is one of the public cloud, and `--allow-host` covers the host."""
    address = AzureAddress(vault, "A")
    assert SINK.server_of({}, address.server) == f"https://{host}"
    assert address.place == AzureAddress(host.upper(), "a").place


@pytest.mark.parametrize(
    "vault", ["acme", "Acme.Vault.Azure.Net", "acme.vault.azure.net:443", "acme.vault.azure.net."]
)
def test_each_spelling_of_a_vault_is_one_place(vault: str) -> None:
    """Two keys whose tokens would overwrite each other are found, however the vault is written."""
    assert AzureAddress(vault, "Twenty").place == ("azure", "acme.vault.azure.net", "twenty")


@pytest.mark.parametrize(
    ("vault", "may_be"),
    [
        ("acme.vault.azure.net:443", True),
        ("acme.privatelink.vaultcore.azure.net", True),
        ("ACME.vault.azure.net:8443", True),
        ("other", False),
    ],
)
def test_another_name_of_a_vault_is_not_a_former_sink(vault: str, may_be: bool) -> None:
    """A vault may have several hosts, so a removal in one of them could hit the secret in use."""
    before, now = AzureAddress("acme", "t"), AzureAddress(vault, "T")
    assert before.neighbourhood == now.neighbourhood
    assert (before.may_be(now), now.may_be(before)) == (may_be, may_be)


@pytest.mark.parametrize("library", ["azure.identity", "azure.core.exceptions"])
def test_without_the_library_the_extra_is_named(vaults, address, monkeypatch, library) -> None:
    """Without the library the error says how to install the extra."""
    monkeypatch.setitem(sys.modules, library, None)
    failed = error_of(vaults.sink(address).check)
    assert failed.code == "sink_extra_missing"
    assert failed.remedy == extra_remedy("azure")
