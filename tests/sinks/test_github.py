"""GitHub Actions secrets, against a server that decrypts the sealed boxes."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from compliance import FIRST, SECOND, Backend, Compliance
from github_server import GithubServer
from tls_server import HttpRequest, HttpResponse

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.github import Github, GithubAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.sinks.sink import Sink

SECONDARY = {
    "message": "You have exceeded a secondary rate limit. Please wait a few minutes before you "
    "try again."
}
REPOSITORY = ("repos", "acme", "billing", "actions")
ORGANISATION = ("orgs", "acme", "actions")


class GithubBackend(Backend):
    readable = False

    def __init__(self, server: GithubServer) -> None:
        self.server = server
        self.credential = server.token
        self.waits: list[float] = []
        self.environment = {
            "GH_TOKEN": server.token,
            "GITHUB_TOKEN": "another",
            "GITHUB_API_URL": server.url,
            "REQUESTS_CA_BUNDLE": server.ca_file,
        }

    def open_sink(self, address: GithubAddress) -> Sink:
        return Github(self.environment, self.waits.append).sink(address)

    def sink(self, place: int = 0) -> Sink:
        return self.open_sink(GithubAddress("acme", f"TWENTY_KEY_{place}", "billing"))

    def stored(self, place: int = 0) -> str | None:
        secret = self.server.containers[REPOSITORY].get(f"TWENTY_KEY_{place}")
        return secret and secret.value

    def strange_names(self) -> tuple[Sink, ...]:
        return (
            self.open_sink(GithubAddress("acme", "_twenty9", "billing", "eu/west é 1")),
            self.open_sink(GithubAddress("acme", "T" * 200, "billing", "production")),
        )

    @contextmanager
    def denied(self) -> Iterator[None]:
        self.server.allowed = False
        yield
        self.server.allowed = True

    def unreachable(self):
        return self.server.silent()

    @contextmanager
    def wrong_credential(self) -> Iterator[None]:
        self.environment["GH_TOKEN"] = self.credential = "ghp_wrongCanary"
        yield


@pytest.fixture
def server() -> Iterator[GithubServer]:
    with GithubServer() as server:
        yield server


@pytest.fixture
def backend(server: GithubServer) -> GithubBackend:
    return GithubBackend(server)


class TestGithub(Compliance):
    """The promises of every sink."""


def code_of(sink: Sink, step: str = "check") -> str:
    with pytest.raises(SinkError) as caught:
        sink.write(Secret(FIRST)) if step == "write" else getattr(sink, step)()
    return caught.value.code


def test_places_with_the_same_name_are_separate(backend: GithubBackend) -> None:
    """A repository, its environment and the organisation each have a secret with this name."""
    addresses = [
        GithubAddress("acme", "KEY", "billing"),
        GithubAddress("acme", "KEY", "billing", "eu/west é 1"),
        GithubAddress("acme", "KEY"),
    ]
    for number, address in enumerate(addresses):
        backend.open_sink(address).check()
        backend.open_sink(address).write(Secret(f"token-{number}"))
    secrets = {
        path: secrets["KEY"].value for path, secrets in backend.server.containers.items() if secrets
    }
    assert secrets == {
        REPOSITORY: "token-0",
        ("repos", "acme", "billing", "environments", "eu/west é 1"): "token-1",
        ORGANISATION: "token-2",
    }


def test_a_new_secret_of_an_organisation_is_for_private_repositories(
    backend: GithubBackend,
) -> None:
    """This is the narrower visibility that needs no list of repositories."""
    backend.open_sink(GithubAddress("acme", "KEY")).write(Secret(FIRST))
    assert backend.server.containers[ORGANISATION]["KEY"].visibility == "private"


@pytest.mark.parametrize(
    ("visibility", "repositories"),
    [("all", []), ("private", []), ("selected", []), ("selected", list(range(1, 251)))],
)
def test_the_visibility_of_an_organisation_secret_is_kept(
    backend: GithubBackend, visibility: str, repositories: list[int]
) -> None:
    """A write changes neither the visibility nor the selected repositories."""
    backend.open_sink(GithubAddress("acme", "KEY")).write(Secret(FIRST))
    secret = backend.server.containers[ORGANISATION]["KEY"]
    secret.visibility, secret.repositories = visibility, repositories
    backend.open_sink(GithubAddress("acme", "KEY")).write(Secret(SECOND))
    secret = backend.server.containers[ORGANISATION]["KEY"]
    assert (secret.value, secret.visibility, secret.repositories) == (
        SECOND,
        visibility,
        repositories,
    )


@pytest.mark.parametrize(
    "page",
    [
        HttpResponse(404),
        HttpResponse(200, {"total_count": 2, "repositories": []}),
        HttpResponse(200, []),
    ],
)
def test_an_incomplete_list_of_repositories_is_not_written(
    backend: GithubBackend, page: HttpResponse
) -> None:
    """If the list of selected repositories is incomplete, the write is refused."""
    sink = backend.open_sink(GithubAddress("acme", "KEY"))
    sink.write(Secret(FIRST))
    secret = backend.server.containers[ORGANISATION]["KEY"]
    secret.visibility, secret.repositories = "selected", [1, 2]
    backend.server.outcomes = [HttpResponse(200, {"visibility": "selected"}), page]
    assert code_of(sink, "write") == "sink_denied"
    assert backend.server.containers[ORGANISATION]["KEY"] is secret


@pytest.mark.parametrize("step", ["check", "read", "write"])
def test_an_unexpected_status_is_reported(backend: GithubBackend, step: str) -> None:
    """The message has the status."""
    backend.server.outcomes = [HttpResponse(418, {"message": FIRST})]
    assert code_of(backend.sink(), step) == "sink_failed"


def test_a_changed_public_key_is_read_again(backend: GithubBackend) -> None:
    """GitHub's refusal of an old key leads to one more lookup, and the token is delivered."""
    sink = backend.sink()
    sink.check()
    backend.server.change_key()
    sink.write(Secret(FIRST))
    assert backend.stored() == FIRST


