"""The client against the embedded Twenty, in every generation."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from builders import environment_with, limits_with
from graphql import build_schema, parse, validate

from provisioner.errors.exceptions import RefusedError, WorkspaceError
from provisioner.model.environment import ApiToken, Environment, SessionToken, SignIn
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.runtime.cancellation import Cancellation
from provisioner.sandbox import API_KEYS_FLAG, Dialect, Response, json_answer
from provisioner.secret import Secret
from provisioner.twenty import connect as connect_module
from provisioner.twenty.dispatch import batch_size, split
from provisioner.twenty.workspace import Created, NewKey, NotCreated, NotSent, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.errors.failure import Failure
    from provisioner.model.environment import Credential
    from provisioner.sandbox import Exchange, Request
    from provisioner.twenty.workspace import Outcome, Workspace

CORES = [Dialect.CORE_1, Dialect.CORE]
END = "2031-01-01T00:00:00.417Z"


def new(name: str, depth: int = 1, **more: object) -> NewKey:
    number = abs(hash((name, depth)))
    fields: dict[str, object] = {
        "id": f"{number % 16**8:08x}-0000-4000-8000-{number % 16**12:012x}",
        "name": name,
        "expires_at": END,
        "depth": depth,
    }
    return NewKey(**(fields | more))  # type: ignore[arg-type]


@pytest.fixture
def connect(hurried) -> Iterator[Callable[..., Workspace]]:
    """Opens workspaces whose waits are short, and closes them with the test."""
    with ExitStack() as stack:

        def open_(
            environment: Environment,
            address: str,
            credential: Credential,
            stop: Cancellation | None = None,
        ) -> Workspace:
            opened = connect_module.connect(environment, address, credential, stop or hurried())
            stack.callback(opened.close)
            return opened

        yield open_


@pytest.fixture
def to(connect) -> Callable[..., Workspace]:
    """Opens the workspace of a scripted server."""

    def open_(
        url: str, generation: Any, stop: Cancellation | None = None, **limits: Any
    ) -> Workspace:
        environment = environment_with(url=url, generation=generation, limits=limits_with(**limits))
        return connect(environment, url, ApiToken(Secret("t")), stop)

    return open_


class Outcomes:
    """A ledger that keeps what it is told, and is told each outcome once.

    Args:
        settled: called for each key.
    """

    def __init__(self, settled: Callable[[int], None]) -> None:
        self.sent: list[str] = []
        self.of: dict[str, Outcome] = {}
        self._settled = settled

    def on_send(self, key: NewKey) -> None:
        assert key.id not in self.of
        self.sent.append(key.name)

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        assert key.id not in self.of
        self.of[key.id] = outcome
        self._settled(1)


def create(
    workspace: Workspace, keys: list[NewKey], settled: Callable[[int], None] | None = None
) -> list[Outcome]:
    outcomes = Outcomes(settled or silent)
    workspace.create_many(keys, outcomes)
    return [outcomes.of[key.id] for key in keys]


def silent(_: int) -> None:
    """Nobody watches the progress."""


def failure(outcome: Outcome) -> Failure:
    """Why a key is not known to be made."""
    assert not isinstance(outcome, Created)
    return outcome.cause if isinstance(outcome, Unknown) else outcome.failure


def sizes(journal: list[Exchange]) -> list[int]:
    """How many keys each create of core asked for, in the order of the requests."""
    ordered = sorted(journal, key=lambda one: one.started)
    counts = [one.body.count(b":createApiKey(") for one in ordered]
    return [count for count in counts if count]


@pytest.mark.parametrize("count", [0, 1, 59, 60, 61, 120, 2325])
@pytest.mark.parametrize("dialect", Dialect)
def test_every_key_is_seen_whatever_the_page_size(serve, dialect: Dialect, count: int) -> None:
    """Pages of 60 on legacy, one list on core: all keys, each once; no page too many."""
    served = serve(dialect)
    served.sandbox.seed(f"key-{n}" for n in range(count))
    seen = served.workspace().observe()
    assert sorted(key.name for key in seen.keys) == sorted(f"key-{n}" for n in range(count))
    assert len({key.id for key in seen.keys}) == count
    pages = max(1, -(-count // 60)) if dialect is Dialect.LEGACY else 2
    assert len(served.journal) == seen.requests == pages
    assert seen.workspace == served.sandbox.workspace_id
    assert not served.writes()


@pytest.mark.parametrize(
    ("dialect", "generation", "roles"),
    [(Dialect.LEGACY, "legacy", NoRoles), (Dialect.CORE_1, "core", KnownRoles)]
    + [(Dialect.CORE, "core", KnownRoles)],
)
@pytest.mark.parametrize("declared", [True, False])
def test_the_generation_is_found_by_one_read_or_not_asked_for(
    serve, dialect: Dialect, generation: str, roles: type, declared: bool
) -> None:
    """Detection costs nothing on legacy, one read on core, and nothing where it is declared."""
    served = serve(dialect)
    workspace = served.workspace(generation=generation if declared else None)
    seen = workspace.observe()
    assert workspace.generation == seen.generation == generation
    assert isinstance(seen.roles, roles)
    detecting = 0 if declared or generation == "legacy" else 1
    assert len(served.journal) == 1 + detecting
    assert workspace.observe().keys == seen.keys


def test_revoked_keys_are_seen_on_legacy_and_their_dates_read(serve) -> None:
    """The legacy list shows dead keys too, with all their dates."""
    served = serve(Dialect.LEGACY)
    served.sandbox.seed(["gone"], revoked_at="2026-01-01T00:00:00.000Z")
    [key] = served.workspace().observe().keys
    assert key.revoked_at is not None
    assert key.expires_at.year == 2031


def test_roles_come_with_the_keys_and_never_inside_the_list(serve) -> None:
    """A key whose role has not arrived does not make the list fail."""
    served = serve(Dialect.CORE)
    served.sandbox.seed(["whole"], role="Admin")
    served.sandbox.seed(["half"], role=None)
    seen = served.workspace().observe()
    assert {key.name: key.role for key in seen.keys} == {"whole": "Admin", "half": None}
    assert isinstance(seen.roles, KnownRoles)
    assignable = {role.label for role in seen.roles.roles if role.assignable}
    assert "Admin" in assignable
    assert "Member" not in assignable


@pytest.mark.parametrize("page", [True, False])
def test_without_the_roles_permission_the_keys_alone_are_listed(serve, page: bool, connect) -> None:
    """Bare or in pages of 200, all keys are there; that roles are hidden is said."""
    served = serve(Dialect.CORE, page_core_list=page)
    served.sandbox.seed(f"key-{n}" for n in range(450))
    served.sandbox.permit("Member", API_KEYS_FLAG)
    token = SessionToken(Secret(served.sandbox.session_token("member")))
    workspace = connect(served.environment(), served.sandbox.url, token)
    served.stack.callback(workspace.close)
    seen = workspace.observe()
    assert len(seen.keys) == 450
    assert seen.roles == HiddenRoles()
    assert all(key.role is None for key in seen.keys)


@pytest.mark.parametrize("parallel", [1, 4])
def test_legacy_creates_in_batches_of_one_depth(serve, parallel: int) -> None:
    """20, 57 and 60 keys of depth 0, 1 and 2 are exactly three POSTs, each with its depth."""
    served = serve(Dialect.LEGACY)
    workspace = served.workspace(limits=limits_with(parallel=parallel))
    counts = {0: 20, 1: 57, 2: 60}
    keys = [new(f"k-{depth}-{n}", depth) for depth in counts for n in range(counts[depth])]
    settled: list[int] = []
    outcomes = create(workspace, keys, settled.append)
    assert [outcome.id for outcome in outcomes if isinstance(outcome, Created)] == [
        key.id for key in keys
    ]
    posts = {one.path: len(json.loads(one.body)) for one in served.writes()}
    assert posts == {f"/rest/batch/apiKeys?depth={depth}": n for depth, n in counts.items()}
    assert sum(settled) == 137
    made = served.sandbox.keys()
    assert {key.expires_at for key in made} == {END}


def test_a_batch_is_never_larger_than_the_limit(serve) -> None:
    """`limits.batch` splits what is too much for one request."""
    served = serve(Dialect.LEGACY)
    workspace = served.workspace(limits=limits_with(batch=25))
    create(workspace, [new(f"k{n}") for n in range(61)])
    assert sorted(len(json.loads(one.body)) for one in served.writes()) == [11, 25, 25]


def test_a_bad_record_of_a_batch_stands_alone(serve) -> None:
    """A definite 400 splits the batch until only the bad record fails."""
    served = serve(Dialect.LEGACY)
    keys = [new(f"k{n}") for n in range(9)]
    keys[4] = new("bad", expires_at="not-a-date")
    outcomes = create(served.workspace(), keys)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Created] * 4 + [NotCreated] + [Created] * 4
    assert isinstance(bad := outcomes[4], NotCreated)
    assert bad.failure.code == "rejected"
    assert "not-a-date" in bad.failure.message
    assert len(served.sandbox.keys()) == 8


def test_an_id_that_exists_already_is_an_unknown_outcome(serve) -> None:
    """`Record already exists` may be the trace of this very create, so it is no clear no."""
    served = serve(Dialect.LEGACY)
    workspace = served.workspace()
    create(workspace, [new("a")])
    [again] = create(workspace, [new("a")])
    assert isinstance(again, Unknown)
    assert again.reason == "taken"
    assert "Record already exists" in again.cause.message


@pytest.mark.parametrize("kind", ["session", "token", "sign-in"])
@pytest.mark.parametrize("dialect", CORES)
def test_core_creates_keys_with_their_roles(serve, dialect, kind) -> None:
    """Depth 0 is the key, 1 its role, 2 the role's flags and its permissions."""
    served = serve(dialect)
    workspace = served.workspace(kind)
    role = served.sandbox.role("Integrations").id
    keys = [new(f"k{depth}", depth, role_id=role) for depth in (0, 1, 2)]
    outcomes = create(workspace, keys)
    if dialect is Dialect.CORE and kind == "token":
        codes = {one.failure.code for one in outcomes if isinstance(one, NotCreated)}
        assert codes == {"session_required"}
        assert len(outcomes) == 3
        return
    records = [outcome.record for outcome in outcomes if isinstance(outcome, Created)]
    assert [record["name"] for record in records] == ["k0", "k1", "k2"]
    assert "role" not in records[0]
    assert records[1]["role"]["label"] == "Integrations"
    assert "permissionFlags" not in records[1]["role"]
    assert isinstance(records[2]["role"]["permissionFlags"], list)
    assert isinstance(records[2]["role"]["objectPermissions"], list)
    assert "canReadAllObjectRecords" in records[2]["role"]
    assert {key.role_id for key in served.sandbox.keys() if key.name != "provision"} == {role}
    assert sizes(served.writes()) == ([2, 1] if dialect is Dialect.CORE_1 else [2, 1, 1, 1])


