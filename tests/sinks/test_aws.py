"""Secrets of AWS Secrets Manager, against moto's server, which also enforces IAM."""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import botocore.endpoint
import pytest
import requests
from aws_server import REGION, SECRET_KEY, AwsBackend, client, moto, only_moto
from aws_server import error as error_answer
from compliance import FIRST, SECOND, Backend, Compliance
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.aws import AwsAddress, SecretsManager
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SVC = AwsAddress("twenty/shop/svc", REGION)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def aws(server, monkeypatch, tmp_path) -> Iterator[str]:
    """Provide an empty AWS, and an environment with a credential only for it."""
    with only_moto(server, monkeypatch, tmp_path) as url:
        yield url


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Return Boto3's waits in seconds between its attempts, which take no time."""
    recorded: list[float] = []
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=recorded.append))
    return recorded


@pytest.fixture
def vendor(aws) -> Any:
    """Return the vendor's own client, as another user would have it."""
    return client(aws, "secretsmanager")


def _manager() -> SecretsManager:
    return SecretsManager(os.environ)


def _versions(vendor: Any, name: str = SVC.secret) -> list[str]:
    """Return the texts of all versions, the current one first."""
    found = vendor.list_secret_version_ids(SecretId=name, IncludeDeprecated=True)["Versions"]
    found.sort(key=lambda one: "AWSCURRENT" not in one.get("VersionStages", []))
    return [
        vendor.get_secret_value(SecretId=name, VersionId=one["VersionId"])["SecretString"]
        for one in found
    ]


class SecretsBackend(AwsBackend):
    def sink(self, place=0):
        return _manager().sink(AwsAddress(f"twenty/shop/place-{place}", REGION))

    def stored(self, place=0):
        # A request would be refused while IAM is enforced.
        found = get_backend("secretsmanager")[DEFAULT_ACCOUNT_ID][REGION].secrets.get(
            f"twenty/shop/place-{place}"
        )
        if found is None or found.is_deleted():
            return None
        return found.versions[found.default_version_id]["secret_string"]

    def strange_names(self):
        names = ("a/_+=.@-Z9", "a" * 512, "/with/slashes/", "-AbCdEf")
        return tuple(_manager().sink(AwsAddress(name, REGION)) for name in names)


class TestAws(Compliance):
    @pytest.fixture
    def backend(self, aws, monkeypatch) -> Backend:
        return SecretsBackend(aws, monkeypatch)


def _error_of(action: Callable[[], object], address: AwsAddress = SVC) -> SinkError:
    with pytest.raises(SinkError) as caught:
        action()
    assert str(address) in caught.value.message
    assert SECRET_KEY not in f"{caught.value.message}{caught.value.remedy}"
    return caught.value


def test_the_old_token_stays_as_the_previous_version(vendor) -> None:
    """Each write creates one version with the usual stages of AWS, so that it can be undone."""
    _manager().sink(SVC).write(Secret(FIRST))
    _manager().sink(SVC).write(Secret(SECOND))
    assert _versions(vendor) == [SECOND, FIRST]
    previous = vendor.get_secret_value(SecretId=SVC.secret, VersionStage="AWSPREVIOUS")
    assert previous["SecretString"] == FIRST


def test_description_and_tags_are_kept(vendor) -> None:
    """A write changes only the text of a secret."""
    tags = [{"Key": "team", "Value": "shop"}]
    vendor.create_secret(Name=SVC.secret, SecretString="x", Description="by hand", Tags=tags)
    _manager().sink(SVC).write(Secret(FIRST))
    described = vendor.describe_secret(SecretId=SVC.secret)
    assert (described["Description"], described["Tags"]) == ("by hand", tags)


@contextmanager
def _dropping_proxy(upstream: str) -> Iterator[tuple[str, list[str]]]:
    """Run a proxy server that drops the first answer to a successful write.

    Yields:
        Its URL, and the operations whose answers it dropped.
    """
    dropped: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = requests.post(upstream, body, headers=dict(self.headers), timeout=30)
            operation = self.headers["X-Amz-Target"].rpartition(".")[2]
            if answer.ok and operation.startswith(("Put", "Create")) and not dropped:
                dropped.append(operation)
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", dropped
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize("exists", [True, False])
def test_a_write_with_a_lost_answer_happens_once(aws, vendor, monkeypatch, exists) -> None:
    """Boto3 repeats it with the same version id, which AWS recognises."""
    if exists:
        vendor.create_secret(Name=SVC.secret, SecretString="before")
    with _dropping_proxy(aws) as (url, dropped):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        _manager().sink(SVC).write(Secret(FIRST))
    assert dropped == ["PutSecretValue" if exists else "CreateSecret"]
    assert _versions(vendor) == [FIRST, *(["before"] if exists else [])]


