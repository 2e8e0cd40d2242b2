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

    def sign_in(self, sandbox, user="admin", origin="x"):
        """Sign in with a password and return the tokens."""
        user = sandbox.user(user)
        query = (
            "mutation($e:String!,$p:String!,$o:String!)"
            "{getLoginTokenFromCredentials(email:$e,password:$p,origin:$o){loginToken{token}}}"
        )
        answer = self.query(query, e=user.email, p=user.password, o=origin)
        token = answer["data"]["getLoginTokenFromCredentials"]["loginToken"]["token"]
        answer = self.exchange(token, sandbox.dialect, origin)
        return answer["data"]["getAuthTokensFromLoginToken"]["tokens"]

    def exchange(self, login_token, dialect, origin="x"):
        """Exchange a login token and return the answer."""
        access = "accessOrWorkspaceAgnosticToken" if dialect.keeps_core_keys else "accessToken"
        query = (
            "mutation($t:String!,$o:String!){getAuthTokensFromLoginToken(loginToken:$t,origin:$o)"
            f"{{tokens{{{access}{{token expiresAt}} refreshToken{{token}}}}}}}}"
        )
        return self.query(query, t=login_token, o=origin)


@contextmanager
def client_of(sandbox, token=None):
    client = Client(sandbox, token)
    with client.session:
        yield client


@contextmanager
def admin_of(sandbox):
    with client_of(sandbox, sandbox.session_token()) as client:
        yield client