@pytest.mark.parametrize("parallel", [1, 3, 8])
def test_no_more_requests_are_in_flight_than_the_limit(serve, parallel: int) -> None:
    """Requests of any kind, over the whole run, share the environment's slots."""
    served = serve(Dialect.CORE, create_seconds=0.01)
    workspace = served.workspace(limits=limits_with(parallel=parallel))
    workspace.observe()
    role = served.sandbox.role("Admin").id
    create(workspace, [new(f"k{n}", 2, role_id=role) for n in range(24)])
    assert served.most_in_flight() <= parallel
    assert served.most_in_flight() > 1 or parallel == 1
    assert sizes(served.writes()) == [2] + [1] * 24


def test_a_born_revoked_key_is_sent_as_it_is(serve) -> None:
    """`revokedAt` and `roleId` reach the server where the dialect has them."""
    for dialect in Dialect:
        served = serve(dialect)
        role = None if dialect is Dialect.LEGACY else served.sandbox.role("Admin").id
        key = new("dead", revoked_at="2020-01-01T00:00:00Z", role_id=role)
        [outcome] = create(served.workspace(), [key])
        assert isinstance(outcome, Created)
        assert outcome.record["revokedAt"] == "2020-01-01T00:00:00.000Z"


def test_a_role_that_the_server_does_not_know_is_no_success(serve) -> None:
    """On 1.x and 2.x an error after the store may have been begun is an unknown outcome."""
    for dialect in CORES:
        served = serve(dialect)
        key = new("a", role_id="99999999-9999-4999-8999-999999999999")
        [outcome] = create(served.workspace(), [key])
        assert isinstance(outcome, Unknown)
        assert outcome.reason == "refused"
        bad = new("b", role_id="zzz")
        [outcome] = create(served.workspace(), [bad])
        assert isinstance(outcome, NotCreated)


def test_a_session_that_runs_out_in_the_middle_is_renewed_once_for_all(serve, monkeypatch) -> None:
    """Refused requests are sent again with the new session, and only one thread signs in."""
    served = serve(Dialect.CORE)
    workspace = served.workspace("sign-in")
    workspace.observe()
    # From here every token the client holds is one that the server takes for expired.
    stale = served.sandbox.session_token(seconds=-5)
    session = workspace._client._token_source
    session._token = Secret(stale)
    session._renew_at = float("inf")
    before = len(served.journal)
    role = served.sandbox.role("Admin").id
    outcomes = create(workspace, [new(f"k{n}", role_id=role) for n in range(12)])
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    after = served.journal[before:]
    assert sum(b"getLoginToken" in one.body for one in after) == 1
    assert len(served.sandbox.keys()) == 12


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_signing_in_never_waits_for_a_slot_that_waits_for_it(serve, parallel: int) -> None:
    """At the start, and when the session runs out under many threads, with any few slots."""
    served = serve(Dialect.CORE, create_seconds=0.005, session_seconds=2.0)
    workspace = served.workspace("sign-in", limits=limits_with(parallel=parallel))
    role = served.sandbox.role("Admin").id
    session = workspace._client._token_source
    seen: list[int] = []

    def run_out(count: int) -> None:
        seen.append(count)
        if len(seen) % 5 == 0:
            session._renew_at = 0.0

    with ThreadPoolExecutor(1) as pool:
        keys = [new(f"k{n}", role_id=role) for n in range(30)]
        outcomes = pool.submit(create, workspace, keys, run_out).result(timeout=30)
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    assert sum(b"getLoginToken" in one.body for one in served.journal) > 3
    assert served.most_in_flight() <= parallel


ECHOES = [
    (500, '{"messages":["no row for canary@example.com"]}'),
    (400, "<html>canary@example.com canary-password</html>"),
    (200, '{"data":{"getLoginTokenFromCredentials":{"loginToken":"eyJhbGciOi.canary'),
    (200, '{"errors":[{"message":"User canary@example.com is not verified"}]}'),
    (200, '{"errors":[{"message":"x","extensions":{"code":"UNAUTHENTICATED"}}]}'),
    (403, '{"messages":["canary-password"]}'),
]


@pytest.mark.parametrize("echo", ECHOES)
def test_the_answer_to_a_sign_in_is_never_shown(scripted, answer, echo, connect) -> None:
    """Servers and proxies echo what they got; e-mail, password and tokens stay unseen."""
    server = scripted(*[answer(*echo)] * 4)
    credential = SignIn(Secret("canary@example.com"), Secret("canary-password"))
    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, credential)
    assert "canary" not in f"{caught.value.message} {caught.value.remedy}"


def test_what_a_server_echoes_of_our_secrets_is_masked(scripted, answer, connect) -> None:
    """Token, headers, and whatever looks like a token, in errors, bodies and redirects."""
    token = "secret-token-canary"
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.canary"
    headers = (("X-Gate", Secret("gate-canary")),)
    echoes = [
        (400, f'{{"messages":["got {token} and gate-canary and {jwt}"]}}', {}),
        (404, f"<html>Authorization: Bearer {token} X-Gate: gate-canary {jwt[:-30]}", {}),
        (302, "", {"Location": "https://user:canary@host.example.com/x?token=canary"}),
    ]
    for status, body, more in echoes:
        server = scripted(answer(status, body, **more))
        environment = environment_with(url=server.url, headers=headers)
        with pytest.raises(WorkspaceError) as caught:
            connect(environment, server.url, ApiToken(Secret(token))).observe()
        assert "canary" not in caught.value.message
        assert "eyJ" not in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        '{"message":"x","extensions":{"code":"LIMIT_REACHED"}}',
        '{"message":"Token has expired."}',
    ],
)
def test_an_answer_with_data_is_never_asked_for_again(scripted, answer, body, connect) -> None:
    """Errors beside data do not undo what was made: one request, and an unknown outcome."""
    body = '{"data":{"k0":{"id":"1","name":"a"}},"errors":[' + body + "]}"
    server = scripted(answer(200, body), answer(200, body))
    environment = environment_with(url=server.url, generation="core")
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    [outcome] = create(workspace, [new("a", role_id="r")])
    assert isinstance(outcome, Unknown)
    assert len(server.requests) == 1


