"""GitLab CI/CD variables, against a server that follows GitLab's rules."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from compliance import FIRST, SECOND, Backend, Compliance
from gitlab_server import GitlabServer
from throttling import Clock, Limit, assert_all_delivered
from tls_server import HttpResponse

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.secret import Secret
from provisioner.sinks.gitlab import Gitlab, GitlabAddress
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.sinks.sink import Sink

PROJECT = ("projects", "acme/billing")
GROUP = ("groups", "acme/all-of-it")


class GitlabBackend(Backend):
    compares = False

    def __init__(self, server: GitlabServer) -> None:
        self.server = server
        self.credential = server.token
        self.environment = {
            "GITLAB_TOKEN": server.token,
            "CI_API_V4_URL": f"{server.url}/api/v4",
            "REQUESTS_CA_BUNDLE": server.ca_file,
        }

    def open_sink(self, address: GitlabAddress) -> Sink:
        return Gitlab(self.environment, lambda _: None).sink(address)

    def sink(self, place: int = 0) -> Sink:
        return self.open_sink(GitlabAddress("acme/billing", f"TWENTY_KEY_{place}"))

    def variable(self, key: str, where: tuple[str, str] = PROJECT, scope: str = "*") -> Any:
        key_and_scope = (key, scope)
        variables = self.server.variables[where]
        return next(
            (x for x in variables if (x["key"], x["environment_scope"]) == key_and_scope), None
        )

    def stored(self, place: int = 0) -> str | None:
        found = self.variable(f"TWENTY_KEY_{place}")
        return found and found["value"]

    def strange_names(self) -> tuple[Sink, ...]:
        self.server.variables["projects", "acme/é 1/../😀"] = []
        return (
            self.open_sink(GitlabAddress("acme/é 1/../😀", "_9")),
            self.open_sink(GitlabAddress("acme/all-of-it", "K" * 255)),
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
        self.environment["GITLAB_TOKEN"] = self.credential = "glpat-wrongCanary"
        yield


@pytest.fixture
def backend() -> Iterator[GitlabBackend]:
    with GitlabServer() as server:
        yield GitlabBackend(server)


class TestGitlab(Compliance):
    """The promises of every sink."""


def add(
    backend: GitlabBackend, where: tuple[str, str] = PROJECT, **attributes: Any
) -> dict[str, Any]:
    variable = {
        "key": "KEY",
        "value": "theirs",
        "variable_type": "env_var",
        "protected": False,
        "masked": False,
        "hidden": False,
        "raw": False,
        "environment_scope": "*",
        "description": "by hand",
    } | attributes
    backend.server.variables[where].append(variable)
    return variable


def code_of(sink: Sink, step: str = "check", token: str = FIRST) -> str:
    with pytest.raises(SinkError) as caught:
        sink.write(Secret(token)) if step == "write" else getattr(sink, step)()
    assert token not in f"{caught.value.message}{caught.value.remedy}"
    return caught.value.code


def test_a_variable_is_masked_protected_and_raw(backend: GitlabBackend) -> None:
    """A new variable is, and an existing one becomes so and keeps its other attributes."""
    add(backend)
    backend.sink().write(Secret(FIRST))
    backend.open_sink(GitlabAddress("acme/billing", "KEY")).write(Secret(SECOND))
    new, old = backend.variable("TWENTY_KEY_0"), backend.variable("KEY")
    for variable in (new, old):
        assert [variable[name] for name in ("masked", "protected", "raw")] == [True, True, True]
    assert (old["value"], old["description"]) == (SECOND, "by hand")


@pytest.mark.parametrize("exists", [False, True])
def test_an_unmaskable_token_is_not_written(backend: GitlabBackend, exists: bool) -> None:
    """GitLab's refusal is explained, and no unmasked value is stored."""
    if exists:
        backend.sink().write(Secret(FIRST))
    assert code_of(backend.sink(), "write", "short") == "sink_unsuitable"
    assert backend.stored() == (FIRST if exists else None)


@pytest.mark.parametrize("where", [PROJECT, GROUP])
def test_variables_of_one_environment_are_unchanged(
    backend: GitlabBackend, where: tuple[str, str]
) -> None:
    """Of several variables with one key, only the one for all environments is used."""
    add(backend, where, environment_scope="production")
    sink = backend.open_sink(GitlabAddress(where[1], "KEY"))
    sink.check()
    assert sink.read() == NoToken()
    for token in (FIRST, SECOND):
        sink.write(Secret(token))
        assert backend.variable("KEY", where)["value"] == token
    assert backend.variable("KEY", where, "production")["value"] == "theirs"


