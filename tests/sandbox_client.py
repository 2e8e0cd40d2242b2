"""A minimal HTTP client for tests of the embedded Twenty."""

from __future__ import annotations

from contextlib import contextmanager

import requests


class Client:
    """A minimal client for the tests."""

    def __init__(self, sandbox, token=None):
        self.url = sandbox.url
        self.session = requests.Session()
        self.session.trust_env = False
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, method, path, body=None, **options):
        return self.session.request(method, self.url + path, json=body, timeout=30, **options)

    def query(self, query, path="/metadata", **variables):
        answer = self("POST", path, {"query": query, "variables": variables})
        return answer.json()


@contextmanager
def client_of(sandbox, token=None):
    client = Client(sandbox, token)
    with client.session:
        yield client


@contextmanager
def admin_of(sandbox):
    with client_of(sandbox, sandbox.session_token()) as client:
        yield client