def test_a_wait_beyond_all_patience_fails_everything_at_once(scripted, answer, connect) -> None:
    """An hour of Retry-After is not waited for once a key: one request, and the rest is told."""
    server = scripted(answer(429, "{}", Retry_After="3600"))
    environment = environment_with(
        url=server.url, generation="core", limits=limits_with(parallel=1)
    )
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    outcomes = create(workspace, [new(f"k{n}", role_id="r") for n in range(9)])
    assert {one.failure.code for one in outcomes if isinstance(one, NotCreated)} == {"rate_limited"}
    assert len(outcomes) == 9
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("entries", "kinds"),
    [
        ('"k0":{"id":"1","name":"a"},"k1":{"id":"1","name":"b"}', [Created, Unknown]),
        ('"k0":{"id":"1","name":"a"},"k1":{"id":"2","name":"a"}', [Created, Unknown]),
        ('"k0":{"id":"1","name":"b"},"k1":{"id":"2","name":"a"}', [Unknown, Unknown]),
        ('"k0":{"id":"1","name":"other"},"k1":{"id":"2"}', [Unknown, Unknown]),
        ('"k1":{"id":"2","name":"b"}', [Unknown, Created]),
        ('"k0":null,"k1":{"id":"2","name":"b"}', [Unknown, Created]),
    ],
)
def test_an_answer_about_another_key_is_no_proof(scripted, answer, to, entries, kinds) -> None:
    """Each created record must be of its name, and no id may stand for two keys."""
    server = scripted(answer(200, '{"data":{' + entries + "}}"))
    outcomes = create(to(server.url, "core"), [new("a", role_id="r"), new("b", role_id="r")])
    assert [type(one) for one in outcomes] == kinds
    assert {one.reason for one in outcomes if isinstance(one, Unknown)} == {"lost"}
    assert len(server.requests) == 1


def test_one_id_is_no_proof_in_several_requests_either(scripted, answer, to) -> None:
    """A server that shows the same id for two requests has shown one key."""
    refused = answer(200, '{"errors":[{"message":"Duplicate root resolver"}]}')
    one = '{"data":{"k0":{"id":"1","name":"a"}}}'
    server = scripted(refused, answer(200, one), answer(200, one.replace('"a"', '"b"')))
    keys = [new("a", role_id="r"), new("b", role_id="r")]
    assert [type(one) for one in create(to(server.url, "core", parallel=1), keys)] == [
        Created,
        Unknown,
    ]


def test_a_refusal_of_the_whole_request_is_not_split(scripted, answer, connect) -> None:
    """What is wrong with every record alike is asked once, not once for each half."""
    said = '{"statusCode":400,"messages":["object \'apiKeys\' not found. eg: companies"]}'
    server = scripted(*[answer(400, said)] * 9)
    environment = environment_with(url=server.url, generation="legacy")
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    outcomes = create(workspace, [new(f"k{n}") for n in range(8)])
    assert {type(one) for one in outcomes} == {NotCreated}
    assert len(server.requests) == 1


def test_a_generation_that_is_declared_wrong_is_found_before_anything_is_written(serve) -> None:
    """`legacy` for a core server, and `core` for a legacy one."""
    with pytest.raises(WorkspaceError) as caught:
        serve(Dialect.CORE).workspace(generation="legacy").observe()
    assert "generation: core" in caught.value.remedy
    with pytest.raises(WorkspaceError):
        serve(Dialect.LEGACY).workspace(generation="core").observe()


@pytest.mark.parametrize(
    ("claims", "own"), [({}, True), ({"type": "API_KEY"}, True), ({"type": "ACCESS"}, False)]
)
def test_a_token_that_tells_no_kind_counts_as_that_of_a_key(
    scripted, answer, connect, claims, own
) -> None:
    """Old tokens of keys have neither a kind nor a workspace; theirs is never revoked."""
    said = json.dumps({"sub": "w", "jti": "11111111-1111-4111-8111-111111111111"} | claims)
    part = base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")
    page = {"data": {"apiKeys": []}, "pageInfo": {"hasNextPage": False}, "totalCount": 0}
    server = scripted(answer(200, json.dumps(page)))
    environment = environment_with(url=server.url)
    token = ApiToken(Secret(f"eyJhbGciOiJIUzI1NiJ9.{part}.{'s' * 43}"))
    found = connect(environment, server.url, token).observe().own_key
    assert found == ("11111111-1111-4111-8111-111111111111" if own else None)


def test_pages_that_take_long_put_no_clock_off(scripted, answer, connect, monkeypatch) -> None:
    """How far the clocks are apart is known when an answer comes, not when all have come."""
    page = {"data": {"apiKeys": []}, "pageInfo": {"hasNextPage": False}, "totalCount": 0}
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:

        def slow(*_: Any) -> tuple[()]:
            clock.shift(timedelta(seconds=90))
            return ()

        monkeypatch.setattr("provisioner.twenty.legacy.list_keys", slow)
        date = format_datetime(datetime.now(UTC), usegmt=True)
        server = scripted(answer(200, json.dumps(page), Date=date))
        environment = environment_with(url=server.url)
        found = connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert found.ahead is not None
    assert abs(found.ahead) < timedelta(seconds=2)


def test_a_paged_core_list_is_not_taken_for_legacy(scripted, answer, connect) -> None:
    """That of about 2.4x looks much like a page of legacy."""
    page = {"data": [], "pageInfo": {"hasNextPage": False}, "totalCount": 0}
    server = scripted(answer(200, json.dumps(page)))
    environment = environment_with(url=server.url, generation="legacy")
    with pytest.raises(WorkspaceError) as caught:
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert "generation: core" in caught.value.remedy


def test_a_key_of_the_far_future_does_not_stop_the_look(scripted, answer, connect) -> None:
    """JavaScript writes years from 10 000 on with a plus; such a key just lives."""
    far = (KEY % 1).replace("2031-01-01", "+010000-01-01")
    server = scripted(answer(200, PAGE % (far, "false", "null")))
    environment = environment_with(url=server.url)
    [key] = connect(environment, server.url, ApiToken(Secret("t"))).observe().keys
    assert key.expires_at.year == 9999


def test_half_a_key_is_named(scripted, answer, connect) -> None:
    """Which of thousands of keys cannot be read stands in the message."""
    bad = (KEY % "the-id").replace("2031-01-01", "soon")
    server = scripted(answer(200, PAGE % (bad, "false", "null")))
    environment = environment_with(url=server.url)
    with pytest.raises(WorkspaceError) as caught:
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert "the-id" in caught.value.message


def test_a_core_list_is_judged_by_its_status_too(scripted, answer, connect) -> None:
    """A 500 with a list in it is no list; a key listed twice is one key."""
    body = '{"data":{"apiKeys":[%s],"getRoles":[]}}'
    server = scripted(*[answer(500, body % "")] * 4)
    environment = environment_with(url=server.url, generation="core")
    with pytest.raises(WorkspaceError):
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    again = scripted(answer(200, body % f"{KEY % 1},{KEY % 1}"))
    environment = environment_with(url=again.url, generation="core")
    assert len(connect(environment, again.url, ApiToken(Secret("t"))).observe().keys) == 1


def test_a_session_near_its_end_is_renewed_before_it_is_used(serve) -> None:
    """A token with less than a moment to live is not sent at all."""
    served = serve(Dialect.CORE, session_seconds=2.0)
    workspace = served.workspace("sign-in")
    workspace.observe()
    signed_in = sum(b"getLoginToken" in one.body for one in served.journal)
    workspace._client._token_source._renew_at = 0.0
    workspace.observe()
    assert sum(b"getLoginToken" in one.body for one in served.journal) == signed_in + 1


@pytest.mark.parametrize("dialect", Dialect)
def test_signing_in_works_on_every_generation(serve, dialect) -> None:
    """Each dialect's endpoint and token field is found."""
    served = serve(dialect)
    assert served.workspace("sign-in").observe().workspace == served.sandbox.workspace_id


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("wrong", ["password", "email"])
def test_a_refused_sign_in_names_neither_email_nor_password(serve, dialect, wrong, connect) -> None:
    """The e-mail is as secret as the password; the remedy names the place of both."""
    served = serve(dialect)
    email = "canary@example.com" if wrong == "email" else served.sandbox.email
    credential = SignIn(Secret(email), Secret("canary-password"))
    with pytest.raises(WorkspaceError) as caught:
        connect(served.environment(), served.sandbox.url, credential).observe()
    assert caught.value.code == "sign_in_failed"
    told = f"{caught.value.message} {caught.value.remedy}"
    assert "canary" not in told
    assert email not in told


def test_a_refused_sign_in_is_not_tried_for_every_key(serve, connect) -> None:
    """A user whose password changed in the middle is not locked out by the keys that are left."""
    served = serve(Dialect.CORE)
    credential = SignIn(Secret(served.sandbox.email), Secret(served.sandbox.password))
    workspace = connect(served.environment(), served.sandbox.url, credential)
    workspace.observe()
    user = served.sandbox.user()
    served.sandbox.put_user(replace(user, password="another"))
    workspace._client._token_source._renew_at = 0.0
    role = served.sandbox.role("Admin").id
    outcomes = create(workspace, [new(f"k{n}", role_id=role) for n in range(50)])
    assert {one.failure.code for one in outcomes if isinstance(one, NotCreated)} == {
        "sign_in_failed"
    }
    assert len(outcomes) == 50
    assert sum(b"getLoginToken" in one.body for one in served.journal) == 2