def test_a_secret_created_by_another_run_is_written(vendor, scripted, answer, monkeypatch) -> None:
    """If another run creates the secret at the same time, the token becomes a version of it."""
    script = scripted(
        error_answer(answer, 400, "ResourceNotFoundException"),
        error_answer(answer, 400, "ResourceExistsException"),
        answer(200, "{}"),
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", script.url)
    _manager().sink(SVC).write(Secret(FIRST))
    bodies = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in script.requests]
    assert [one.get("SecretId", one.get("Name")) for one in bodies] == [SVC.secret] * 3
    assert len({one["ClientRequestToken"] for one in bodies}) == 1
    assert {one["SecretString"] for one in bodies} == {FIRST}


def test_each_write_has_its_own_id(vendor) -> None:
    """Writing the same token again creates another version, and is not ignored as a repeat."""
    sink = _manager().sink(SVC)
    sink.write(Secret(FIRST))
    sink.write(Secret(SECOND))
    sink.write(Secret(FIRST))
    assert _versions(vendor)[0] == FIRST
    assert len(_versions(vendor)) == 3


def test_a_binary_secret_is_not_a_token(vendor) -> None:
    """A binary secret is reported as content, and a write replaces it by a text."""
    vendor.create_secret(Name=SVC.secret, SecretBinary=b"\x00\xff")
    content = _manager().sink(SVC).read()
    assert isinstance(content, StoredValue)
    assert content.value.reveal() == "AP8="
    _manager().sink(SVC).write(Secret(FIRST))
    assert vendor.get_secret_value(SecretId=SVC.secret)["SecretString"] == FIRST


def test_a_secret_without_a_value_is_empty(vendor) -> None:
    """A secret that was created empty can take its first token."""
    vendor.create_secret(Name=SVC.secret)
    sink = _manager().sink(SVC)
    sink.check()
    assert sink.read() == NoToken()
    sink.write(Secret(FIRST))
    assert vendor.get_secret_value(SecretId=SVC.secret)["SecretString"] == FIRST


def test_a_secret_scheduled_for_deletion_is_refused(vendor) -> None:
    """The check reports it, and says how to restore it; nothing can be read there."""
    vendor.create_secret(Name=SVC.secret, SecretString="x")
    vendor.delete_secret(SecretId=SVC.secret)
    sink = _manager().sink(SVC)
    error = _error_of(sink.check)
    assert error.code == "sink_unsuitable"
    assert "restore-secret" in error.remedy
    assert sink.read() == NoToken()


def test_a_removed_secret_can_be_restored(vendor) -> None:
    """A removal only schedules the deletion, for as long as AWS allows to restore the secret."""
    sink = _manager().sink(SVC)
    sink.write(Secret(FIRST))
    assert sink.remove(Secret(FIRST))
    described = vendor.describe_secret(SecretId=SVC.secret)
    assert (described["DeletedDate"] - datetime.now(UTC)).days in (29, 30)
    assert sink.remove(Secret(FIRST))
    vendor.restore_secret(SecretId=SVC.secret)
    assert sink.read() == StoredValue(Secret(FIRST))


def test_a_removal_needs_the_permission_to_delete(vendor, aws, monkeypatch) -> None:
    """A removal that is not allowed names the permission."""
    _manager().sink(SVC).write(Secret(FIRST))
    with SecretsBackend(aws, monkeypatch).denied():
        error = _error_of(lambda: _manager().sink(SVC).remove(Secret(FIRST)))
    assert (error.code, "DeleteSecret" in error.remedy) == ("sink_denied", True)


def test_a_replica_is_refused(vendor) -> None:
    """A read-only secret is reported before a token is minted."""
    replicas = [{"Region": "eu-west-1"}]
    vendor.create_secret(Name=SVC.secret, SecretString="x", AddReplicaRegions=replicas)
    _manager().sink(SVC).check()
    replica = AwsAddress(SVC.secret, "eu-west-1")
    assert _error_of(_manager().sink(replica).check, replica).code == "sink_unsuitable"


def test_regions_are_separate(vendor, monkeypatch) -> None:
    """The region of the address takes precedence over that of the environment."""
    monkeypatch.setenv("AWS_REGION", REGION)
    _manager().sink(AwsAddress(SVC.secret, "us-east-1")).write(Secret(FIRST))
    assert _manager().sink(SVC).read() == NoToken()


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_environment_may_name_the_region(vendor, monkeypatch, name) -> None:
    """Both variables are used."""
    monkeypatch.setenv(name, REGION)
    _manager().sink(AwsAddress(SVC.secret)).write(Secret(FIRST))
    assert vendor.get_secret_value(SecretId=SVC.secret)["SecretString"] == FIRST


