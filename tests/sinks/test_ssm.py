"""Parameters of AWS Parameter Store, against moto's server, which also enforces IAM."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import botocore.endpoint
import pytest
from aws_server import REGION, SECRET_KEY, AwsBackend, client, moto, only_moto
from aws_server import error as error_answer
from compliance import FIRST, SECOND, Backend, Compliance
from model_server import token
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID

from provisioner.errors.exceptions import SinkError
from provisioner.secret import Secret
from provisioner.sinks.sink import StoredValue
from provisioner.sinks.ssm import ParameterStore, SsmAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.sinks.sink import Sink

SVC = SsmAddress("/twenty/shop/svc", REGION)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def aws(server, monkeypatch, tmp_path) -> Iterator[str]:
    """Provide an empty AWS, an environment with a credential only for it, and waits of no time."""
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))
    with only_moto(server, monkeypatch, tmp_path) as url:
        yield url


@pytest.fixture
def vendor(aws) -> Any:
    """Return the vendor's own client, as another user would have it."""
    return client(aws, "ssm")


def _sink(name: str = SVC.parameter) -> Sink:
    return ParameterStore(os.environ).sink(SsmAddress(name, REGION))


class SsmBackend(AwsBackend):
    def sink(self, place=0):
        return _sink(f"/twenty/shop/place-{place}")

    def stored(self, place=0):
        # A request would be refused while IAM is enforced.
        versions = get_backend("ssm")[DEFAULT_ACCOUNT_ID][REGION]._parameters
        found = versions.get(f"/twenty/shop/place-{place}")
        if not found:
            return None
        assert found[-1].value == f"kms:alias/aws/ssm:{found[-1].decrypt(found[-1].value)}"
        return found[-1].decrypt(found[-1].value)

    def strange_names(self):
        names = ("plain", "/A/_.-Z9", f"/{'a' * 900}", "/1" * 15)
        return tuple(_sink(name) for name in names)


class TestSsm(Compliance):
    @pytest.fixture
    def backend(self, aws, monkeypatch) -> Backend:
        return SsmBackend(aws, monkeypatch)


def _error_of(action: Callable[[], object]) -> SinkError:
    with pytest.raises(SinkError) as caught:
        action()
    assert str(SVC) in caught.value.message
    for secret in (SECRET_KEY, FIRST):
        assert secret not in f"{caught.value.message}{caught.value.remedy}"
    return caught.value


def test_tags_and_older_versions_are_kept(vendor) -> None:
    """A write creates one version, which can be undone, and keeps the tags of the parameter."""
    tags = [{"Key": "team", "Value": "shop"}]
    vendor.put_parameter(Name=SVC.parameter, Value=FIRST, Type="SecureString", Tags=tags)
    _sink().write(Secret(SECOND))
    listed = vendor.list_tags_for_resource(ResourceType="Parameter", ResourceId=SVC.parameter)
    assert listed["TagList"] == tags
    history = vendor.get_parameter_history(Name=SVC.parameter, WithDecryption=True)["Parameters"]
    assert [one["Value"] for one in history] == [FIRST, SECOND]
    assert {one["Type"] for one in history} == {"SecureString"}


@pytest.fixture
def script(aws, scripted, answer, monkeypatch) -> Callable[..., Any]:
    """Return a function that makes AWS give these answers: JSON, or the code of an error."""

    def start(*answers: dict[str, object] | str) -> Any:
        server = scripted(
            *(
                error_answer(answer, 400, one)
                if isinstance(one, str)
                else answer(200, json.dumps(one))
                for one in answers
            )
        )
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        return server

    return start


def _bodies(server: Any) -> list[dict[str, Any]]:
    return [json.loads(one.partition(b"\r\n\r\n")[2]) for one in server.requests]


SETTINGS = {
    "Description": "by hand",
    "KeyId": "alias/shop",
    "AllowedPattern": "^ey",
    "Tier": "Advanced",
    "DataType": "text",
}
DESCRIBED = {"Parameters": [{"Name": SVC.parameter, "Type": "SecureString"} | SETTINGS]}
NOT_FOUND: dict[str, object] = {"Parameters": []}


def test_the_settings_are_part_of_a_new_version(script) -> None:
    """AWS would use the default KMS key and tier, and no description, for a new version."""
    server = script(NOT_FOUND | {"NextToken": "next"}, DESCRIBED, {"Version": 2})
    _sink().write(Secret(FIRST))
    named = {"Name": SVC.parameter, "Type": "SecureString", "Value": FIRST, "Overwrite": True}
    assert _bodies(server)[2] == named | SETTINGS


def test_a_parameter_that_does_not_encrypt_is_refused(vendor) -> None:
    """A token is never written in clear, and the parameter keeps its value."""
    vendor.put_parameter(Name=SVC.parameter, Value="public", Type="String")
    for step in (_sink().check, lambda: _sink().write(Secret(FIRST))):
        error = _error_of(step)
        assert (error.code, "type String" in error.message) == ("sink_unsuitable", True)
    assert vendor.get_parameter(Name=SVC.parameter)["Parameter"]["Value"] == "public"