def test_a_credential_that_may_not_write_is_not_tried_for_every_key(serve, connect) -> None:
    """Those in flight are refused, and the rest is told the same without being sent."""
    served = serve(Dialect.CORE)
    credential = ApiToken(Secret(served.sandbox.api_token()))
    workspace = connect(served.environment(), served.sandbox.url, credential)
    role = served.sandbox.role("Admin").id
    outcomes = create(workspace, [new(f"k{n}", role_id=role) for n in range(50)])
    assert {type(one) for one in outcomes} == {NotCreated}
    assert {one.failure.code for one in outcomes} == {"session_required"}
    assert len(served.journal) < 10


def test_a_sign_in_that_the_workspace_forbids_points_to_a_session_token(
    scripted, answer, connect
) -> None:
    """Single sign-on, a second factor or a captcha: another credential is the way."""
    server = scripted(answer(200, '{"errors":[{"message":"Captcha is not valid"}],"data":null}'))
    credential = SignIn(Secret("a@b.c"), Secret("p"))
    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, credential)
    assert caught.value.code == "sign_in_failed"
    assert "session_token" in caught.value.remedy


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ((200, "<html>"), "unexpected_answer"),
        ((200, '{"data":{"getLoginTokenFromCredentials":{}}}'), "unexpected_answer"),
        ((502, "<html>"), "server_error"),
    ],
)
def test_a_sign_in_that_is_no_answer_is_an_error(scripted, answer, said, code, connect) -> None:
    """Half and foreign answers to the sign-in are told as what they are."""
    server = scripted(*[answer(*said)] * 4)
    credential = SignIn(Secret("a@b.c"), Secret("p"))
    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, credential)
    assert caught.value.code == code


def test_a_lost_sign_in_is_an_error_of_the_workspace(scripted, connect) -> None:
    """No answer to four sign-ins: the environment cannot be used, and it says why."""
    server = scripted(*[None] * 4)
    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, SignIn(Secret("a"), Secret("p")))
    assert caught.value.code == "connection_lost"


def test_a_session_without_dates_lives_until_it_is_refused(scripted, answer, connect) -> None:
    """A proxy that removes `Date`, or an end that is no date, does not stop the sign-in."""
    login = '{"data":{"getLoginTokenFromCredentials":{"loginToken":{"token":"eyJs.b.c"}}}}'
    field = "accessOrWorkspaceAgnosticToken"
    tokens = '{"data":{"getAuthTokensFromLoginToken":{"tokens":{"%s":{"token":"eyJs.e.s"%s}}}}}'
    for end in ("", ',"expiresAt":"2031-01-01T00:00:00Z"'):
        server = scripted(answer(200, login), answer(200, tokens % (field, end)), answer(200, "[]"))
        workspace = connect(
            environment_with(url=server.url), server.url, SignIn(Secret("a"), Secret("p"))
        )
        assert workspace.generation == "core"
        assert b"Bearer eyJs.e.s\r\n" in server.requests[2]
        workspace.close()


def test_the_workspace_pin_is_held_against_the_credential(serve, connect) -> None:
    """Another workspace, or one that cannot be known, is refused before any other request."""
    served = serve(Dialect.CORE)
    pin = served.sandbox.workspace_id
    assert served.workspace(workspace=pin.upper()).observe().workspace == pin
    sent = len(served.journal)
    with pytest.raises(RefusedError) as caught:
        served.workspace(workspace="20202020-1c25-4d02-bf25-6aeccf7ea419")
    assert caught.value.code == "workspace_mismatch"
    assert pin in caught.value.message
    opaque = ("opaque", "a.b.c", "a.bm9wZQ.c", "a.W10.c", "a.e30.c")
    for token in opaque:
        with pytest.raises(RefusedError) as caught:
            connect(served.environment(workspace=pin), served.sandbox.url, ApiToken(Secret(token)))
        assert caught.value.code == "workspace_unknown"
    assert len(served.journal) == sent


@pytest.mark.parametrize("dialect", Dialect)
def test_a_bad_credential_says_what_to_do(serve, dialect, connect) -> None:
    """Garbage, expired and revoked tokens are told apart in every dialect."""
    served = serve(dialect)
    [revoked] = served.sandbox.seed(["r"], revoked_at="2026-01-01T00:00:00.000Z")
    cases = {
        "abc.def.ghi": "credential_invalid",
        served.sandbox.session_token(seconds=-5): "credential_expired",
        served.sandbox.token_of(revoked): "credential_revoked",
    }
    for token, code in cases.items():
        with pytest.raises(WorkspaceError) as caught:
            connect(served.environment(), served.sandbox.url, ApiToken(Secret(token))).observe()
        assert caught.value.code == code
        assert token not in caught.value.message
        assert "auth" in caught.value.remedy


def test_a_credential_without_the_permission_is_told_so(serve, connect) -> None:
    """400 with PERMISSION_DENIED at the detecting read is core, and the permission lacks."""
    served = serve(Dialect.CORE)
    token = SessionToken(Secret(served.sandbox.session_token("member")))
    for generation in (None, "core"):
        with pytest.raises(WorkspaceError) as caught:
            connect(served.environment(generation=generation), served.sandbox.url, token).observe()
        assert caught.value.code == "permission_denied"


PAGE = '{"data":{"apiKeys":[%s]},"pageInfo":{"hasNextPage":%s,"endCursor":%s},"totalCount":1}'
KEY = (
    '{"id":"%s","name":"a","expiresAt":"2031-01-01T00:00:00.000Z","revokedAt":null,'
    '"createdAt":"2026-01-01T00:00:00.000Z"}'
)


@pytest.mark.parametrize(
    ("bodies", "code"),
    [
        (["<html>"] * 4, "unexpected_answer"),
        ([""] * 4, "unexpected_answer"),
        (['{"data":{}}'], "unexpected_answer"),
        (["7"], "unexpected_answer"),
        (['{"data":{"apiKeys":7},"pageInfo":{"hasNextPage":false}}'], "unexpected_answer"),
        (['{"data":{"apiKeys":[]}}'], "unexpected_answer"),
        ([PAGE % (KEY % 1, "true", "null")], "unexpected_answer"),
        ([PAGE % ("7", "false", "null")], "unexpected_answer"),
        ([PAGE % ('{"id":"1"}', "false", "null")], "unexpected_answer"),
        ([PAGE % (KEY % 1, "true", '"x"')] * 2, "unexpected_answer"),
        ([PAGE % (KEY % 1, "true", '"x"'), *["<html>"] * 4], "unexpected_answer"),
        ([PAGE % (KEY % 1, "true", '"x"'), PAGE % (KEY % 1, "true", '"y"')], "unexpected_answer"),
        ([(PAGE % (KEY % 1, "false", "null")).replace(":1}", ":2}")], "unexpected_answer"),
        ([PAGE % ((KEY % 1).replace("2031", "never"), "false", "null")], "unexpected_answer"),
    ],
)
def test_half_a_list_is_an_error_and_never_a_shorter_list(
    scripted, answer, bodies, code, connect
) -> None:
    """A list that is cut, foreign or circular must not look like a workspace with fewer keys.

    What is no JSON is asked for again, and after four tries it is what the server says.
    """
    server = scripted(*[answer(200, body) for body in bodies])
    environment = environment_with(url=server.url)
    with pytest.raises(WorkspaceError) as caught:
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert caught.value.code == code
    assert "shop" in caught.value.message
    assert len(server.requests) == len(bodies)


@pytest.mark.parametrize(
    "body",
    [
        '{"data":{"apiKeys":null,"getRoles":[]}}',
        '{"data":{"apiKeys":[{}],"getRoles":[]}}',
        '{"data":{"apiKeys":[],"getRoles":null}}',
        '{"data":{"apiKeys":[],"getRoles":[{"id":"1"}]}}',
        '{"data":{"apiKeys":[],"getRoles":[{"id":"1","label":"x","apiKeys":[7]}]}}',
        '{"data":{"apiKeys":[]},"errors":[{"message":"x"}]}',
        '{"data":null}',
        "<html>",
    ],
)
def test_half_a_core_list_is_an_error(scripted, answer, to, body) -> None:
    """As on legacy: an answer that is not whole is no list."""
    server = scripted(*[answer(200, body)] * 4)
    with pytest.raises(WorkspaceError) as caught:
        to(server.url, "core").observe()
    assert caught.value.code in ("unexpected_answer", "rejected")