def test_a_server_without_the_filter_is_refused(backend: GitlabBackend) -> None:
    """If it ignores the filter, the value of another environment is not overwritten."""
    backend.server.filters_groups = False
    add(backend, GROUP, environment_scope="production")
    sink = backend.open_sink(GitlabAddress(GROUP[1], "KEY"))
    assert code_of(sink) == "sink_unsuitable"
    assert code_of(sink, "write") == "sink_unsuitable"
    assert backend.variable("KEY", GROUP, "production")["value"] == "theirs"


def test_a_path_may_be_a_group(backend: GitlabBackend) -> None:
    """The group is found, and looked up once in a run."""
    gitlab = Gitlab(backend.environment, lambda _: None)
    for key in ("A", "B"):
        sink = gitlab.sink(GitlabAddress("acme/all-of-it", key))
        sink.check()
        sink.write(Secret(FIRST))
        assert backend.variable(key, GROUP)["value"] == FIRST
    lookups = [one.names[2] for one in backend.server.requests if len(one.names) == 4]
    assert lookups == ["projects", "groups"]


def test_a_missing_path_is_reported(backend: GitlabBackend) -> None:
    """The check finds that it is neither a project nor a group."""
    assert code_of(backend.open_sink(GitlabAddress("acme/nowhere", "KEY"))) == "sink_missing"


def test_a_hidden_variable_is_write_only(backend: GitlabBackend) -> None:
    """GitLab does not return its value, so it is not reported as empty either."""
    variable = add(backend, hidden=True, masked=True, value=FIRST)
    sink = backend.open_sink(GitlabAddress("acme/billing", "KEY"))
    sink.check()
    assert sink.read() == Unreadable()
    sink.write(Secret(SECOND))
    assert variable["value"] == SECOND


def test_a_create_with_a_lost_answer_creates_one_variable(backend: GitlabBackend) -> None:
    """The repeat finds that the key exists, and updates its value."""
    sink = backend.sink()
    sink.check()
    backend.server.outcomes = [HttpResponse(404), "lose"]
    sink.write(Secret(FIRST))
    assert [one["value"] for one in backend.server.variables[PROJECT]] == [FIRST]
    assert [one.method for one in backend.server.requests][-3:] == ["POST", "POST", "PUT"]


def test_another_refusal_is_reported(backend: GitlabBackend) -> None:
    """The message has the unexpected status, and none of GitLab's text."""
    sink = backend.sink()
    sink.check()
    backend.server.outcomes = [
        HttpResponse(404),
        HttpResponse(400, {"message": {"base": [f"no more of {FIRST}"]}}),
    ]
    assert code_of(sink, "write") == "sink_failed"


@pytest.mark.parametrize("before", [[], [HttpResponse(200, {})]])
@pytest.mark.parametrize("step", ["check", "read", "write"])
def test_an_unexpected_status_is_reported(
    backend: GitlabBackend, step: str, before: list[HttpResponse]
) -> None:
    """The message has the status, for the project and for the variable."""
    backend.server.outcomes = [*before, HttpResponse(418, {"message": FIRST})]
    assert code_of(backend.sink(), step) == "sink_failed"


def test_a_missing_token_is_reported(backend: GitlabBackend) -> None:
    """Without a token no request is sent, and the error says which variable to set."""
    del backend.environment["GITLAB_TOKEN"]
    with pytest.raises(SinkError) as caught:
        backend.sink().check()
    assert (caught.value.code, "GITLAB_TOKEN" in caught.value.remedy) == ("sink_denied", True)
    assert backend.server.requests == []


