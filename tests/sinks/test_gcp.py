"""Secrets of Google Secret Manager, against a server that follows Google's documentation."""

from __future__ import annotations

import importlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from compliance import FIRST, SECOND, Backend, Compliance
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_server import ACCESS_TOKEN, SUBJECT_TOKEN, GoogleServer, error
from google.auth import _exponential_backoff
from tls_server import HttpRequest, HttpResponse, TlsServer

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.gcp import SINK, GcpAddress, SecretManager
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLACE = ("acme-prod", "twenty")
SVC = GcpAddress(*PLACE)
HTML = b"<html>not found</html>"


@pytest.fixture(scope="module")
def running() -> Iterator[GoogleServer]:
    with GoogleServer() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(running, monkeypatch, tmp_path) -> dict[str, str]:
    """Provide the environment of a pipeline with a workload identity."""
    running.reset()
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "CLOUDSDK_", "GCE_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(_exponential_backoff.time, "sleep", lambda _: None)
    (tmp_path / "token").write_text(SUBJECT_TOKEN)
    file = credential(
        tmp_path,
        type="external_account",
        audience="//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
        subject_token_type="urn:ietf:params:oauth:token-type:jwt",
        token_url=f"{running.url}/token",
        credential_source={"file": str(tmp_path / "token")},
    )
    return {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"{running.url}/",
        "REQUESTS_CA_BUNDLE": running.ca_file,
        "GOOGLE_APPLICATION_CREDENTIALS": file,
    }


@pytest.fixture
def manager(environment) -> SecretManager:
    return SecretManager(environment, lambda _: None)


def credential(folder: Path, **content: object) -> str:
    file = folder / "credential.json"
    file.write_text(json.dumps(content))
    return str(file)


class GcpBackend(Backend):
    credential = ACCESS_TOKEN

    def __init__(self, server: GoogleServer, environment: dict[str, str], folder: Path) -> None:
        self.server = server
        self.environment = environment
        self.folder = folder

    def open_sink(self, project: str, secret: str):
        address = GcpAddress(project, secret)
        return SecretManager(self.environment, lambda _: None).sink(address)

    def sink(self, place: int = 0):
        return self.open_sink("acme-prod", f"place-{place}")

    def stored(self, place: int = 0) -> str | None:
        found = ("acme-prod", f"place-{place}")
        return self.server.values(found)[-1] if self.server.secrets.get(found) else None

    def strange_names(self):
        names = (("example.com:acme-prod", "a" * 255), ("123456789012", "_-Z9"), PLACE)
        return tuple(self.open_sink(*one) for one in names)

    @contextmanager
    def denied(self):
        permissions = "versions.access versions.add secrets.get secrets.create"
        self.server.refused = {f"secretmanager.{one}" for one in permissions.split()}
        yield

    def unreachable(self):
        return self.server.silent()

    @contextmanager
    def wrong_credential(self):
        (self.folder / "token").write_text("somebody else's")
        yield


class TestGcp(Compliance):
    @pytest.fixture
    def backend(self, running, environment, tmp_path) -> Backend:
        return GcpBackend(running, environment, tmp_path)


def error_of(action: Callable[[], object]) -> SinkError:
    with pytest.raises(SinkError) as caught:
        action()
    text = f"{caught.value.message}{caught.value.remedy}"
    assert str(SVC) in text
    assert not [one for one in (FIRST, ACCESS_TOKEN, SUBJECT_TOKEN) if one in text]
    return caught.value


def value(sink: Any) -> str:
    content = sink.read()
    assert isinstance(content, StoredValue)
    return content.value.reveal()


def test_a_new_token_is_read_back_before_latest_leads_to_it(running, manager) -> None:
    """The run that wrote it reads it by its number; a newer version of another run comes first."""
    sink = manager.sink(SVC)
    running.latest_is_late = True
    sink.write(Secret(FIRST))
    assert value(sink) == FIRST
    sink.write(Secret(SECOND))
    assert value(manager.sink(SVC)) == SECOND
    running.add(PLACE, "theirs", "later")
    assert value(sink) == "theirs"