BAD_INPUT = '{"errors":[{"message":"x","extensions":{"code":"BAD_USER_INPUT"}}]}'


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        ((500, "{}"), "lost", "server_error"),
        ((502, "<html>"), "lost", "server_error"),
        ((500, '{"errors":[{"message":"boom"}]}'), "lost", "server_error"),
        ((408, ""), "lost", "server_error"),
        ((503, ""), "lost", "server_error"),
        ((200, ""), "lost", "unexpected_answer"),
        ((200, "<html>"), "lost", "unexpected_answer"),
        ((200, "7"), "lost", "unexpected_answer"),
        ((200, "{}"), "lost", "unexpected_answer"),
        ((200, '{"data":null}'), "lost", "unexpected_answer"),
        ((200, '{"data":{"k0":null}}'), "lost", "unexpected_answer"),
        ((200, '{"data":{"k0":{"name":"a"}}}'), "lost", "unexpected_answer"),
        ((200, '{"data":{"k0":{"id":"1"}},"errors":[{"message":"role"}]}'), "refused", "rejected"),
        ((200, '{"errors":[{"message":"boom"}],"data":null}'), "refused", "rejected"),
        ((200, BAD_INPUT), NotCreated, "rejected"),
        ((200, '{"errors":[{"message":"Cannot query field \\"x\\""}]}'), NotCreated, "rejected"),
        ((413, "<html>"), NotCreated, "rejected"),
        ((302, ""), NotCreated, "unexpected_answer"),
        ((403, '{"messages":["This API Key is revoked"]}'), NotCreated, "credential_revoked"),
    ],
)
def test_a_core_create_is_made_refused_or_unknown(scripted, answer, to, said, kind, code) -> None:
    """Only what the server certainly refused counts as not made; nothing is sent twice."""
    server = scripted(answer(*said))
    [outcome] = create(to(server.url, "core"), [new("a", role_id="r")])
    assert (outcome.reason if isinstance(outcome, Unknown) else type(outcome)) == kind
    assert failure(outcome).code == code
    assert len(server.requests) == 1


NULL = '{"data":{"createApiKeys":[null,{"id":"%s"}]}}'


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ((500, "{}"), ["lost", "lost"]),
        ((502, "<html>"), ["lost", "lost"]),
        ((200, "<html>"), ["lost", "lost"]),
        ((201, ""), ["lost", "lost"]),
        ((201, '{"data":{"createApiKeys":null}}'), ["lost", "lost"]),
        ((201, '{"data":{"createApiKeys":[{"id":"%s"}]}}'), ["lost", Created]),
        ((201, NULL), ["taken", Created]),
        ((201, NULL.replace("null", '{"id":"1"}')), ["lost", Created]),
        ((400, '{"messages":["Record already exists"]}'), ["taken", "taken"]),
        ((400, '{"messages":["duplicate key value violates x"]}'), ["taken", "taken"]),
        ((500, '{"messages":["duplicate key value violates x"]}'), ["taken", "taken"]),
        ((400, '{"messages":["Created record not found"]}'), ["taken", "taken"]),
        ((403, '{"messages":["This API Key is revoked"]}'), [NotCreated, NotCreated]),
    ],
)
def test_a_legacy_batch_is_judged_key_by_key(scripted, answer, to, said, kinds) -> None:
    """What the answer shows under its id is made; that its id is taken, or nothing, is a doubt."""
    keys = [new("a"), new("b")]
    status, body = said
    server = scripted(answer(status, body.replace("%s", keys[1].id)))
    outcomes = create(to(server.url, "legacy"), keys)
    told = [one.reason if isinstance(one, Unknown) else type(one) for one in outcomes]
    assert told == kinds
    assert len(server.requests) == 1


@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_lost_answer_of_a_create_is_unknown_and_not_repeated(scripted, to, generation) -> None:
    """A connection that breaks after the request is one request and an honest word."""
    server = scripted(None)
    [outcome] = create(to(server.url, generation), [new("a", role_id="r")])
    assert isinstance(outcome, Unknown)
    assert (outcome.reason, outcome.cause.code) == ("lost", "connection_lost")
    assert len(server.requests) == 1


