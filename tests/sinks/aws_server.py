"""An AWS for tests: moto's server, which also enforces IAM, and a credential only for it."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
import requests
from botocore.loaders import create_loader
from compliance import FIRST, Backend
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

REGION = "eu-central-1"
SECRET_KEY = "aws-secret-key-canary-7c31"
_LOADER = create_loader()
"""The descriptions of AWS's services, read once: a client takes a tenth of the time then."""


@contextmanager
def moto() -> Iterator[str]:
    """Run moto's server, and yield its URL."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@contextmanager
def only_moto(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Empty a server, and let Boto3 find a credential only for it."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": url,
        "BOTO_CONFIG": str(tmp_path / "no-boto"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(botocore.session, "create_loader", lambda *_: _LOADER)
    requests.post(f"{url}/moto-api/reset", timeout=30)
    yield url
    requests.post(f"{url}/moto-api/reset-auth", data="inf", timeout=30)


def client(url: str, service: str) -> Any:
    """Return the vendor's own client, as another user would have it."""
    return boto3.session.Session().client(service, region_name=REGION, endpoint_url=url)


def error(answer: Callable[..., bytes], status: int, code: str) -> bytes:
    """Return an error of AWS, whose message repeats secrets."""
    body = json.dumps({"__type": code, "message": f"{FIRST} {SECRET_KEY}"})
    return answer(status, body, Content_Type="application/x-amz-json-1.1")


class AwsBackend(Backend):
    """A service of moto's server."""

    credential = SECRET_KEY
    compares = False

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        self.monkeypatch = monkeypatch

    @contextmanager
    def denied(self):
        iam = client(self.url, "iam")
        iam.create_user(UserName="nobody")
        key = iam.create_access_key(UserName="nobody")["AccessKey"]
        with self._as(key["AccessKeyId"], key["SecretAccessKey"]):
            yield

    @contextmanager
    def unreachable(self):
        with socket.socket() as bound, self.monkeypatch.context() as patch:
            bound.bind(("127.0.0.1", 0))
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")
            yield

    @contextmanager
    def wrong_credential(self):
        with self._as("AKIAUNKNOWN", SECRET_KEY):
            yield

    @contextmanager
    def _as(self, key: str, secret: str) -> Iterator[None]:
        with self.monkeypatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", key)
            patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            requests.post(f"{self.url}/moto-api/reset-auth", data="0", timeout=30)
            yield
        requests.post(f"{self.url}/moto-api/reset-auth", data="inf", timeout=30)