def test_a_persistent_refusal_is_reported(backend: GithubBackend) -> None:
    """If a new key does not help, the error has the status."""
    sink = backend.open_sink(GithubAddress("acme", "TWENTY_KEY_0", "billing", receipt=""))
    sink.check()
    backend.server.outcomes = [
        HttpResponse(422),
        HttpResponse(200, {"key_id": "1", "key": "C" * 43 + "="}),
        HttpResponse(422),
    ]
    assert code_of(sink, "write") == "sink_failed"
    assert (backend.server.outcomes, backend.stored()) == ([], None)


@pytest.mark.parametrize("key", ["A" * 43 + "=", "short", "no base64"])
def test_an_invalid_public_key_is_reported(backend: GithubBackend, key: str) -> None:
    """The check finds a key that cannot encrypt a token."""
    backend.server.outcomes = [HttpResponse(200, {"key_id": "1", "key": key})]
    assert code_of(backend.sink()) == "sink_unavailable"


def test_the_public_key_is_read_once(backend: GithubBackend) -> None:
    """Many secrets of one repository need one lookup of its key in a run."""
    github = Github(backend.environment, backend.waits.append)
    for number in range(5):
        sink = github.sink(GithubAddress("acme", f"KEY_{number}", "billing"))
        sink.check()
        sink.write(Secret(FIRST))
    lookups = [one for one in backend.server.requests if one.target.endswith("/public-key")]
    assert len(lookups) == 1


@pytest.mark.parametrize(
    "address",
    [
        GithubAddress("acme", "KEY", "nowhere"),
        GithubAddress("nobody", "KEY"),
        GithubAddress("acme", "KEY", "billing", "nowhere"),
    ],
)
def test_a_missing_place_is_reported(backend: GithubBackend, address: GithubAddress) -> None:
    """The check finds a missing repository, environment or organisation."""
    assert code_of(backend.open_sink(address)) == "sink_missing"
    assert code_of(backend.open_sink(address), "write") == "sink_missing"