@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_server_that_went_away_was_sent_nothing(to, generation) -> None:
    """Where no connection comes up nothing was sent, and the rest of the keys is not tried."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workspace = to(f"http://127.0.0.1:{port}", generation, parallel=1, batch=1)
    outcomes = create(workspace, [new(f"k{n}", role_id="r") for n in range(9)])
    assert {type(one) for one in outcomes} == {NotSent}
    assert {failure(one).code for one in outcomes} == {"unreachable"}
    assert workspace._client.requests_sent == 1


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ((200, "<html>"), NotCreated),
        ((200, '{"data":{}}'), NotCreated),
        ((403, "{}"), NotCreated),
        ((500, "{}"), NotSent),
        (None, NotSent),
    ],
)
def test_depth_2_without_permissions_to_show_creates_nothing(
    scripted, answer, to, said, kind
) -> None:
    """The permissions are read before the first create; without them those keys are not sent."""
    entry = answer(*said) if said else None
    server = scripted(*[entry] * 4)
    [outcome] = create(to(server.url, "core"), [new("a", 2, role_id="r")])
    assert type(outcome) is kind
    assert not any(b"createApiKey" in request for request in server.requests)


def test_one_workspace_serves_many_threads(serve) -> None:
    """Several looks and creates at once share one session and lose nothing."""
    served = serve(Dialect.CORE)
    workspace = served.workspace("sign-in")
    role = served.sandbox.role("Admin").id
    ready = threading.Barrier(6)

    def work(number: int) -> int:
        ready.wait(5)
        made = create(workspace, [new(f"k{number}-{n}", role_id=role) for n in range(5)], silent)
        return sum(isinstance(one, Created) for one in made)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) == 30
    assert len(workspace.observe().keys) == 30
    assert sum(b"getLoginToken" in one.body for one in served.journal) == 1


# documents of several


def asks_for(*counts: int) -> Callable[[Request], bool]:
    """Whether a request creates so many keys of core."""
    return lambda request: request.body.count(b":createApiKey(") in counts


def said_once(
    which: Callable[[Request], bool], say: Callable[..., Response], times: int = 1
) -> Callable[..., Response]:
    """What stands in front of a server: the first requests of a kind are answered by `say`."""
    left = iter(range(times))
    lock = threading.Lock()

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        with lock:
            now = which(request) and next(left, None) is not None
        return say(request, inner) if now else inner(request)

    return around


def never_arrives(_: Request, __: Callable[[Request], Response]) -> Response:
    raise ConnectionError


def made_and_lost(request: Request, inner: Callable[[Request], Response]) -> Response:
    inner(request)
    raise ConnectionError


def of_core(served: Any, count: int, **more: object) -> list[NewKey]:
    role = served.sandbox.role("Admin").id
    return [new(f"k{number}", role_id=role, **more) for number in range(count)]


def test_fifty_thousand_keys_of_core_are_listed(scripted, answer, to) -> None:
    """Core lists all keys in one answer, which is larger than any other may be."""
    ids = [f"20202020-1c25-4d02-bf25-{number:012d}" for number in range(50_000)]
    moment = "2026-01-01T00:00:00.000Z"
    common = {"expiresAt": "2036-01-01T00:00:00.000Z", "revokedAt": None}
    common |= {"createdAt": moment, "updatedAt": moment}
    keys = [{"id": id_, "name": f"service {id_} of a large fleet"} | common for id_ in ids]
    role = {"id": "r", "label": "Admin", "canBeAssignedToApiKeys": True}
    role["apiKeys"] = [{"id": id_} for id_ in ids]
    body = json.dumps({"data": {"apiKeys": keys, "getRoles": [role]}})
    assert len(body) > 12 << 20
    seen = to(scripted(answer(200, body)).url, "core").observe()
    assert len(seen.keys) == 50_000
    assert {key.role for key in seen.keys} == {"Admin"}


NGINX = (
    b"<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
    b"<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n"
    b"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
CLOUD = b"<!DOCTYPE html><html><head><title>429</title></head><body>Too many canary</body></html>"


@pytest.mark.parametrize(("status", "page"), [(503, NGINX), (429, CLOUD)])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_limit_in_front_of_twenty_loses_and_doubles_no_create(
    serve, caplog, dialect, status, page
) -> None:
    """A proxy that refuses every third request: one pause for all, then on."""
    refused: list[Request] = []
    lock = threading.Lock()
    seen = iter(range(10_000))

    def limit(request: Request, inner: Callable[[Request], Response]) -> Response:
        with lock:
            over = request.method == "POST" and next(seen) % 3 == 1
            if over:
                refused.append(request)
        return Response(status, page, (("Content-Type", "text/html"),)) if over else inner(request)

    served = serve(dialect, around=limit)
    workspace = served.workspace(limits=limits_with(parallel=4, batch=3))
    outcomes = create(workspace, of_core_or_legacy(served, dialect, 24))
    assert [type(one) for one in outcomes] == [Created] * 24
    assert len(served.sandbox.keys()) == 24
    assert refused
    assert sum("slow down" in one.message for one in caplog.records) >= 1


def of_core_or_legacy(served: Any, dialect: Dialect, count: int) -> list[NewKey]:
    if dialect is Dialect.LEGACY:
        return [new(f"k{number}") for number in range(count)]
    return of_core(served, count)


def test_a_503_of_unknown_make_slows_down_and_keeps_the_doubt(scripted, answer, to) -> None:
    """It may come from a proxy whose server went on: the create is unknown, and not repeated."""
    server = scripted(answer(503, "<html>busy canary"), answer(503, ""))
    workspace = to(server.url, "core")
    [outcome] = create(workspace, [new("a", role_id="r")])
    assert isinstance(outcome, Unknown)
    assert "canary" not in failure(outcome).message
    assert len(server.requests) == 1
    assert workspace._client._transport._rate_limit._recovering


@pytest.mark.parametrize(
    ("dialect", "most", "count", "requests"),
    [(Dialect.LEGACY, 17, 60, 7), (Dialect.CORE_1, 6, 42, 15), (Dialect.LEGACY, 1, 5, 9)],
)
def test_a_request_that_is_too_large_is_sent_in_halves(
    serve, caplog, dialect, most, count, requests
) -> None:
    """As many keys in one request as the proxy takes; its page of HTML is told once, as words."""

    def limit(request: Request, inner: Callable[[Request], Response]) -> Response:
        keys = request.body.count(b'"name"')
        page = b"<html><h1>413 canary</h1></html>"
        return (
            Response(413, page, (("Content-Type", "text/html"),)) if keys > most else inner(request)
        )

    served = serve(dialect, around=limit)
    outcomes = create(
        served.workspace(limits=limits_with(parallel=1)), of_core_or_legacy(served, dialect, count)
    )
    assert [type(one) for one in outcomes] == [Created] * count
    assert len(served.sandbox.keys()) == count
    assert sum(one.path.startswith(("/rest/batch", "/metadata")) for one in served.writes()) <= (
        requests
    )
    told = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(told) == 1
    assert "fewer" in told[0]
    assert "canary" not in caplog.text


@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_key_that_is_too_large_by_itself_says_what_to_raise(
    scripted, answer, to, generation
) -> None:
    """It is certainly not made."""
    server = scripted(answer(413, "<html>canary"))
    [outcome] = create(to(server.url, generation), [new("a", role_id="r")])
    assert isinstance(outcome, NotCreated)
    assert "client_max_body_size" in failure(outcome).message
    assert "canary" not in failure(outcome).message


def test_core_1_takes_documents_of_20_after_one_of_two(serve) -> None:
    """47 keys of three depths are four requests, each key as its own depth shows it."""
    served = serve(Dialect.CORE_1)
    workspace = served.workspace()
    role = served.sandbox.role("Admin").id
    keys = [new(f"k{number}", number % 3, role_id=role) for number in range(47)]
    outcomes = create(workspace, keys)
    assert sorted(sizes(served.writes())) == [2, 5, 20, 20]
    assert sizes(served.writes())[0] == 2
    ids = {key.name: key.id for key in served.sandbox.keys()}
    assert len(ids) == 47
    for key, outcome in zip(keys, outcomes, strict=True):
        assert isinstance(outcome, Created)
        assert (outcome.id, outcome.record["name"]) == (ids[key.name], key.name)
        role_shown = outcome.record.get("role", {})
        assert bool(role_shown) == (key.depth > 0)
        assert ("permissionFlags" in role_shown) == (key.depth == 2)
    served.journal.clear()
    create(workspace, [new(f"again-{number}", role_id=role) for number in range(21)])
    assert sorted(sizes(served.writes())) == [1, 20]


def test_core_2_is_asked_once_and_then_served_one_key_a_request(serve) -> None:
    """A server that refuses a document of two is never sent another, in no later create either."""
    served = serve(Dialect.CORE)
    workspace = served.workspace()
    role = served.sandbox.role("Admin").id
    for round_, count in enumerate((1, 5, 3, 2)):
        served.journal.clear()
        keys = [new(f"k{round_}-{number}", role_id=role) for number in range(count)]
        assert all(isinstance(one, Created) for one in create(workspace, keys))
        assert sizes(served.writes()) == ([2] if round_ == 1 else []) + [1] * count
    assert len(served.sandbox.keys()) == 11


def test_a_server_that_changes_its_mind_is_served_one_key_a_request(serve) -> None:
    """Upgraded in the middle of a run: what it refuses unread goes out again, key by key."""
    body: Any = {"errors": [{"message": 'Duplicate root resolver: "createApiKey"'}]}
    around = said_once(asks_for(20), lambda *_: json_answer(200, body))
    served = serve(Dialect.CORE_1, around=around)
    workspace = served.workspace(limits=limits_with(parallel=1))
    outcomes = create(workspace, of_core(served, 22))
    assert {type(one) for one in outcomes} == {Created}
    assert sizes(served.journal) == [2, 20] + [1] * 20
    served.journal.clear()
    role = served.sandbox.role("Admin").id
    create(workspace, [new(f"later-{number}", role_id=role) for number in range(3)])
    assert sizes(served.journal) == [1] * 3


@pytest.mark.parametrize("lose", [never_arrives, made_and_lost])
@pytest.mark.parametrize(
    ("dialect", "expected"), [(Dialect.CORE_1, [2, 2, 4]), (Dialect.CORE, [2, 2] + [1] * 6)]
)
def test_a_lost_answer_to_the_document_of_two_teaches_nothing(
    serve, dialect, expected, lose
) -> None:
    """Its two keys are unknown, and the next two ask again."""
    served = serve(dialect, around=said_once(asks_for(2), lose))
    outcomes = create(served.workspace(), of_core(served, 8))
    assert [type(one) for one in outcomes] == [Unknown] * 2 + [Created] * 6
    assert sizes(served.journal) == expected


def test_a_server_that_loses_every_document_of_two_is_not_asked_for_ever(serve) -> None:
    """After a few the keys are sent alone, and the next create asks anew."""
    around = said_once(asks_for(2), never_arrives, times=4)
    served = serve(Dialect.CORE_1, around=around)
    workspace = served.workspace()
    outcomes = create(workspace, of_core(served, 12))
    assert [type(one) for one in outcomes] == [Unknown] * 8 + [Created] * 4
    assert sizes(served.journal) == [2] * 4 + [1] * 4
    served.journal.clear()
    role = served.sandbox.role("Admin").id
    create(workspace, [new(f"later-{number}", role_id=role) for number in range(9)])
    assert sizes(served.journal) == [2, 7]


def test_a_document_that_fails_in_the_middle_is_unknown_and_then_sent_apart(serve) -> None:
    """No key of it is certain; those that were tried often stand alone, and one fails alone."""
    served = serve(Dialect.CORE_1)
    workspace = served.workspace()
    good = of_core(served, 5)
    odd = new("odd", role_id="99999999-9999-4999-8999-999999999999")
    keys = [*good[:3], odd, *good[3:]]
    outcomes = create(workspace, keys)
    assert [type(one) for one in outcomes] == [Created] * 2 + [Unknown] * 4
    assert {one.reason for one in outcomes if isinstance(one, Unknown)} == {"refused"}
    made = {key.name for key in served.sandbox.keys()}
    assert made >= {"k0", "k1"}
    assert "odd" not in made
    served.journal.clear()
    again = [replace(key, name=f"{key.name}-again", tries=4) for key in keys[2:]]
    outcomes = create(workspace, again)
    assert [type(one) for one in outcomes] == [Created, Unknown, Created, Created]
    assert sizes(served.writes()) == [1] * 4


def test_keys_that_are_to_be_sent_alone_do_not_ask_for_company(serve) -> None:
    """What was tried so often goes in requests of its own, whether or not several would do."""
    served = serve(Dialect.CORE_1)
    assert len(create(served.workspace(), of_core(served, 3, tries=4))) == 3
    assert sizes(served.writes()) == [1] * 3


@pytest.mark.parametrize(
    ("dialect", "tries", "expected"),
    [
        (Dialect.CORE_1, 1, [2, 5, 5, 5, 5, 5, 3]),
        (Dialect.CORE_1, 2, [1] * 30),
        (Dialect.LEGACY, 0, [30]),
        (Dialect.LEGACY, 1, [15, 15]),
        (Dialect.LEGACY, 2, [3] * 10),
        (Dialect.LEGACY, 3, [1] * 30),
    ],
)
def test_the_more_often_tried_the_less_company(serve, dialect, tries, expected) -> None:
    """A key that fails whatever shares its request keeps the others waiting but a few rounds."""
    served = serve(dialect)
    if dialect is Dialect.LEGACY:
        create(served.workspace(), [new(f"k{n}", tries=tries) for n in range(30)])
        assert sorted(len(json.loads(one.body)) for one in served.writes()) == sorted(expected)
    else:
        create(served.workspace(), of_core(served, 30, tries=tries))
        assert sorted(sizes(served.writes())) == sorted(expected)
    assert len(served.sandbox.keys()) == 30


def test_keys_of_different_tries_do_not_share_a_request(serve) -> None:
    """A key that failed keeps no new one waiting."""
    served = serve(Dialect.LEGACY)
    keys = [new("a"), new("b", tries=1), new("c"), new("d", tries=1)]
    assert all(isinstance(one, Created) for one in create(served.workspace(), keys))
    groups = sorted([key["name"] for key in json.loads(one.body)] for one in served.writes())
    assert groups == [["a", "c"], ["b", "d"]]


@pytest.mark.parametrize("most", [1, 7, 20, 60])
def test_in_the_end_everyone_is_alone_and_none_is_lost_on_the_way(most) -> None:
    """`company` only shrinks and ends with one; `split` leaves out nothing and keeps the order."""
    shares = [batch_size(most, tries) for tries in range(6)]
    assert shares[0] == most
    assert shares == sorted(shares, reverse=True)
    assert shares[4:] == [1, 1]
    for count in (0, 1, most - 1, most, most + 1, 3 * most + 1):
        keys = tuple(new(f"k{n}") for n in range(count))
        groups = list(split(keys, most))
        assert tuple(key for group in groups for key in group) == keys
        assert {len(group) for group in groups[:-1]} <= {most}
        assert all(1 <= len(group) <= most for group in groups)


REFUSALS = {
    "limit": {"message": "Limit reached", "extensions": {"code": "LIMIT_REACHED"}},
    "too-many": {"message": "Too many requests. Try later."},
    "session": {"message": "Token has expired.", "extensions": {"code": "UNAUTHENTICATED"}},
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_a_document_of_several_that_was_begun_is_not_sent_again(
    serve, refusal, begun, count
) -> None:
    """With `data: null` some of its keys may be made; without, or of one key, nothing was."""
    body: Any = {"errors": [REFUSALS[refusal]]} | ({"data": None} if begun else {})
    say = said_once(asks_for(count), lambda *_: json_answer(200, body))
    served = serve(Dialect.CORE_1, around=say)
    outcomes = create(served.workspace("sign-in"), of_core(served, count))
    if begun and count > 1:
        assert [one.reason for one in outcomes if isinstance(one, Unknown)] == ["refused"] * 2
        assert sizes(served.journal) == [2]
    else:
        assert [type(one) for one in outcomes] == [Created] * count
        assert sizes(served.journal) == [count] * 2
    assert len(served.sandbox.keys()) in (0, count)


# what goes out before it is known


@pytest.mark.parametrize("dialect", Dialect)
def test_a_key_is_told_of_before_it_is_sent(serve, dialect) -> None:
    """Whoever is killed or stopped in between knows which keys may exist."""
    outcomes = Outcomes(silent)
    untold: list[str] = []

    def listen(request: Request, inner: Callable[[Request], Response]) -> Response:
        names = re.findall(rb'"name": ?"(k\d+)"', request.body)
        untold.extend(name.decode() for name in names if name.decode() not in outcomes.sent)
        return inner(request)

    served = serve(dialect, around=listen)
    keys = [new(f"k{n}") for n in range(70)]
    keys = keys if dialect is Dialect.LEGACY else of_core(served, 30)
    served.workspace().create_many(keys, outcomes)
    assert set(outcomes.sent) == {key.name for key in keys}
    assert untold == []


@pytest.mark.parametrize("dialect", Dialect)
def test_a_stop_before_a_create_sends_nothing(serve, hurried, dialect) -> None:
    """Nothing new begins; every key says that it was not sent."""
    served = serve(dialect)
    stop = hurried()
    workspace = served.workspace(stop=stop)
    keys = [new("a"), new("b")] if dialect is Dialect.LEGACY else of_core(served, 2)
    stop.ask()
    outcomes = Outcomes(silent)
    workspace.create_many(keys, outcomes)
    assert {type(one) for one in outcomes.of.values()} == {NotSent}
    assert {failure(one).code for one in outcomes.of.values()} == {"stopped"}
    assert outcomes.sent == []
    assert not served.writes()


@pytest.mark.parametrize("dialect", Dialect)
def test_a_stop_amid_a_create_lets_only_what_is_in_flight_end(serve, hurried, dialect) -> None:
    """The request that was under way is answered and believed; none follows it."""
    stop = hurried()
    sent: list[int] = []

    def tell(request: Request, inner: Callable[[Request], Response]) -> Response:
        if is_create(request):
            sent.append(1)
            if len(sent) == 3:
                stop.ask()
        return inner(request)

    served = serve(dialect, around=tell)
    limits = limits_with(parallel=1, batch=2)
    workspace = served.workspace(stop=stop, limits=limits)
    keys = [new(f"k{n}") for n in range(60)]
    keys = keys if dialect is Dialect.LEGACY else of_core(served, 60)
    outcomes = create(workspace, keys)
    made = [one for one in outcomes if isinstance(one, Created)]
    assert len(made) == len(served.sandbox.keys()) > 0
    assert {failure(one).code for one in outcomes if not isinstance(one, Created)} == {"stopped"}
    assert {type(one) for one in outcomes} == {Created, NotSent}
    assert len(sent) == 3


def is_create(request: Request) -> bool:
    return request.method == "POST" and (
        request.path.startswith("/rest/batch") or b"createApiKey(" in request.body
    )


# silence


@pytest.mark.parametrize("entry", ["closed", "failed", "unreadable"])
@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_server_that_loses_answer_after_answer_is_not_sent_the_rest(
    scripted, answer, to, generation, entry
) -> None:
    """Four in a row are no accident: the keys after them are not sent, and said not to be."""
    said = {"closed": None, "failed": answer(500, "{}"), "unreadable": answer(200, "<html>")}
    server = scripted(*[said[entry]] * 20)
    keys = [new(f"k{n}", role_id="r") for n in range(20)]
    outcomes = create(to(server.url, generation, parallel=1, batch=1), keys)
    each = 2 if generation == "core" else 1
    assert [type(one) for one in outcomes] == [Unknown] * 4 * each + [NotSent] * (20 - 4 * each)
    assert failure(outcomes[-1]).code == "server_error"
    assert "4 answers in a row" in failure(outcomes[-1]).message
    assert len(server.requests) == 4


def test_many_threads_lose_more_before_it_is_silence(scripted, to) -> None:
    """Two for each thread, since one hiccup of a proxy takes all that is in flight."""
    server = scripted()
    outcomes = create(
        to(server.url, "legacy", parallel=4, batch=1), [new(f"k{n}") for n in range(40)]
    )
    assert 8 <= len(server.requests) <= 11
    unknown = [one for one in outcomes if isinstance(one, Unknown)]
    assert len(unknown) == len(server.requests)
    assert {type(one) for one in outcomes} == {Unknown, NotSent}


def test_an_answer_in_between_ends_the_silence(scripted, answer, to) -> None:
    """A server that answers now and then, were it with a refusal, is sent everything."""
    refusal = answer(400, '{"messages":["no"]}')
    server = scripted(*[None, None, None, refusal] * 5)
    outcomes = create(
        to(server.url, "legacy", parallel=1, batch=1), [new(f"k{n}") for n in range(20)]
    )
    assert [type(one) for one in outcomes] == [Unknown, Unknown, Unknown, NotCreated] * 5
    assert len(server.requests) == 20


# records and revoking


@pytest.mark.parametrize("dialect", Dialect)
def test_a_record_that_is_read_is_the_one_that_creating_shows(serve, dialect) -> None:
    """At every depth and of every generation; ids that are not there are left out."""
    served = serve(dialect)
    workspace = served.workspace()
    role = None if dialect is Dialect.LEGACY else served.sandbox.role("Integrations").id
    keys = [new(f"k{depth}", depth, role_id=role) for depth in (0, 1, 2)]
    made = {one.id: one.record for one in create(workspace, keys) if isinstance(one, Created)}
    assert len(made) == 3
    fresh = served.workspace()
    fresh.observe()
    served.journal.clear()
    wanted = dict(zip(made, (0, 1, 2), strict=True))
    gone = "99999999-9999-4999-8999-999999999999"
    assert fresh.records(wanted | {gone: 1}) == made
    assert not served.writes()
    reads = 4 + (dialect is not Dialect.LEGACY)
    assert len(served.journal) == reads
    assert fresh.records(wanted) == made
    assert len(served.journal) == reads + 3
    assert fresh.records({}) == {}


@pytest.mark.parametrize("dialect", Dialect)
def test_records_that_cannot_be_read_are_left_out(serve, dialect) -> None:
    """One read that is lost again and again keeps no other from coming back."""
    ids: list[str] = []

    def lose(request: Request, inner: Callable[[Request], Response]) -> Response:
        if ids and ids[0].encode() in request.path.encode() + request.body:
            raise ConnectionError
        return inner(request)

    served = serve(dialect, around=lose)
    found = served.sandbox.seed(["a", "b", "c"])
    ids.append(found[1])
    records = served.workspace().records(dict.fromkeys(found, 1))
    assert set(records) == {found[0], found[2]}


def test_permissions_that_cannot_be_read_leave_the_record_without_them(serve) -> None:
    """A key that exists is shown as far as it can be."""
    served = serve(Dialect.CORE)
    [key] = served.sandbox.seed(["a"])
    served.sandbox.permit("Member", API_KEYS_FLAG)
    workspace = served.workspace()
    workspace._client._token_source._token = Secret(served.sandbox.session_token("member"))
    [record] = workspace.records({key: 2}).values()
    assert record["name"] == "a"
    assert "permissionFlags" not in record["role"]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("times", [1, 2])
def test_revoking_ends_one_key_and_once_more_is_once(serve, dialect, times) -> None:
    """The key lives no more, its twin does; on every generation one request."""
    served = serve(dialect)
    ended, stays = served.sandbox.seed(["a", "a"])
    workspace = served.workspace()
    workspace.observe()
    for _ in range(times):
        workspace.revoke(ended)
    assert len(served.writes()) == times
    revoked = {key.id: key.revoked_at is not None for key in served.sandbox.keys()}
    assert revoked == {ended: True, stays: False}
    seen = workspace.observe()
    assert [key.id for key in seen.keys if key.live(seen.server_time)] == [stays]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("lose", [never_arrives, made_and_lost])
def test_a_lost_answer_to_a_revoke_is_asked_for_again(serve, dialect, lose) -> None:
    """Revoking may be repeated, so a broken connection leaves no key alive."""

    def revokes(request: Request) -> bool:
        return request.method == "PATCH" or b"revokeApiKey" in request.body

    served = serve(dialect, around=said_once(revokes, lose, times=3))
    [key] = served.sandbox.seed(["a"])
    served.workspace().revoke(key)
    [left] = served.sandbox.keys()
    assert left.revoked_at is not None


@pytest.mark.parametrize("generation", ["legacy", "core"])
@pytest.mark.parametrize("said", [(500, "{}"), (200, "{}"), (400, '{"messages":["no"]}'), None])
def test_a_revoke_that_is_not_known_to_be_made_is_an_error(
    scripted, answer, to, generation, said
) -> None:
    """No success without the server's word."""
    server = scripted(*[answer(*said) if said else None] * 4)
    with pytest.raises(WorkspaceError):
        to(server.url, generation).revoke("20202020-1c25-4d02-bf25-6aeccf7ea419")


