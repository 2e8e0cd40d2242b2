"""Receipts of GitHub secrets: whatever ends a write, none names a token that the secret lacks."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from builders import END, observed_key
from github_server import GithubServer, StoredSecret, StoredVariable
from held_writes import SteppedGithub, every_order
from model_server import token
from tls_server import HttpResponse

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import ApiKeyToken, NoToken, Receipt, Unreadable
from provisioner.plan.delivery import needs_token
from provisioner.sinks.github import Github, GithubAddress, GithubSecret
from provisioner.sinks.probe import content_of
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from held_writes import Step
    from tls_server import HttpRequest

    from provisioner.secret import Secret

OLD, NEW = token("old", END), token("new", END)
PLACES = {
    GithubAddress("acme", "KEY", "billing"): ("repos", "acme", "billing", "actions"),
    GithubAddress("acme", "KEY", "billing", "production"): (
        *("repos", "acme", "billing", "environments", "production"),
    ),
    GithubAddress("acme", "KEY"): ("orgs", "acme", "actions"),
}
REPOSITORY, ENVIRONMENT, ORGANISATION = PLACES
everywhere = pytest.mark.parametrize("address", PLACES, ids=str)
in_both = pytest.mark.parametrize("address", [REPOSITORY, ORGANISATION], ids=str)


class KilledError(BaseException):
    """The end of a process, at its next wait."""


class Killing(GithubServer):
    """A GitHub that answers a number of requests, and then no more.

    Attributes:
        remaining: the number of requests that it still answers; None for all.
        before: called before each request is handled.
    """

    def __init__(self) -> None:
        super().__init__(plain=True)
        self.reset()

    def reset(self) -> None:
        self.remaining: int | None = None
        self.before: Callable[[HttpRequest], None] = lambda _: None
        self.clear()

    def respond(self, request: HttpRequest) -> HttpResponse | None:
        self.before(request)
        if self.remaining is not None:
            self.remaining -= 1
            if self.remaining < 0:
                return None
        return super().respond(request)

    def sink(self, address: GithubAddress) -> GithubSecret:
        """Open a secret as a process that ends at the first request without an answer."""

        def end(_: float) -> None:
            raise KilledError

        environ = {"GH_TOKEN": self.token, "GITHUB_API_URL": self.url}
        return Github(environ, end).sink(address)

    def write_until(self, address: GithubAddress, token: Secret, requests: int) -> bool:
        """Return whether a write ends before its process does, after a number of requests."""
        self.remaining = requests
        try:
            self.sink(address).write(token)
        except KilledError:
            return False
        finally:
            self.remaining = None
        return True

    def stored(self, address: GithubAddress) -> str | None:
        """Return the name of the token in a secret."""
        secret = self.containers[PLACES[address]].get(address.secret)
        return secret and {OLD.reveal(): "old", NEW.reveal(): "new"}[secret.value]

    def variable(self, address: GithubAddress) -> StoredVariable:
        return self.variables[PLACES[address]]["KEY_RECEIPT"]


@pytest.fixture(scope="module")
def running() -> Iterator[Killing]:
    with Killing() as server:
        yield server


@pytest.fixture
def github(running: Killing) -> Killing:
    running.reset()
    return running


def read(github: Killing, address: GithubAddress) -> Unreadable:
    content = github.sink(address).read()
    assert isinstance(content, Unreadable)
    return content


def proven(github: Killing, address: GithubAddress) -> str | None:
    """Return the key of the token that a receipt proves."""
    shown = read(github, address).proven_token
    return shown and shown.key


@everywhere
def test_a_receipt_names_what_was_written(github: Killing, address: GithubAddress) -> None:
    """It has the key, the expiry and the workspace of the token, and not the token."""
    github.sink(address).write(OLD)
    written = json.loads(github.variable(address).value)
    assert (written["key"], written["secret"]) == ("old", "KEY")
    assert datetime.fromisoformat(written["expires_at"]) == END.replace(microsecond=0)
    assert not any(part in github.variable(address).value for part in OLD.reveal().split("."))
    claims = content_of(StoredValue(OLD))
    assert read(github, address).receipt == Receipt(claims, proven=True)  # type: ignore[arg-type]
    github.sink(address).write(NEW)
    assert proven(github, address) == "new"


@in_both
@pytest.mark.parametrize(
    ("first", "second"), [(OLD, NEW), (NEW, OLD)], ids=["a newer key", "an older key"]
)
def test_a_kill_leaves_no_receipt_of_a_token_that_is_not_there(
    github: Killing, address: GithubAddress, first: Secret, second: Secret
) -> None:
    """After a kill between any two requests, within one second, the next run delivers again."""
    requests, ended = 0, False
    keys = [observed_key(id=name, expires_at=END) for name in ("old", "new")]
    while not ended:
        github.reset()
        github.sink(address).write(first)
        ended = github.write_until(address, second, requests)
        content = read(github, address)
        shown, stored = content.proven_token, github.stored(address)
        assert shown is None or shown.key == stored
        if shown is None:
            assert all(needs_token(content, key) for key in keys)
        requests += 1
    assert (proven(github, address), requests > 5) == (github.stored(address), True)


@in_both
def test_a_kill_of_the_first_write_leaves_no_receipt(
    github: Killing, address: GithubAddress
) -> None:
    """A void receipt is there before the secret, which therefore gets its token again."""
    requests, ended = 0, False
    while not ended:
        github.reset()
        ended = github.write_until(address, NEW, requests)
        content = github.sink(address).read()
        if not ended:
            assert needs_token(content_of(content), observed_key(id="new", expires_at=END))
        requests += 1
    assert proven(github, address) == "new"


@pytest.mark.parametrize("second", ["one", "several"])
@pytest.mark.parametrize("held", ["old", None])
def test_two_writes_at_once_leave_no_wrong_receipt(held: str | None, second: str) -> None:
    """Whatever the order of their requests, and whichever of them is killed at any moment.

    Only two things may deceive, as docs/reliability.md says: a write that GitHub takes before it
    answers the one before, and two in one second with the void receipt of the later one lost.
    """
    tick = timedelta(seconds=second == "several")
    tokens = {"old": OLD, "new": NEW}
    names = {token.reveal(): name for name, token in tokens.items()}
    proofs = set()
    with SteppedGithub() as github:
        reader = github.sink(REPOSITORY)
        secrets = github.containers[PLACES[REPOSITORY]]

        def prepare() -> None:
            if held is not None:
                github.sink(REPOSITORY).write(tokens[held])

        for steps in every_order(github, REPOSITORY, tokens, prepare, tick):
            content = reader.read()
            shown = content.proven_token if isinstance(content, Unreadable) else None
            if shown is not None and shown.key != names[secrets["KEY"].value]:
                assert may_deceive(steps, shown.key, one_second=not tick), steps
            proofs.add(shown and shown.key)
    assert proofs == {"old", "new", None}


def may_deceive(steps: list[Step], signer: str, *, one_second: bool) -> bool:
    """Return whether these steps may leave a wrong receipt of one of the two writes.

    In one second, the other write must stall across the void receipt and the last look of the
    signer, or come between that look and the signature; and it must not live to undo that, unless
    it did so between the two.
    """
    own = {one.what: place for place, one in enumerate(steps) if one.who == signer}
    other = {one.what: place for place, one in enumerate(steps) if one.who != signer}
    if not one_second:
        return own["PUT"] < other["PUT"] < own["answer"]
    writes = [
        (one.who, place)
        for place, one in enumerate(steps)
        if one.variable and (one.what == "PATCH" or (one.what == "POST" and one.version == 0))
    ]
    others = [place for who, place in writes if who != signer]
    void = max(place for who, place in writes if who == signer and place < own["PUT"])
    sign = own["PATCH"]
    look = max(
        place
        for place, one in enumerate(steps[:sign])
        if (one.who, one.what, one.variable) == (signer, "GET", True)
    )
    undone = any(one.last for one in steps if one.who != signer)
    return (
        own["PUT"] < other["PUT"]
        and not any(void < place < look for place in others)
        and (not undone or any(look < place < sign for place in others))
    )


@everywhere
def test_a_change_after_the_receipt_is_noticed(github: Killing, address: GithubAddress) -> None:
    """A write by hand makes it void. An organisation's secret may only have new settings."""
    github.sink(address).write(NEW)
    github.clock_skew += timedelta(seconds=2)
    github.edit_settings(PLACES[address], "KEY")
    receipt = read(github, address).receipt
    assert receipt is not None
    assert receipt.token is None if address.repository else receipt.token is not None
    assert address.repository or not receipt.proven