def test_a_profile_may_name_region_and_credential(vendor, monkeypatch, tmp_path) -> None:
    """The configuration of the AWS tools is used."""
    file = tmp_path / "config"
    file.write_text(
        f"[profile shop]\nregion = {REGION}\naws_access_key_id = A\naws_secret_access_key = B\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "shop")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    _manager().sink(AwsAddress(SVC.secret)).write(Secret(FIRST))
    assert vendor.get_secret_value(SecretId=SVC.secret)["SecretString"] == FIRST


def test_a_missing_region_is_reported(aws) -> None:
    """The error names the two ways to set a region."""
    nowhere = AwsAddress(SVC.secret)
    error = _error_of(_manager().sink(nowhere).check, nowhere)
    assert error.code == "sink_missing"
    assert "region:" in error.remedy
    assert "AWS_REGION" in error.remedy


@pytest.mark.parametrize("half", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_missing_credential_is_reported(aws, monkeypatch, half) -> None:
    """Without a complete credential no request is sent."""
    monkeypatch.delenv(half)
    error = _error_of(_manager().sink(SVC).check)
    assert error.code == "sink_denied"
    assert "AWS_ACCESS_KEY_ID" in error.remedy


@pytest.mark.parametrize(
    ("changes", "expected_code"),
    [
        ({"AWS_PROFILE": "nobody"}, "sink_denied"),
        ({"AWS_ENDPOINT_URL": "no url"}, "sink_denied"),
        ({"AWS_ENDPOINT_URL": "http://secrets.example.com"}, "sink_unsuitable"),
        ({"AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://10.0.0.1"}, "sink_unsuitable"),
    ],
)
def test_an_unusable_configuration_is_reported(aws, monkeypatch, changes, expected_code) -> None:
    """An invalid or unencrypted endpoint fails before a request."""
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    assert _error_of(lambda: _manager().sink(SVC).write(Secret(FIRST))).code == expected_code


@pytest.mark.parametrize(
    ("status", "code", "expected_code"),
    [
        (400, "UnrecognizedClientException", "sink_denied"),
        (400, "ExpiredTokenException", "sink_denied"),
        (403, "SignatureDoesNotMatch", "sink_denied"),
        (400, "AccessDeniedException", "sink_denied"),
        (400, "EncryptionFailure", "sink_unsuitable"),
        (400, "InvalidRequestException", "sink_unsuitable"),
        (400, "PublicPolicyException", "sink_failed"),
        (400, FIRST, "sink_failed"),
        (403, FIRST, "sink_denied"),
    ],
)
def test_each_refusal_has_its_meaning(
    aws, scripted, answer, monkeypatch, waits, status, code, expected_code
) -> None:
    """It is reported at once, by its code only; the message of the service is not repeated."""
    script = scripted(error_answer(answer, status, code))
    monkeypatch.setenv("AWS_ENDPOINT_URL", script.url)
    error = _error_of(lambda: _manager().sink(SVC).write(Secret(FIRST)))
    assert error.code == expected_code
    assert FIRST not in f"{error.message}{error.remedy}"
    assert not waits


@pytest.mark.parametrize(
    "kind", [(500, "InternalServiceError"), (400, "ThrottlingException"), None]
)
def test_transient_failures_are_tried_four_times(
    aws, scripted, answer, monkeypatch, waits, kind
) -> None:
    """A fault, throttling or a lost answer is retried, and reported if it persists."""
    script = scripted(*[kind and error_answer(answer, *kind)] * 4, answer(200, "{}"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", script.url)
    assert _error_of(_manager().sink(SVC).read).code == "sink_unavailable"
    assert len(script.requests) == 4
    assert len(waits) == 3


def test_one_manager_serves_many_threads_and_regions(vendor) -> None:
    """Its clients are shared, one for each region, for any number of threads."""
    manager = _manager()
    places = [AwsAddress(f"many/{n}", ("eu-central-1", "us-east-1")[n % 2]) for n in range(24)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda place: manager.sink(place).write(Secret(place.secret)), places))
    for place in places:
        content = manager.sink(place).read()
        assert isinstance(content, StoredValue)
        assert content.value.reveal() == place.secret
    assert set(manager._clients) == {"eu-central-1", "us-east-1"}


@pytest.mark.parametrize("library", ["boto3", "botocore.exceptions"])
def test_without_the_library_the_extra_is_named(aws, monkeypatch, library) -> None:
    """Without the library the error says how to install the extra."""
    monkeypatch.setitem(sys.modules, library, None)
    error = _error_of(_manager().sink(SVC).check)
    assert error.code == "sink_extra_missing"
    assert error.remedy == extra_remedy("aws")