def test_a_key_that_may_not_be_revoked_says_why(serve) -> None:
    """On 2.x an API key may not write; the code says so."""
    served = serve(Dialect.CORE)
    [key] = served.sandbox.seed(["a"])
    with pytest.raises(WorkspaceError) as caught:
        served.workspace("token").revoke(key)
    assert caught.value.code == "session_required"


# lists that meet a key in the making


def unready() -> Response:
    message = "API key 20202020-1c25-4d02-bf25-6aeccf7ea419 has no role assigned"
    return json_answer(200, {"errors": [{"message": message}], "data": None})


def test_a_list_that_meets_a_key_in_the_making_is_asked_for_again(serve) -> None:
    """`has no role assigned` is a moment and no error."""

    def lists(request: Request) -> bool:
        return b"{apiKeys{" in request.body

    served = serve(Dialect.CORE, around=said_once(lists, lambda *_: unready(), times=6))
    served.sandbox.seed(["a", "b"])
    seen = served.workspace().observe()
    assert sorted(key.name for key in seen.keys) == ["a", "b"]
    assert sum(lists_(one) for one in served.journal) == 7


def lists_(exchange: Exchange) -> bool:
    return b"{apiKeys{" in exchange.body


def test_a_key_without_a_role_for_good_is_told(serve) -> None:
    """A list that goes on failing is asked for so often, and then its words are shown."""
    served = serve(
        Dialect.CORE,
        around=lambda request, inner: unready() if b"{apiKeys{" in request.body else inner(request),
    )
    with pytest.raises(WorkspaceError) as caught:
        served.workspace().observe()
    assert "has no role assigned" in caught.value.message
    assert sum(lists_(one) for one in served.journal) == 11