@pytest.mark.parametrize("text", ["", "void 0123456789abcdef"])
def test_a_void_receipt_proves_nothing(github: Killing, text: str) -> None:
    """The token is delivered again, and the variable becomes a receipt."""
    github.sink(REPOSITORY).write(NEW)
    github.variable(REPOSITORY).value = text
    assert read(github, REPOSITORY).receipt == Receipt()
    github.sink(REPOSITORY).check()
    github.sink(REPOSITORY).write(NEW)
    assert proven(github, REPOSITORY) == "new"


OTHERS_VALUES = (
    "by hand",
    "void",
    "[]",
    '{"key": 1}',
    '{"key": "new", "expires_at": "soon"}',
    '{"key": "new", "expires_at": "2027-01-01T00:00:00Z"}',
    '{"key": "new", "expires_at": "2027-01-01T00:00:00Z", "secret": "OTHER"}',
    "[" * 9999,
)


@pytest.mark.parametrize("text", OTHERS_VALUES)
def test_a_variable_of_somebody_else_is_never_written(github: Killing, text: str) -> None:
    """A wrong name in `receipt` destroys nothing; the check says how to correct it."""
    address = GithubAddress("acme", "KEY", "billing", receipt="DEPLOY_ENV")
    variables = github.variables[PLACES[REPOSITORY]]
    variables["DEPLOY_ENV"] = StoredVariable(text)
    for attempt in (github.sink(address).check, lambda: github.sink(address).write(NEW)):
        with pytest.raises(SinkError) as caught:
            attempt()
        assert caught.value.code == "sink_unsuitable"
        assert "DEPLOY_ENV" in caught.value.message
        assert "`receipt: false`" in caught.value.remedy
    assert (github.stored(REPOSITORY), variables) == (None, {"DEPLOY_ENV": StoredVariable(text)})
    github.containers[PLACES[REPOSITORY]]["KEY"] = StoredSecret(NEW.reveal(), END)
    assert read(github, address).receipt == Receipt()