def test_older_versions_stay(running, manager) -> None:
    """A write adds a version, and a removal destroys only the one with the token."""
    running.add(PLACE, "before")
    sink = manager.sink(SVC)
    sink.write(Secret(FIRST))
    assert running.values(PLACE) == ["before", FIRST]
    assert sink.remove(Secret(FIRST))
    assert running.values(PLACE) == ["before", None]
    assert sink.read() == NoToken()
    sink.write(Secret(SECOND))
    assert running.values(PLACE) == ["before", None, SECOND]


def test_a_removal_destroys_both_versions_of_a_lost_answer(running, manager) -> None:
    """A repeated write leaves the token in two versions, and none of them is forgotten."""
    running.add(PLACE, FIRST, "other")
    sink = manager.sink(SVC)
    sink.read()
    running.outcomes = ["lose"]
    sink.write(Secret(FIRST))
    assert running.values(PLACE) == [FIRST, "other", FIRST, FIRST]
    assert sink.remove(Secret(FIRST))
    assert running.values(PLACE) == [FIRST, "other", None, None]


def test_a_removal_whose_answer_was_lost_is_complete(running, manager) -> None:
    """The repeat finds the version destroyed, which is what was wanted."""
    running.add(PLACE, FIRST)
    sink = manager.sink(SVC)
    sink.read()
    running.outcomes = [None, "lose"]
    assert sink.remove(Secret(FIRST))
    assert running.values(PLACE) == [None]


@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED"])
def test_a_latest_version_that_cannot_be_read_is_empty(running, manager, state: str) -> None:
    """Readers of `latest` get no token then, although an older version has one."""
    running.add(PLACE, "older")
    running.add(PLACE, FIRST, state=state)
    sink = manager.sink(SVC)
    sink.check()
    assert sink.read() == NoToken()
    assert sink.remove(Secret(FIRST))
    assert len(running.secrets[PLACE]) == 2


def test_a_secret_that_appears_late_is_written(running, manager) -> None:
    """Google may not find a secret at once that it has just created, so the write is repeated."""
    sink = manager.sink(SVC)
    sink.read()
    running.outcomes = [error(404, "NOT_FOUND"), None, error(404, "NOT_FOUND")]
    sink.write(Secret(FIRST))
    assert running.values(PLACE) == [FIRST]


def test_a_secret_created_by_another_run_is_written(running, manager) -> None:
    """If another run creates the secret at the same time, the token becomes a version of it."""
    running.add(PLACE, "theirs")
    sink = manager.sink(SVC)
    sink.read()
    running.outcomes = [error(404, "NOT_FOUND")]
    sink.write(Secret(FIRST))
    assert running.values(PLACE) == ["theirs", FIRST]


@pytest.mark.parametrize(
    ("permission", "step"),
    [
        ("versions.add", "check"),
        ("versions.access", "check"),
        ("versions.access", "read"),
        ("secrets.create", "write"),
        ("versions.destroy", "remove"),
    ],
)
def test_a_missing_permission_is_named(running, manager, permission: str, step: str) -> None:
    """The check reports what a run needs, and each step the permission that it lacks."""
    if step != "write":
        running.add(PLACE, FIRST)
    running.refused = {f"secretmanager.{permission}"}
    sink = manager.sink(SVC)
    arguments = [Secret(FIRST)] if step in ("write", "remove") else []
    failed = error_of(lambda: getattr(sink, step)(*arguments))
    assert failed.code == "sink_denied"
    assert f"secretmanager.{permission}" in failed.remedy


@pytest.mark.parametrize(
    ("refusal", "expected_code", "advice"),
    [
        (error(403, "PERMISSION_DENIED", "SERVICE_DISABLED"), "sink_unsuitable", "enable"),
        (error(400, "FAILED_PRECONDITION", text=f"key of {FIRST}"), "sink_failed", "KMS key"),
        (error(400, FIRST, text=FIRST), "sink_failed", "KMS key"),
        (HttpResponse(404, HTML), "sink_unavailable", "OVERRIDES_SECRETMANAGER"),
        (HttpResponse(200, HTML), "sink_unavailable", "address"),
        (HttpResponse(200, {"name": "x"}), "sink_unavailable", "OVERRIDES_SECRETMANAGER"),
        (HttpResponse(302, HTML, {"Location": "/"}), "sink_unavailable", "address"),
    ],
)
def test_each_refusal_has_its_meaning(
    running, manager, refusal: HttpResponse, expected_code: str, advice: str
) -> None:
    """It is reported by its code only, and an answer that is not Google's is no empty secret."""
    running.refusal = refusal
    failed = error_of(manager.sink(SVC).read)
    assert (failed.code, advice in failed.remedy) == (expected_code, True)
    assert error_of(lambda: manager.sink(SVC).write(Secret(FIRST))).code == expected_code