def test_a_missing_token_is_reported(backend: GithubBackend) -> None:
    """Without a token no request is sent, and the error says which variable to set."""
    backend.environment.update(GH_TOKEN="", GITHUB_TOKEN=" ")
    with pytest.raises(SinkError) as caught:
        backend.sink().check()
    assert (caught.value.code, "GH_TOKEN" in caught.value.remedy) == ("sink_denied", True)
    assert backend.server.requests == []


def test_a_missing_extra_is_reported(
    backend: GithubBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without PyNaCl the error says what to install, before a key is created."""
    monkeypatch.setitem(sys.modules, "nacl.public", None)
    with pytest.raises(SinkError) as caught:
        backend.sink().check()
    assert caught.value.code == "sink_extra_missing"
    assert caught.value.remedy == extra_remedy("github")


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({}, "api.github.com"),
        ({"GH_HOST": "github.com", "GITHUB_API_URL": "https://elsewhere"}, "api.github.com"),
        ({"GH_HOST": "acme.ghe.com"}, "api.acme.ghe.com"),
        ({"GH_HOST": "git.acme.example", "GH_ENTERPRISE_TOKEN": "x"}, "git.acme.example"),
        ({"GITHUB_API_URL": "https://git.acme.example/api/v3"}, "git.acme.example"),
    ],
)
def test_the_server_is_the_one_that_gh_would_use(variables: dict[str, str], host: str) -> None:
    """The variables of gh, or of a runner, name an Enterprise Server."""
    github = Github({"GH_TOKEN": "x"} | variables, lambda _: None)
    with pytest.raises(SinkError, match=f": {host} cannot be reached"):
        github.sink(GithubAddress("acme", "KEY", "billing")).check()


def test_an_enterprise_server_gets_no_token_of_github_com() -> None:
    """GH_TOKEN is never sent to the Enterprise Server in GH_HOST."""
    github = Github({"GH_TOKEN": "x", "GH_HOST": "git.acme.example"}, lambda _: None)
    with pytest.raises(SinkError) as caught:
        github.sink(GithubAddress("acme", "KEY", "billing")).check()
    assert "GH_ENTERPRISE_TOKEN" in caught.value.remedy


def test_a_rate_limit_is_waited_for(backend: GithubBackend) -> None:
    """A 403 for throttling is not a denial: it is waited for as long as GitHub asks."""
    backend.server.outcomes = [
        HttpResponse(403, {"message": "secondary rate limit"}, {"Retry-After": "7"}),
        HttpResponse(429, {"message": "secondary rate limit"}, {"Retry-After": "9"}),
    ]
    backend.sink().check()
    assert [int(wait) for wait in backend.waits] == [7, 9]


def test_the_update_time_uses_the_local_clock(backend: GithubBackend) -> None:
    """GitHub's `Date` corrects the time of its clock; a time that cannot be parsed is ignored."""
    backend.sink().write(Secret(FIRST))
    secret = backend.server.containers[REPOSITORY]["TWENTY_KEY_0"]
    content = backend.sink().read()
    assert isinstance(content, Unreadable)
    assert content.updated_at is not None
    # Both the time and the `Date` that corrects it are in whole seconds.
    assert abs(content.updated_at - secret.updated_at) < timedelta(seconds=2)
    assert content.only_writes
    assert backend.sink(1).read() == NoToken()
    backend.server.outcomes = [HttpResponse(200, {"updated_at": "yesterday"})]
    assert backend.sink().read() == Unreadable(None)
    ahead = datetime.now(UTC) + timedelta(seconds=50)
    body = {"updated_at": ahead.isoformat()}
    backend.server.outcomes = [
        HttpResponse(200, body, {"Date": format_datetime(ahead, usegmt=True)})
    ]
    content = backend.sink().read()
    assert isinstance(content, Unreadable)
    assert content.updated_at is not None
    assert abs(content.updated_at - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z", "9" * 5000],
)
def test_a_time_that_cannot_be_one_is_ignored(backend: GithubBackend, text: str) -> None:
    """It is out of range in UTC, or by the clock of this machine."""
    backend.sink().write(Secret(FIRST))
    backend.server.clock_skew = timedelta(minutes=1)
    backend.server.outcomes = [HttpResponse(200, {"updated_at": text})]
    assert backend.sink().read() == Unreadable(None)


def test_the_update_time_of_an_organisation_secret_proves_no_write(backend: GithubBackend) -> None:
    """It also changes when other repositories may see the secret."""
    address = GithubAddress("acme", "TWENTY_KEY")
    sink = backend.open_sink(address)
    sink.write(Secret(FIRST))
    content = sink.read()
    assert isinstance(content, Unreadable)
    assert not content.only_writes


@pytest.mark.parametrize("environment", [None, "production"])
def test_an_archived_repository_is_refused_by_the_check(
    backend: GithubBackend, environment: str | None
) -> None:
    """Many secrets of it need one lookup, and none is written."""
    backend.server.archived = {("acme", "billing")}
    github = Github(backend.environment, backend.waits.append)
    for number in range(20):
        sink = github.sink(GithubAddress("acme", f"KEY_{number}", "billing", environment))
        with pytest.raises(SinkError) as caught:
            sink.check()
        assert caught.value.code == "sink_unsuitable"
        assert "archived" in caught.value.message
        assert "Unarchive the repository" in caught.value.remedy
    lookups = [one for one in backend.server.requests if one.names == ("repos", "acme", "billing")]
    assert len(lookups) == 1
    backend.open_sink(GithubAddress("acme", "KEY")).check()


@pytest.mark.parametrize(
    "answer",
    [
        HttpResponse(403, {"archived": True}),
        HttpResponse(404, {"archived": True}),
        HttpResponse(500),
        HttpResponse(301),
        HttpResponse(200, {"archived": "true"}),
        HttpResponse(200, {}),
    ],
)
def test_a_repository_without_read_access_is_not_refused(
    backend: GithubBackend, answer: HttpResponse
) -> None:
    """Only a clear answer that it is archived counts, so the token needs no access to it."""
    backend.server.repository = answer
    backend.sink().check()
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST


class SecondaryLimitServer(GithubServer):
    """A GitHub with a secondary limit of 20 writes a minute, by a clock that waits advance."""

    def __init__(self, **headers: str) -> None:
        super().__init__()
        self.now = self.window_start = 0.0
        self.writes = self.attempts = 0
        self.headers = headers
        self._clock_lock = threading.Lock()

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        with self._clock_lock:
            self.now = max(self.now, until)

    def answer(self, request: HttpRequest) -> HttpResponse:
        if request.method == "PUT":
            self.attempts += 1
            if self.now >= self.window_start + 60:
                self.window_start, self.writes = self.now, 0
            if self.writes == 20:
                return HttpResponse(403, SECONDARY, self.headers)
            self.writes += 1
        return super().answer(request)


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "60"}])
def test_a_secondary_limit_delays_writes_and_loses_none(headers: dict[str, str]) -> None:
    """60 secrets, 8 threads and 20 writes a minute: all are delivered with at most 63 requests."""
    with SecondaryLimitServer(**headers) as server:
        github = Github(GithubBackend(server).environment, server.wait)
        addresses = [GithubAddress("acme", f"KEY_{number}", "billing") for number in range(60)]
        with ThreadPoolExecutor(8) as threads:
            for address in addresses:
                threads.submit(github.sink(address).write, Secret(f"token of {address.secret}"))
        secrets = server.containers[REPOSITORY]
        assert {name: secret.value for name, secret in secrets.items()} == {
            address.secret: f"token of {address.secret}" for address in addresses
        }
        assert server.attempts <= 63
        assert server.now <= 180