def test_a_variable_that_somebody_else_sets_during_a_write_is_kept(github: Killing) -> None:
    """The token is delivered without a receipt."""

    def set_at_put(request: HttpRequest) -> None:
        if request.method == "PUT":
            github.variable(REPOSITORY).value = "by hand"

    github.before = set_at_put
    github.sink(REPOSITORY).write(NEW)
    assert (github.stored(REPOSITORY), github.variable(REPOSITORY).value) == ("new", "by hand")


@pytest.mark.parametrize("visibility", ["all", "private", "selected"])
def test_a_receipt_is_as_visible_as_its_secret(github: Killing, visibility: str) -> None:
    """A new one, and one whose secret was made visible to other repositories since."""
    github.sink(ORGANISATION).write(OLD)
    assert github.variable(ORGANISATION).visibility == "private"
    for repositories in ([7], [7, 8]):
        secret = github.containers[PLACES[ORGANISATION]]["KEY"]
        secret.visibility = visibility
        secret.repositories = repositories if visibility == "selected" else []
        github.sink(ORGANISATION).write(NEW)
        receipt = github.variable(ORGANISATION)
        assert (receipt.visibility, receipt.repositories) == (visibility, secret.repositories)
        del github.variables[PLACES[ORGANISATION]]["KEY_RECEIPT"]


def test_without_the_right_for_variables_only_the_time_counts(
    github: Killing, caplog: pytest.LogCaptureFixture
) -> None:
    """The token is delivered, and one warning in a run says what is less certain."""
    github.variable_rights = "none"
    sinks = Github({"GH_TOKEN": github.token, "GITHUB_API_URL": github.url})
    for address in (REPOSITORY, ENVIRONMENT):
        sink = sinks.sink(address)
        sink.check()
        sink.write(NEW)
        content = sink.read()
        assert isinstance(content, Unreadable)
        assert (content.receipt, content.updated_at is None) == (None, False)
        assert content.no_receipt is not None
        assert "`receipt: false`" in content.no_receipt.remedy
        assert github.stored(address) == "new"
    [warning] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "may not read Actions variables" in warning.getMessage()