def test_a_parameter_created_by_another_run_is_written(script) -> None:
    """If another run creates the parameter at the same time, the token becomes a version of it."""
    server = script(NOT_FOUND, "ParameterAlreadyExists", DESCRIBED, {"Version": 2})
    _sink().write(Secret(FIRST))
    bodies = _bodies(server)
    assert [one.get("Overwrite") for one in bodies] == [None, False, None, True]
    assert {one["Type"] for one in bodies if "Value" in one} == {"SecureString"}
    assert bodies[3]["KeyId"] == "alias/shop"


def test_a_removal_deletes_all_versions(vendor) -> None:
    """No version keeps a removed token, nor one of an older key."""
    _sink().write(token("older", None))
    _sink().write(Secret(FIRST))
    assert _sink().remove(Secret(FIRST))
    with pytest.raises(vendor.exceptions.ParameterNotFound):
        vendor.get_parameter_history(Name=SVC.parameter)


def test_a_value_of_somebody_else_is_never_deleted(vendor) -> None:
    """A deletion cannot be undone, so a person decides if any older version is no token."""
    vendor.put_parameter(Name=SVC.parameter, Value="by hand", Type="SecureString")
    _sink().write(Secret(FIRST))
    error = _error_of(lambda: _sink().remove(Secret(FIRST)))
    assert (error.code, "by hand" in error.remedy) == ("not_cleaned", True)
    history = vendor.get_parameter_history(Name=SVC.parameter, WithDecryption=True)["Parameters"]
    assert [one["Value"] for one in history] == ["by hand", FIRST]


def test_each_page_of_the_history_is_read(script) -> None:
    """A page has at most 50 of the versions, of which AWS keeps 100."""
    pages = [
        {"Parameters": [{"Version": 1, "Value": FIRST}], "NextToken": "next"},
        {"Parameters": [{"Version": 2, "Value": "by hand"}], "NextToken": "more"},
        {"Parameters": [{"Version": 3, "Value": FIRST}]},
    ]
    server = script(*pages)
    assert _error_of(lambda: _sink().remove(Secret(FIRST))).code == "not_cleaned"
    assert [one.get("NextToken") for one in _bodies(server)] == [None, "next", "more"]


def test_a_token_written_before_the_deletion_stays(script) -> None:
    """The newest version counts, even if AWS does not list it last."""
    versions = [{"Version": 2, "Value": SECOND}, {"Version": 1, "Value": FIRST}]
    server = script({"Parameters": versions})
    assert not _sink().remove(Secret(FIRST))
    assert len(server.requests) == 1


def test_a_removal_needs_further_permissions(aws, monkeypatch) -> None:
    """A removal that is not allowed names the permissions."""
    with SsmBackend(aws, monkeypatch).denied():
        error = _error_of(lambda: _sink().remove(Secret(FIRST)))
    assert error.code == "sink_denied"
    assert "GetParameterHistory and DeleteParameter" in error.remedy


def test_a_read_is_one_request(script) -> None:
    """A plan needs only GetParameter, and asks for the decrypted value."""
    server = script({"Parameter": {"Value": FIRST, "Type": "SecureString"}})
    assert _sink().read() == StoredValue(Secret(FIRST))
    assert _bodies(server) == [{"Name": SVC.parameter, "WithDecryption": True}]


@pytest.mark.parametrize(
    ("code", "expected_code", "remedy"),
    [
        ("AccessDeniedException", "sink_denied", "ssm:GetParameter and PutParameter"),
        ("InvalidKeyId", "sink_unsuitable", "another one for the parameter"),
        ("ValidationException", "sink_unsuitable", "allowed pattern"),
        ("ParameterMaxVersionLimitExceeded", "sink_unsuitable", "label"),
        ("ParameterLimitExceeded", "sink_unsuitable", "advanced tier"),
        ("TooManyUpdates", "sink_unavailable", "again"),
        (FIRST, "sink_failed", "AWS Systems Manager API reference"),
    ],
)
def test_each_refusal_has_its_meaning(script, code, expected_code, remedy) -> None:
    """It is reported by its code only, with what to do; the message of AWS is not repeated."""
    script(DESCRIBED, code)
    error = _error_of(lambda: _sink().write(Secret(FIRST)))
    assert error.code == expected_code
    assert remedy in error.remedy


def test_one_parameter_is_written_at_a_time(aws) -> None:
    """An account may write few parameters a second, so writes do not compete with each other."""
    store = ParameterStore(os.environ)
    writing: list[str] = []
    most: list[int] = []

    def begin(**_: object) -> None:
        writing.append("")
        most.append(len(writing))

    events = store.client(SVC).meta.events
    events.register("before-send.ssm.PutParameter", begin)
    events.register("after-call.ssm.PutParameter", lambda **_: writing.pop() and None)
    with ThreadPoolExecutor(4) as threads:
        places = [SsmAddress(f"/many/{n}", REGION) for n in range(4)]
        list(threads.map(lambda place: store.sink(place).write(Secret(FIRST)), places))
    assert most == [1, 1, 1, 1]