@pytest.mark.parametrize(
    ("created", "expected_code"),
    [
        (error(400, "FAILED_PRECONDITION"), "sink_unsuitable"),
        (error(404, "NOT_FOUND"), "sink_missing"),
    ],
)
def test_a_secret_that_cannot_be_created_is_explained(
    running, manager, created: HttpResponse, expected_code: str
) -> None:
    """A policy of the organisation, or a project that does not exist, is named as the reason."""
    sink = manager.sink(SVC)
    sink.check()
    running.outcomes = [error(404, "NOT_FOUND"), created]
    assert error_of(lambda: sink.write(Secret(FIRST))).code == expected_code


def test_a_run_needs_one_access_token(running, manager) -> None:
    """Its threads share the token until it expires."""
    places = [GcpAddress("acme-prod", f"many-{n}") for n in range(12)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda place: manager.sink(place).write(Secret(FIRST)), places))
    assert [running.values(("acme-prod", one.secret)) for one in places] == [[FIRST]] * 12
    assert running.tokens == 1


def test_a_refused_identity_is_asked_once(running, manager, tmp_path) -> None:
    """A run with thousands of keys reports the failure for each, without a request for each."""
    (tmp_path / "token").write_text("wrong")
    for _ in range(3):
        failed = error_of(manager.sink(SVC).read)
        assert (failed.code, "invalid_grant" in failed.message) == ("sink_denied", True)
    assert len(running.requests) == 1


def test_a_service_account_signs_in_with_its_key(running, environment, tmp_path) -> None:
    """The key signs a request for a token, which goes through our own client."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = credential(
        tmp_path,
        type="service_account",
        client_email="svc@acme-prod.iam.gserviceaccount.com",
        private_key=key.decode(),
        private_key_id="1",
        token_uri=f"{running.url}/token",
    )
    environment["GOOGLE_APPLICATION_CREDENTIALS"] = file
    SecretManager(environment).sink(SVC).write(Secret(FIRST))
    assert running.values(PLACE) == [FIRST]


class MetadataServer(TlsServer):
    """The metadata server of a machine of Google, as documented ("About VM metadata")."""

    def answer(self, request: HttpRequest) -> HttpResponse:
        flavor = {"Metadata-Flavor": "Google"}
        assert request.headers["Metadata-Flavor"] == "Google"
        if request.names[-1] == "token":
            body = {"access_token": ACCESS_TOKEN, "expires_in": 3599, "token_type": "Bearer"}
            return HttpResponse(200, body, flavor | {"Content-Type": "application/json"})
        if request.names[-2:] == ("default", ""):
            body = {"email": "svc@acme-prod.iam.gserviceaccount.com", "scopes": []}
            return HttpResponse(200, body, flavor | {"Content-Type": "application/json"})
        return HttpResponse(200, b"acme-prod", flavor | {"Content-Type": "text/plain"})


@pytest.fixture
def without_file(environment, monkeypatch, tmp_path) -> Iterator[Callable[..., None]]:
    """Provide an environment without a file, and what sets variables of the metadata server."""
    from google.auth.compute_engine import _metadata

    del environment["GOOGLE_APPLICATION_CREDENTIALS"]
    environment["HOME"] = str(tmp_path)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))

    def set_variables(**variables: str) -> None:
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        importlib.reload(_metadata)  # it reads some of them once

    yield set_variables
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "NO_GCE_CHECK"):
        monkeypatch.delenv(name, raising=False)
    importlib.reload(_metadata)


def test_a_machine_of_google_has_an_identity(
    running, environment, monkeypatch, without_file
) -> None:
    """Without a file the metadata server gives the token, and no proxy is asked for it."""
    with MetadataServer(plain=True) as metadata:
        host = metadata.url.replace("http://localhost", "127.0.0.1")
        without_file(GCE_METADATA_HOST=host, GCE_METADATA_IP=host)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        SecretManager(environment).sink(SVC).write(Secret(FIRST))
    assert running.values(PLACE) == [FIRST]


def test_a_missing_credential_is_reported(running, environment, without_file) -> None:
    """The error says how to provide one, and nothing is sent to the service."""
    without_file(NO_GCE_CHECK="true")
    failed = error_of(SecretManager(environment).sink(SVC).check)
    assert (failed.code, "GOOGLE_APPLICATION_CREDENTIALS" in failed.remedy) == ("sink_denied", True)
    assert running.requests == []


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"type": "service_account"}', '{"type": "external_account"}', None],
)
def test_a_damaged_credential_is_reported(environment, tmp_path, content: str | None) -> None:
    """The error names the variable, and shows nothing of the file."""
    file = tmp_path / "damaged.json"
    if content is not None:
        file.write_text(content)
    environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(file)
    failed = error_of(SecretManager(environment).sink(SVC).check)
    assert (failed.code, "GOOGLE_APPLICATION_CREDENTIALS" in failed.remedy) == ("sink_denied", True)


@pytest.mark.parametrize(
    "change",
    [
        *({"credential_source": source} for source in ("text", [], ["executable"], 5)),
        *({"type": "impersonated_service_account", "source_credentials": one} for one in ("a", [])),
    ],
)
def test_a_strange_configuration_is_reported(environment, tmp_path, change) -> None:
    """A part of the file with another type than Google's is an error of the sink."""
    configuration = json.loads((tmp_path / "credential.json").read_text())
    url = "https://iam.example.com/v1/projects/-/serviceAccounts/a:generateAccessToken"
    credential(tmp_path, **configuration | {"service_account_impersonation_url": url} | change)
    failed = error_of(SecretManager(environment).sink(SVC).check)
    assert (failed.code, "GOOGLE_APPLICATION_CREDENTIALS" in failed.remedy) == ("sink_denied", True)