def test_what_a_server_does_not_show_is_asked_for_once(serve) -> None:
    """Hidden roles and the permissions of roles are learnt at the first look, not at each."""
    served = serve(Dialect.CORE)
    served.sandbox.permit("Member", API_KEYS_FLAG)
    token = SessionToken(Secret(served.sandbox.session_token("member")))
    workspace = connect_module.connect(
        served.environment(), served.sandbox.url, token, Cancellation()
    )
    served.stack.callback(workspace.close)
    first = workspace.observe()
    served.journal.clear()
    assert workspace.observe().keys == first.keys
    assert [one.method for one in served.journal] == ["GET"]


# the documents


def documents() -> list[str]:
    from provisioner.twenty import core, core_bulk_create

    keys = tuple(new(f"k{depth}", depth) for depth in (0, 1, 2))
    creates = [core_bulk_create._document(keys[:count])[0] for count in (1, 2, 3)]
    reads = [core._QUERY_ONE % selection for selection in core_bulk_create.SELECTION.values()]
    lists = [core._LIST % (core_bulk_create.KEY, "getRoles"), core._PERMISSIONS]
    return [*creates, *reads, *lists, core._REVOKE]


@pytest.mark.parametrize("dialect", CORES)
def test_the_documents_are_valid_against_what_the_servers_know(dialect) -> None:
    """Every document that is sent validates against the schema of 1.10 and of 2.21."""
    from provisioner.sandbox.sdl import METADATA, schema_text

    schema = build_schema(schema_text(dialect, METADATA, anonymous=False))
    for document in documents():
        assert validate(schema, parse(document)) == []
    assert not any(re.search(r"apiKeys\{[^}]*role", document) for document in documents())


# Changing


@pytest.mark.parametrize("dialect", Dialect)
def test_a_key_gets_another_end_with_its_milliseconds(serve, dialect) -> None:
    """Moved there and back, and nothing else of the key changes."""
    served = serve(dialect)
    [key] = served.sandbox.seed(["a"])
    before = served.sandbox.keys()[0]
    workspace = served.workspace()
    workspace.observe()
    for ends in (datetime(2040, 1, 2, 3, 4, 5, 678000, UTC), datetime(2032, 1, 1, tzinfo=UTC)):
        workspace.set_expiry(key, ends)
        [seen] = workspace.observe().keys
        assert seen.expires_at == ends
    after = served.sandbox.keys()[0]
    assert replace(after, expires_at=before.expires_at, updated_at=before.updated_at) == before


@pytest.mark.parametrize("dialect", CORES)
def test_a_key_gets_a_role_whether_it_has_one_or_not(serve, dialect) -> None:
    """`assignRoleToApiKey` repairs a key that was left half made."""
    served = serve(dialect)
    served.sandbox.seed(["half"], role=None)
    served.sandbox.seed(["whole"], role="Admin")
    workspace = served.workspace()
    role = served.sandbox.role("Integrations")
    for key in workspace.observe().keys:
        workspace.assign_role(key.id, role.id)
    assert {key.role for key in workspace.observe().keys} == {"Integrations"}


@pytest.mark.parametrize("dialect", Dialect)
def test_a_change_of_a_key_that_is_gone_is_an_error(serve, dialect) -> None:
    """Servers answer null or nothing for an id that they do not know."""
    workspace = serve(dialect).workspace()
    nobody = "20202020-1c25-4d02-bf25-6aeccf7ea419"
    with pytest.raises(WorkspaceError):
        workspace.set_expiry(nobody, datetime(2032, 1, 1, tzinfo=UTC))
    if dialect is not Dialect.LEGACY:
        with pytest.raises(WorkspaceError):
            workspace.assign_role(nobody, nobody)


@pytest.mark.parametrize("said", [(500, "{}"), (200, "{}"), (200, '{"data":{}}'), None])
@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_change_that_is_not_known_to_be_made_is_an_error(
    scripted, answer, to, generation, said
) -> None:
    """No success without the server's word."""
    key = "20202020-1c25-4d02-bf25-6aeccf7ea419"
    server = scripted(*[answer(*said) if said else None] * 8)
    with pytest.raises(WorkspaceError):
        to(server.url, generation).set_expiry(key, datetime(2032, 1, 1, tzinfo=UTC))
    if generation == "core":
        with pytest.raises(WorkspaceError):
            to(server.url, generation).assign_role(key, key)