@in_both
def test_a_receipt_that_may_not_be_written_is_refused_by_the_check(
    github: Killing, address: GithubAddress
) -> None:
    """No token is minted for it; one request answers that for all secrets of a repository."""
    github.variable_rights = "read"
    sinks = Github({"GH_TOKEN": github.token, "GITHUB_API_URL": github.url})
    start = len(github.requests)
    for name in ("KEY", "KEY_2"):
        with pytest.raises(SinkError) as caught:
            sinks.sink(replace(address, secret=name)).check()
        assert caught.value.code == "sink_denied"
        assert f"{name}_RECEIPT" in caught.value.message
        assert "`receipt: false`" in caught.value.remedy
    [asked] = [one for one in github.requests[start:] if one.method != "GET"]
    assert asked.names[-1].startswith("GITHUB_")  # no variable has such a name
    sinks.sink(replace(address, receipt="")).check()


@pytest.mark.parametrize("first", [True, False])
def test_a_refused_receipt_is_a_warning(
    github: Killing, caplog: pytest.LogCaptureFixture, *, first: bool
) -> None:
    """If the check did not show it, the token is delivered; what was there proves nothing."""
    if not first:
        github.sink(REPOSITORY).write(OLD)
        github.clock_skew += timedelta(seconds=1)
    github.variable_rights = "read"
    github.sink(REPOSITORY).write(NEW)
    assert github.stored(REPOSITORY) == "new"
    assert read(github, REPOSITORY).receipt == Receipt()
    [warning] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "HTTP status 403" in warning.getMessage()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("signing", [True, False])
def test_a_receipt_that_fails_for_the_moment_is_a_failure(
    github: Killing, *, first: bool, signing: bool
) -> None:
    """Nothing claims to be proven; without a void receipt, the secret is not even written."""
    if not first:
        github.sink(REPOSITORY).write(OLD)

    def fail(request: HttpRequest) -> None:
        if request.method in ("POST", "PATCH") and ("{" in request.body["value"]) is signing:
            github.outcomes.append(HttpResponse(500))

    github.before = fail
    environ = {"GH_TOKEN": github.token, "GITHUB_API_URL": github.url}
    with pytest.raises(SinkError) as caught:
        Github(environ, lambda _: None).sink(REPOSITORY).write(NEW)
    github.before = lambda _: None
    assert (caught.value.code, github.outcomes) == ("sink_unavailable", [])
    before = (None, None) if first else ("old", "old")
    content = github.sink(REPOSITORY).read()
    shown = content.proven_token if isinstance(content, Unreadable) else None
    after = (github.stored(REPOSITORY), shown and shown.key)
    assert after == (("new", None) if signing else before)


def test_a_receipt_can_be_switched_off(github: Killing) -> None:
    """Nothing is asked of the variables, and nothing can be removed."""
    sink = github.sink(GithubAddress("acme", "KEY", "billing", receipt=""))
    start = len(github.requests)
    sink.check()
    sink.write(NEW)
    content = sink.read()
    assert isinstance(content, Unreadable)
    assert (content.receipt, content.no_receipt) == (None, None)
    assert not sink.remove_delivered(claims(NEW))
    assert not any("variables" in one.target for one in github.requests[start:])
    assert github.stored(REPOSITORY) == "new"


# Cleaning up


def claims(token: Secret) -> ApiKeyToken:
    found = content_of(StoredValue(token))
    assert isinstance(found, ApiKeyToken)
    return found


@everywhere
def test_a_delivered_token_is_removed_with_its_receipt(
    github: Killing, address: GithubAddress
) -> None:
    """A kill in between leaves the receipt, which the next run finds and removes."""
    github.sink(address).write(NEW)
    assert not github.sink(address).remove_delivered(claims(OLD))
    assert github.stored(address) == "new"
    requests = 0
    while "KEY" in github.containers[PLACES[address]]:
        github.remaining = requests
        with pytest.raises(KilledError):
            github.sink(address).remove_delivered(claims(NEW))
        github.remaining = None
        requests += 1
    assert github.sink(address).read() == NoToken(claims(NEW))
    assert github.sink(address).remove_delivered(claims(NEW))
    assert github.variables[PLACES[address]] == {}
    assert github.sink(address).read() == NoToken()
    assert github.sink(address).remove_delivered(claims(NEW))


@everywhere
def test_what_may_not_be_the_delivered_token_is_not_removed(
    github: Killing, address: GithubAddress
) -> None:
    """The secret has changed since, and only a receipt shows what it holds."""
    github.sink(address).write(NEW)
    github.clock_skew += timedelta(seconds=2)
    github.edit_settings(PLACES[address], "KEY")
    assert not github.sink(address).remove_delivered(claims(NEW))
    assert github.stored(address) == "new"
    assert "KEY_RECEIPT" in github.variables[PLACES[address]]