@pytest.mark.parametrize("permissions", [5, "text", {}, [{}, []], None])
def test_strange_permissions_are_none(running, manager, permissions: object) -> None:
    """An answer of another type than Google's grants nothing."""
    running.add(PLACE, FIRST)
    running.outcomes = [None, HttpResponse(200, {"permissions": permissions})]
    assert error_of(manager.sink(SVC).check).code == "sink_denied"


def test_a_credential_never_travels_unencrypted(environment, tmp_path) -> None:
    """A token service with plain http on another machine is refused before anything is sent."""
    configuration = json.loads((tmp_path / "credential.json").read_text())
    credential(tmp_path, **configuration | {"token_url": "http://sts.example.com/token"})
    failed = error_of(SecretManager(environment).sink(SVC).check)
    assert (failed.code, "https://" in failed.remedy) == ("sink_unsuitable", True)


@pytest.mark.parametrize(
    ("variables", "server"),
    [
        ({}, "https://secretmanager.googleapis.com"),
        ({"GOOGLE_CLOUD_UNIVERSE_DOMAIN": "s3nsapis.fr"}, "https://secretmanager.s3nsapis.fr"),
        (
            {"CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": "https://sm.acme.example/"},
            "https://sm.acme.example",
        ),
    ],
)
def test_variables_of_google_name_the_server(variables: dict[str, str], server: str) -> None:
    """Those of gcloud and of Google's libraries, so that `--allow-host` covers it."""
    assert SINK.server_of(variables, None) == server


def test_an_executable_of_the_credential_is_a_program(environment, tmp_path) -> None:
    """`--no-programs` covers the program that a workload identity may name."""
    assert SINK.program_of(SVC, environment) is None
    credential(tmp_path, type="external_account", credential_source={"executable": {}})
    assert "executable" in str(SINK.program_of(SVC, environment))


def test_the_number_of_a_project_may_be_another_name_for_it() -> None:
    """Such an address is never cleaned up as the old place of the other."""
    assert GcpAddress("123", "a").may_be(GcpAddress("acme-prod", "a"))
    assert not GcpAddress("acme-test", "a").may_be(GcpAddress("acme-prod", "a"))


@pytest.mark.parametrize("library", ["google.auth", "google.auth.exceptions"])
def test_without_the_library_the_extra_is_named(manager, monkeypatch, library: str) -> None:
    """Without the library the error says how to install the extra."""
    monkeypatch.setitem(sys.modules, library, None)
    failed = error_of(manager.sink(SVC).check)
    assert failed.code == "sink_extra_missing"
    assert failed.remedy == extra_remedy("gcp")