def test_any_value_is_read_unchanged(backend: GitlabBackend) -> None:
    """A value that someone wrote by hand is returned, whether or not it is a token."""
    add(backend, value="theirs")
    content = backend.open_sink(GitlabAddress("acme/billing", "KEY")).read()
    assert isinstance(content, StoredValue)
    assert content.value.reveal() == "theirs"


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({}, "gitlab.com"),
        ({"GITLAB_HOST": "git.acme.example"}, "git.acme.example"),
        ({"GITLAB_URI": "https://git.acme.example/"}, "git.acme.example"),
        ({"GL_HOST": "git.acme.example", "GITLAB_HOST": ""}, "git.acme.example"),
        ({"GITLAB_API_URL": "https://api.acme.example", "GL_HOST": "no"}, "api.acme.example"),
        ({"CI_API_V4_URL": "https://ci.acme.example/api/v4"}, "ci.acme.example"),
        (
            {"CI_API_V4_URL": "https://no.example", "GL_HOST": "git.acme.example"},
            "git.acme.example",
        ),
    ],
)
def test_the_server_is_the_one_that_glab_would_use(variables: dict[str, str], host: str) -> None:
    """The variables of glab, or of a job, name a self-managed server."""
    gitlab = Gitlab({"GITLAB_TOKEN": "x"} | variables, lambda _: None)
    with pytest.raises(SinkError, match=f": {host} cannot be reached"):
        gitlab.sink(GitlabAddress("acme/billing", "KEY")).check()


@pytest.mark.parametrize("path", ["acme/billing", "acme/all-of-it"])
def test_an_archived_project_is_refused_by_the_check(backend: GitlabBackend, path: str) -> None:
    """The check fails before a token is minted; the content can still be read."""
    backend.server.archived = {path}
    sink = backend.open_sink(GitlabAddress(path, "KEY"))
    with pytest.raises(SinkError) as caught:
        sink.check()
    assert caught.value.code == "sink_unsuitable"
    assert "archived" in caught.value.message
    assert "Unarchive the project" in caught.value.remedy
    assert isinstance(sink.read(), NoToken)


@pytest.mark.parametrize(("headers", "tries"), [({"Retry-After": "60"}, 1), ({}, 7)])
def test_a_rate_limit_is_one_pause_for_all_variables(
    backend: GitlabBackend, headers: dict[str, str], tries: int
) -> None:
    """A 429 of GitLab, or of a proxy that names no wait, loses no variable."""
    clock = Clock()
    limit = Limit(backend.server, clock, HttpResponse(429, b"Retry later\n", headers))
    gitlab = Gitlab(backend.environment, clock.wait)
    assert_all_delivered(
        limit, lambda place: gitlab.sink(GitlabAddress("acme/billing", f"KEY_{place}")), tries
    )
    variables = backend.server.variables[PROJECT]
    assert len({one["key"] for one in variables}) == len(variables) == 24


def test_an_endless_rate_limit_changes_nothing(backend: GitlabBackend) -> None:
    """The error does not blame the credential, and the stored token stays."""
    backend.sink().write(Secret(FIRST))
    backend.server.outcomes = [HttpResponse(429, b"Retry later\n")] * 40
    with pytest.raises(SinkError) as caught:
        backend.sink().write(Secret(SECOND))
    assert caught.value.code == "sink_unavailable"
    assert "too many requests" in caught.value.message
    assert backend.stored() == FIRST


def test_only_the_variable_for_all_environments_is_removed(backend: GitlabBackend) -> None:
    """A variable with the same key for one environment is another place."""
    add(backend, value=FIRST, environment_scope="production")
    add(backend, value=FIRST)
    sink = backend.open_sink(GitlabAddress("acme/billing", "KEY"))
    assert sink.remove(Secret(FIRST))
    [left] = backend.server.variables[PROJECT]
    assert left["environment_scope"] == "production"


def test_a_hidden_variable_is_not_removed(backend: GitlabBackend) -> None:
    """A value that cannot be compared stays."""
    add(backend, value=FIRST, hidden=True)
    assert not backend.open_sink(GitlabAddress("acme/billing", "KEY")).remove(Secret(FIRST))
    assert len(backend.server.variables[PROJECT]) == 1


@pytest.mark.parametrize("outcome", ["lose", HttpResponse(502, {})])
def test_a_removal_whose_answer_was_lost_is_complete(backend: GitlabBackend, outcome) -> None:
    """The repeat finds no variable, which is what was wanted."""
    add(backend, value=FIRST)
    sink = backend.open_sink(GitlabAddress("acme/billing", "KEY"))
    sink.read()
    backend.server.outcomes = [None, outcome]
    assert sink.remove(Secret(FIRST))
    assert backend.server.variables[PROJECT] == []
