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
from sandbox_control import API_KEYS_FLAG, Dialect, Response, json_answer, nginx_busy, signs_in

from provisioner.errors.exceptions import RefusedError, WorkspaceError
from provisioner.model.environment import ApiToken, Environment, SessionToken, SignIn
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.model.workspace import Created, NewKey, NotCreated, NotSent, Unknown
from provisioner.runtime.cancellation import Cancellation
from provisioner.secret import Secret
from provisioner.twenty import connect as connect_module
from provisioner.twenty.dispatch import batch_size, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_control import Exchange, Request

    from provisioner.errors.failure import Failure
    from provisioner.model.environment import Credential
    from provisioner.model.workspace import Outcome, Workspace

CORES = [Dialect.CORE_1, Dialect.CORE, Dialect.CORE_NEWEST]
END = "2031-01-01T00:00:00.417Z"


def new(name: str, depth: int = 1, **fields: object) -> NewKey:
    number = abs(hash((name, depth)))
    defaults: dict[str, object] = {
        "id": f"{number % 16**8:08x}-0000-4000-8000-{number % 16**12:012x}",
        "name": name,
        "expires_at": END,
        "depth": depth,
    }
    return NewKey(**(defaults | fields))  # type: ignore[arg-type]


@pytest.fixture
def connect(hurried) -> Iterator[Callable[..., Workspace]]:
    """Open workspaces with short waits, and close them with the test."""
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
    """Open the workspace of a scripted server."""

    def open_(
        url: str, generation: Any, stop: Cancellation | None = None, **limits: Any
    ) -> Workspace:
        environment = environment_with(url=url, generation=generation, limits=limits_with(**limits))
        return connect(environment, url, ApiToken(Secret("t")), stop)

    return open_


class Outcomes:
    """Observer that keeps the outcomes, and receives each of them once.

    Args:
        on_progress: called for each key.
    """

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self.sent: list[str] = []
        self.by_id: dict[str, Outcome] = {}
        self._on_progress = on_progress

    def on_send(self, key: NewKey) -> None:
        assert key.id not in self.by_id
        self.sent.append(key.name)

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        assert key.id not in self.by_id
        self.by_id[key.id] = outcome
        self._on_progress(1)


def create(
    workspace: Workspace, keys: list[NewKey], on_progress: Callable[[int], None] | None = None
) -> list[Outcome]:
    outcomes = Outcomes(on_progress or ignore)
    workspace.create_many(keys, outcomes)
    return [outcomes.by_id[key.id] for key in keys]


def ignore(_: int) -> None:
    """Ignore the progress."""


def failure(outcome: Outcome) -> Failure:
    """Return why a key is not known to be created."""
    assert not isinstance(outcome, Created)
    return outcome.cause if isinstance(outcome, Unknown) else outcome.failure


def sizes(journal: list[Exchange]) -> list[int]:
    """Return how many keys each create of core requested, in the order of the requests."""
    ordered = sorted(journal, key=lambda one: one.started)
    counts = [one.body.count(b":createApiKey(") for one in ordered]
    return [count for count in counts if count]


@pytest.mark.parametrize("count", [0, 1, 60, 61, 1000, 1001, 2325])
@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.large
def test_every_key_is_listed_whatever_the_page_size(serve, dialect: Dialect, count: int) -> None:
    """Pages of 1000 on legacy, one list on core: every key once, and no page too many."""
    served = serve(dialect)
    served.sandbox.seed(f"key-{n}" for n in range(count))
    observed = served.workspace().observe()
    assert sorted(key.name for key in observed.keys) == sorted(f"key-{n}" for n in range(count))
    assert len({key.id for key in observed.keys}) == count
    pages = max(1, -(-count // 1000)) if dialect is Dialect.LEGACY else 2
    assert len(served.journal) == observed.requests == pages
    assert observed.workspace == served.sandbox.workspace_id
    assert not served.writes()


@pytest.mark.parametrize(
    ("dialect", "generation", "roles"),
    [(Dialect.LEGACY, "legacy", NoRoles), (Dialect.CORE_1, "core", KnownRoles)]
    + [(Dialect.CORE, "core", KnownRoles), (Dialect.CORE_NEWEST, "core", KnownRoles)],
)
@pytest.mark.parametrize("declared", [True, False])
def test_the_generation_is_detected_by_at_most_one_read(
    serve, dialect: Dialect, generation: str, roles: type, declared: bool
) -> None:
    """Detection costs nothing on legacy, one read on core, and nothing if it is declared."""
    served = serve(dialect)
    workspace = served.workspace(generation=generation if declared else None)
    observed = workspace.observe()
    assert workspace.generation == observed.generation == generation
    assert isinstance(observed.roles, roles)
    detecting = 0 if declared or generation == "legacy" else 1
    assert len(served.journal) == 1 + detecting
    assert workspace.observe().keys == observed.keys


def test_revoked_keys_are_listed_on_legacy_with_their_dates(serve) -> None:
    """Legacy lists its revoked keys on request, with all their dates."""
    served = serve(Dialect.LEGACY)
    served.sandbox.seed(["gone"], revoked_at="2026-01-01T00:00:00.000Z")
    served.sandbox.seed(["live"])
    [key] = served.workspace().revoked_keys()
    assert key.name == "gone"
    assert key.revoked_at is not None
    assert key.expires_at.year == 2031


@pytest.mark.parametrize("dialect", Dialect)
def test_a_list_does_not_grow_with_revoked_keys(serve, dialect: Dialect) -> None:
    """The rows that a workspace keeps of revoked keys cost no request and no place in the list."""
    served = serve(dialect)
    served.sandbox.seed(["gone"] * 2500, revoked_at="2026-01-01T00:00:00.000Z")
    served.sandbox.seed(f"key-{n}" for n in range(200))
    observed = served.workspace().observe()
    assert {key.name for key in observed.keys} == {f"key-{n}" for n in range(200)}
    assert len(served.journal) == (1 if dialect is Dialect.LEGACY else 2)


def test_a_legacy_server_with_shorter_pages_is_read_to_the_end(serve) -> None:
    """A server that caps the size of a page says that more follow."""

    def capped(request: Request, answer: Callable[[Request], Response]) -> Response:
        return answer(replace(request, query=request.query | {"limit": "60"}))

    served = serve(Dialect.LEGACY, around=capped)
    served.sandbox.seed(f"key-{n}" for n in range(121))
    assert len({key.name for key in served.workspace().observe().keys}) == 121
    assert len(served.journal) == 3


def test_roles_are_read_with_the_keys_and_never_inside_the_list(serve) -> None:
    """A key whose role is not stored yet does not make the list fail."""
    served = serve(Dialect.CORE)
    served.sandbox.seed(["whole"], role="Admin")
    served.sandbox.seed(["half"], role=None)
    observed = served.workspace().observe()
    assert {key.name: key.role for key in observed.keys} == {"whole": "Admin", "half": None}
    assert isinstance(observed.roles, KnownRoles)
    assignable = {role.label for role in observed.roles.roles if role.assignable}
    assert "Admin" in assignable
    assert "Member" not in assignable


@pytest.mark.parametrize("dialect", [Dialect.CORE_NEWEST, Dialect.CORE])
def test_without_the_permission_for_roles_only_keys_are_listed(
    serve, dialect: Dialect, connect
) -> None:
    """All keys are listed, bare or in pages of 200, and the roles are reported as hidden."""

    def without_roles_of_keys(request, answer):
        if b"getApiKeyRoles" not in request.body:
            return answer(request)
        return json_answer(200, {"errors": [{"message": 'Cannot query field "getApiKeyRoles"'}]})

    served = serve(dialect, around=without_roles_of_keys)
    served.sandbox.seed(f"key-{n}" for n in range(450))
    served.sandbox.permit("Member", API_KEYS_FLAG)
    token = SessionToken(Secret(served.sandbox.session_token("member")))
    workspace = connect(served.environment(), served.sandbox.url, token)
    served.stack.callback(workspace.close)
    observed = workspace.observe()
    assert len(observed.keys) == 450
    assert observed.roles == HiddenRoles()
    assert all(key.role is None for key in observed.keys)


@pytest.mark.parametrize("parallel", [1, 4])
def test_legacy_creates_in_batches_of_one_depth(serve, parallel: int) -> None:
    """20, 57 and 60 keys of depth 0, 1 and 2 are exactly three POSTs, each with its depth."""
    served = serve(Dialect.LEGACY)
    workspace = served.workspace(limits=limits_with(parallel=parallel))
    counts = {0: 20, 1: 57, 2: 60}
    keys = [new(f"k-{depth}-{n}", depth) for depth in counts for n in range(counts[depth])]
    progress: list[int] = []
    outcomes = create(workspace, keys, progress.append)
    assert [outcome.id for outcome in outcomes if isinstance(outcome, Created)] == [
        key.id for key in keys
    ]
    posts = {one.path: len(json.loads(one.body)) for one in served.writes()}
    assert posts == {f"/rest/batch/apiKeys?depth={depth}": n for depth, n in counts.items()}
    assert sum(progress) == 137
    made = served.sandbox.keys()
    assert {key.expires_at for key in made} == {END}


def test_a_batch_is_never_larger_than_the_limit(serve) -> None:
    """`limits.batch` splits the keys into several requests."""
    served = serve(Dialect.LEGACY)
    workspace = served.workspace(limits=limits_with(batch=25))
    create(workspace, [new(f"k{n}") for n in range(61)])
    assert sorted(len(json.loads(one.body)) for one in served.writes()) == [11, 25, 25]


def test_a_bad_record_of_a_batch_is_isolated(serve) -> None:
    """A definite 400 splits the batch until only the bad record fails."""
    served = serve(Dialect.LEGACY)
    keys = [new(f"k{n}") for n in range(9)]
    keys[4] = new("bad", expires_at="not-a-date")
    outcomes = create(served.workspace(), keys)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Created] * 4 + [NotCreated] + [Created] * 4
    assert isinstance(bad := outcomes[4], NotCreated)
    assert bad.failure.code == "rejected"
    assert "not-a-date" in bad.failure.text
    assert len(served.sandbox.keys()) == 8


def test_an_id_that_already_exists_is_an_unknown_outcome(serve) -> None:
    """`Record already exists` may come from an earlier try of this create: it is no refusal."""
    served = serve(Dialect.LEGACY)
    workspace = served.workspace()
    create(workspace, [new("a")])
    [again] = create(workspace, [new("a")])
    assert isinstance(again, Unknown)
    assert again.reason == "taken"
    assert "Record already exists" in again.cause.text


@pytest.mark.parametrize("kind", ["session", "token", "sign-in"])
@pytest.mark.parametrize("dialect", CORES)
def test_core_creates_keys_with_their_roles(serve, dialect, kind) -> None:
    """Depth 0 is the key, 1 adds its role, 2 the role's flags and its permissions."""
    served = serve(dialect)
    workspace = served.workspace(kind)
    role = served.sandbox.role("Integrations").id
    keys = [new(f"k{depth}", depth, role_id=role) for depth in (0, 1, 2)]
    outcomes = create(workspace, keys)
    if dialect.needs_session_to_write and kind == "token":
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
    """Requests of any kind share the environment's slots during the whole run."""
    served = serve(Dialect.CORE, create_seconds=0.01)
    workspace = served.workspace(limits=limits_with(parallel=parallel))
    workspace.observe()
    role = served.sandbox.role("Admin").id
    create(workspace, [new(f"k{n}", 2, role_id=role) for n in range(24)])
    assert served.most_in_flight() <= parallel
    assert served.most_in_flight() > 1 or parallel == 1
    assert sizes(served.writes()) == [2] + [1] * 24


def test_a_key_that_is_created_revoked_is_sent_as_declared(serve) -> None:
    """`revokedAt` and `roleId` reach the server if its generation has them."""
    for dialect in Dialect:
        served = serve(dialect)
        role = None if dialect is Dialect.LEGACY else served.sandbox.role("Admin").id
        key = new("dead", revoked_at="2020-01-01T00:00:00Z", role_id=role)
        [outcome] = create(served.workspace(), [key])
        assert isinstance(outcome, Created)
        assert outcome.record["revokedAt"] == "2020-01-01T00:00:00.000Z"


def test_a_role_that_the_server_does_not_know_is_an_unknown_outcome(serve) -> None:
    """On 1.x and 2.x the error may come after the key was stored."""
    for dialect in CORES:
        served = serve(dialect)
        key = new("a", role_id="99999999-9999-4999-8999-999999999999")
        [outcome] = create(served.workspace(), [key])
        assert isinstance(outcome, Unknown)
        assert outcome.reason == "refused"
        bad = new("b", role_id="zzz")
        [outcome] = create(served.workspace(), [bad])
        assert isinstance(outcome, NotCreated)


def test_a_session_that_expires_during_a_run_is_renewed_once(serve, monkeypatch) -> None:
    """Refused requests are sent again with the new session, and only one thread signs in."""
    served = serve(Dialect.CORE)
    workspace = served.workspace("sign-in")
    workspace.observe()
    # From here on the server considers the client's token expired.
    stale = served.sandbox.session_token(seconds=-5)
    session = workspace._client._credential
    session._token = Secret(stale)
    session._renew_at = float("inf")
    before = len(served.journal)
    role = served.sandbox.role("Admin").id
    outcomes = create(workspace, [new(f"k{n}", role_id=role) for n in range(12)])
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    after = served.journal[before:]
    assert sum(b"renewToken" in one.body for one in after) == 1
    assert not any(b"getLoginToken" in one.body for one in after)
    assert len(served.sandbox.keys()) == 12


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_signing_in_never_deadlocks_with_the_slots(serve, parallel: int) -> None:
    """At the start, and when the session expires under many threads, with any number of slots."""
    served = serve(Dialect.CORE, create_seconds=0.005, session_seconds=2.0)
    workspace = served.workspace("sign-in", limits=limits_with(parallel=parallel))
    role = served.sandbox.role("Admin").id
    session = workspace._client._credential
    calls: list[int] = []

    def expire(count: int) -> None:
        calls.append(count)
        if len(calls) % 5 == 0:
            session._renew_at = 0.0

    with ThreadPoolExecutor(1) as pool:
        keys = [new(f"k{n}", role_id=role) for n in range(30)]
        outcomes = pool.submit(create, workspace, keys, expire).result(timeout=30)
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    assert sum(b"renewToken" in one.body for one in served.journal) > 3
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
def test_the_answer_to_a_sign_in_is_never_quoted(scripted, answer, echo, connect) -> None:
    """Servers and proxies echo what they received, such as the email, password and tokens."""
    server = scripted(*[answer(*echo)] * 4)
    credential = SignIn(Secret("canary@example.com"), Secret("canary-password"))
    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, credential)
    assert "canary" not in f"{caught.value.message} {caught.value.remedy}"


def test_secrets_that_a_server_echoes_are_masked(scripted, answer, connect) -> None:
    """The token, headers, and anything like a token, in errors, bodies and redirects."""
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
def test_a_create_whose_answer_has_data_is_never_repeated(scripted, answer, body, connect) -> None:
    """Errors next to data do not undo the create: one request, and an unknown outcome."""
    body = '{"data":{"k0":{"id":"1","name":"a"}},"errors":[' + body + "]}"
    server = scripted(answer(200, body), answer(200, body))
    environment = environment_with(url=server.url, generation="core")
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    [outcome] = create(workspace, [new("a", role_id="r")])
    assert isinstance(outcome, Unknown)
    assert len(server.requests) == 1


def test_a_wait_that_is_too_long_fails_all_keys_at_once(scripted, answer, connect) -> None:
    """Keys do not each wait for a Retry-After of an hour: one request, and the rest fails."""
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
def test_an_answer_about_another_key_proves_nothing(scripted, answer, to, entries, kinds) -> None:
    """Each created record must have the key's name, and an id counts for one key only."""
    server = scripted(answer(200, '{"data":{' + entries + "}}"))
    outcomes = create(to(server.url, "core"), [new("a", role_id="r"), new("b", role_id="r")])
    assert [type(one) for one in outcomes] == kinds
    assert {one.reason for one in outcomes if isinstance(one, Unknown)} == {"lost"}
    assert len(server.requests) == 1


def test_one_id_in_two_answers_proves_one_key(scripted, answer, to) -> None:
    """A server that returns the same id for two requests has created one key at most."""
    refused = answer(200, '{"errors":[{"message":"Duplicate root resolver"}]}')
    one = '{"data":{"k0":{"id":"1","name":"a"}}}'
    server = scripted(refused, answer(200, one), answer(200, one.replace('"a"', '"b"')))
    keys = [new("a", role_id="r"), new("b", role_id="r")]
    assert [type(one) for one in create(to(server.url, "core", parallel=1), keys)] == [
        Created,
        Unknown,
    ]


def test_a_refusal_of_the_whole_request_is_not_split(scripted, answer, connect) -> None:
    """An error that is the same for every record is not tried again for each half."""
    said = '{"statusCode":400,"messages":["object \'apiKeys\' not found. eg: companies"]}'
    server = scripted(*[answer(400, said)] * 9)
    environment = environment_with(url=server.url, generation="legacy")
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    outcomes = create(workspace, [new(f"k{n}") for n in range(8)])
    assert {type(one) for one in outcomes} == {NotCreated}
    assert len(server.requests) == 1


def test_a_wrongly_declared_generation_is_found_before_anything_is_written(serve) -> None:
    """`legacy` for a core server, and `core` for a legacy one."""
    with pytest.raises(WorkspaceError) as caught:
        serve(Dialect.CORE).workspace(generation="legacy").observe()
    assert "generation: core" in caught.value.remedy
    with pytest.raises(WorkspaceError):
        serve(Dialect.LEGACY).workspace(generation="core").observe()


@pytest.mark.parametrize(
    ("claims", "own"), [({}, True), ({"type": "API_KEY"}, True), ({"type": "ACCESS"}, False)]
)
def test_a_token_without_a_type_counts_as_a_token_of_a_key(
    scripted, answer, connect, claims, own
) -> None:
    """Old tokens of keys have neither a type nor a workspace; their keys are never revoked."""
    payload = json.dumps({"sub": "w", "jti": "11111111-1111-4111-8111-111111111111"} | claims)
    part = base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
    page = {"data": {"apiKeys": []}, "pageInfo": {"hasNextPage": False}, "totalCount": 0}
    server = scripted(answer(200, json.dumps(page)))
    environment = environment_with(url=server.url)
    token = ApiToken(Secret(f"eyJhbGciOiJIUzI1NiJ9.{part}.{'s' * 43}"))
    found = connect(environment, server.url, token).observe().own_key
    assert found == ("11111111-1111-4111-8111-111111111111" if own else None)


def test_slow_pages_do_not_change_the_clock_difference(
    scripted, answer, connect, monkeypatch
) -> None:
    """The clocks are compared when an answer comes, not when all have come."""
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
    assert found.server_ahead is not None
    assert abs(found.server_ahead) < timedelta(seconds=2)


def test_a_page_of_core_is_not_mistaken_for_legacy(scripted, answer, connect) -> None:
    """The page of about 2.4x resembles a page of legacy."""
    page = {"data": [], "pageInfo": {"hasNextPage": False}, "totalCount": 0}
    server = scripted(answer(200, json.dumps(page)))
    environment = environment_with(url=server.url, generation="legacy")
    with pytest.raises(WorkspaceError) as caught:
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert "generation: core" in caught.value.remedy


def test_a_key_that_expires_in_the_far_future_can_be_listed(scripted, answer, connect) -> None:
    """JavaScript writes years from 10 000 on with a plus sign; the key is simply live."""
    far = (KEY % 1).replace("2031-01-01", "+010000-01-01")
    server = scripted(answer(200, PAGE % (far, "false", "null")))
    environment = environment_with(url=server.url)
    [key] = connect(environment, server.url, ApiToken(Secret("t"))).observe().keys
    assert key.expires_at.year == 9999


def test_the_error_for_an_incomplete_key_names_it(scripted, answer, connect) -> None:
    """The message says which of thousands of keys cannot be read."""
    bad = (KEY % "the-id").replace("2031-01-01", "soon")
    server = scripted(answer(200, PAGE % (bad, "false", "null")))
    environment = environment_with(url=server.url)
    with pytest.raises(WorkspaceError) as caught:
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert "the-id" in caught.value.message


def test_the_status_of_a_core_list_counts_too(scripted, answer, connect) -> None:
    """A 500 with a list in it is not a list; a key listed twice is one key."""
    body = '{"data":{"apiKeys":[%s],"getRoles":[]}}'
    server = scripted(*[answer(500, body % "")] * 4)
    environment = environment_with(url=server.url, generation="core")
    with pytest.raises(WorkspaceError):
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    again = scripted(answer(200, body % f"{KEY % 1},{KEY % 1}"))
    environment = environment_with(url=again.url, generation="core")
    assert len(connect(environment, again.url, ApiToken(Secret("t"))).observe().keys) == 1


def test_a_session_that_is_about_to_expire_is_renewed_before_it_is_used(serve) -> None:
    """A token that is about to expire is not sent at all."""
    served = serve(Dialect.CORE, session_seconds=2.0)
    workspace = served.workspace("sign-in")
    workspace.observe()
    before = len(served.journal)
    workspace._client._credential._renew_at = 0.0
    workspace.observe()
    after = [one for one in served.journal[before:] if signs_in(one.body)]
    assert [b"renewToken" in one.body for one in after] == [True]


@pytest.mark.parametrize("dialect", Dialect)
def test_signing_in_works_on_every_generation(serve, dialect) -> None:
    """Each generation's endpoint and token field is found."""
    served = serve(dialect)
    assert served.workspace("sign-in").observe().workspace == served.sandbox.workspace_id


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("wrong", ["password", "email"])
def test_a_refused_sign_in_names_neither_email_nor_password(serve, dialect, wrong, connect) -> None:
    """The email is as secret as the password; the remedy names where both come from."""
    served = serve(dialect)
    email = "canary@example.com" if wrong == "email" else served.sandbox.email
    credential = SignIn(Secret(email), Secret("canary-password"))
    with pytest.raises(WorkspaceError) as caught:
        connect(served.environment(), served.sandbox.url, credential).observe()
    assert caught.value.code == "sign_in_failed"
    shown = f"{caught.value.message} {caught.value.remedy}"
    assert "canary" not in shown
    assert email not in shown


def test_a_refused_sign_in_is_not_repeated_for_every_key(serve, connect) -> None:
    """The remaining keys do not lock out a user whose password was changed during the run."""
    served = serve(Dialect.CORE)
    credential = SignIn(Secret(served.sandbox.email), Secret(served.sandbox.password))
    workspace = connect(served.environment(), served.sandbox.url, credential)
    workspace.observe()
    user = served.sandbox.user()
    served.sandbox.put_user(replace(user, password="another"))
    served.sandbox.revoke_signing_key()
    role = served.sandbox.role("Admin").id
    outcomes = create(workspace, [new(f"k{n}", role_id=role) for n in range(50)])
    assert {one.failure.code for one in outcomes if isinstance(one, NotCreated)} == {
        "sign_in_failed"
    }
    assert len(outcomes) == 50
    assert sum(b"getLoginToken" in one.body for one in served.journal) == 2


def test_a_credential_that_may_not_write_is_not_used_for_every_key(serve, connect) -> None:
    """Keys in flight are refused, and the rest fails the same way without being sent."""
    served = serve(Dialect.CORE)
    credential = ApiToken(Secret(served.sandbox.api_token()))
    workspace = connect(served.environment(), served.sandbox.url, credential)
    role = served.sandbox.role("Admin").id
    outcomes = create(workspace, [new(f"k{n}", role_id=role) for n in range(50)])
    assert {type(one) for one in outcomes} == {NotCreated}
    assert {one.failure.code for one in outcomes} == {"session_required"}
    assert len(served.journal) < 10


def test_the_error_for_a_forbidden_sign_in_suggests_a_session_token(
    scripted, answer, connect
) -> None:
    """Single sign-on, a second factor or a captcha require another credential."""
    server = scripted(answer(200, '{"errors":[{"message":"Captcha is not valid"}],"data":null}'))
    credential = SignIn(Secret("a@b.c"), Secret("p"))
    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, credential)
    assert caught.value.code == "sign_in_failed"
    assert "session_token" in caught.value.remedy


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ((200, "<html>"), "unexpected_answer"),
        ((200, '{"data":{"getLoginTokenFromCredentials":{}}}'), "unexpected_answer"),
        ((502, "<html>"), "server_error"),
    ],
)
def test_an_incomplete_answer_to_a_sign_in_is_an_error(
    scripted, answer, reply, code, connect
) -> None:
    """Incomplete and foreign answers to the sign-in have their own error codes."""
    server = scripted(*[answer(*reply)] * 4)
    credential = SignIn(Secret("a@b.c"), Secret("p"))
    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, credential)
    assert caught.value.code == code


def test_a_lost_answer_to_a_sign_in_is_an_error_of_the_workspace(scripted, connect) -> None:
    """After four sign-ins without an answer the environment cannot be used."""
    server = scripted(*[None] * 4)
    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, SignIn(Secret("a"), Secret("p")))
    assert caught.value.code == "connection_lost"


def test_a_session_without_dates_is_used_until_it_is_refused(scripted, answer, connect) -> None:
    """A proxy that removes `Date`, or an invalid expiry, does not prevent the sign-in."""
    login = '{"data":{"getLoginTokenFromCredentials":{"loginToken":{"token":"eyJs.b.c"}}}}'
    field = "accessOrWorkspaceAgnosticToken"
    tokens = '{"data":{"getAuthTokensFromLoginToken":{"tokens":{"%s":{"token":"eyJs.e.s"%s}}}}}'
    for expiry in ("", ',"expiresAt":"2031-01-01T00:00:00Z"'):
        server = scripted(
            answer(200, login), answer(200, tokens % (field, expiry)), answer(200, "[]")
        )
        workspace = connect(
            environment_with(url=server.url), server.url, SignIn(Secret("a"), Secret("p"))
        )
        assert workspace.generation == "core"
        assert b"Bearer eyJs.e.s\r\n" in server.requests[2]
        workspace.close()


def test_the_workspace_pin_is_compared_with_the_credential(serve, connect) -> None:
    """Another workspace, or an unknown one, is refused before any other request."""
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
def test_the_error_for_a_bad_credential_says_what_to_do(serve, dialect, connect) -> None:
    """Invalid, expired and revoked tokens have different errors in every generation."""
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


def test_a_credential_without_the_permission_is_refused(serve, connect) -> None:
    """400 with PERMISSION_DENIED at the detecting read means core, without the permission."""
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
        ([(PAGE % (KEY % 1, "false", "null")).replace(":1}", ":2}")] * 5, "unexpected_answer"),
        ([PAGE % ((KEY % 1).replace("2031", "never"), "false", "null")], "unexpected_answer"),
    ],
)
def test_an_incomplete_list_is_an_error_and_never_a_shorter_list(
    scripted, answer, bodies, code, connect
) -> None:
    """A list that is cut, foreign or circular must not look like a workspace with fewer keys.

    A page that is not JSON is requested four times before it is an error, and a list that ends
    before its `totalCount` is read five times.
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
def test_an_incomplete_core_list_is_an_error(scripted, answer, to, body) -> None:
    """As on legacy: an incomplete answer is not a list."""
    server = scripted(*[answer(200, body)] * 4)
    with pytest.raises(WorkspaceError) as caught:
        to(server.url, "core").observe()
    assert caught.value.code in ("unexpected_answer", "rejected")


BAD_INPUT = '{"errors":[{"message":"x","extensions":{"code":"BAD_USER_INPUT"}}]}'


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
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
def test_the_outcome_of_a_core_create_is_never_guessed(
    scripted, answer, to, reply, kind, code
) -> None:
    """Only a key that the server certainly refused counts as not created; nothing is sent twice."""
    server = scripted(answer(*reply))
    [outcome] = create(to(server.url, "core"), [new("a", role_id="r")])
    assert (outcome.reason if isinstance(outcome, Unknown) else type(outcome)) == kind
    assert failure(outcome).code == code
    assert len(server.requests) == 1


NULL = '{"data":{"createApiKeys":[null,{"id":"%s"}]}}'


@pytest.mark.parametrize(
    ("reply", "kinds"),
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
def test_each_key_of_a_legacy_batch_has_its_own_outcome(scripted, answer, to, reply, kinds) -> None:
    """A key in the answer is created; without it, or if its id is taken, the outcome is unknown."""
    keys = [new("a"), new("b")]
    status, body = reply
    server = scripted(answer(status, body.replace("%s", keys[1].id)))
    outcomes = create(to(server.url, "legacy"), keys)
    found = [one.reason if isinstance(one, Unknown) else type(one) for one in outcomes]
    assert found == kinds
    assert len(server.requests) == 1


@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_create_whose_answer_is_lost_is_unknown_and_not_repeated(
    scripted, to, generation
) -> None:
    """A connection that breaks after the request leaves one request and an unknown outcome."""
    server = scripted(None)
    [outcome] = create(to(server.url, generation), [new("a", role_id="r")])
    assert isinstance(outcome, Unknown)
    assert (outcome.reason, outcome.cause.code) == ("lost", "connection_lost")
    assert len(server.requests) == 1


@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_nothing_is_sent_to_a_server_that_is_gone(to, generation) -> None:
    """Without a connection nothing was sent, and the rest of the keys is not tried."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workspace = to(f"http://127.0.0.1:{port}", generation, parallel=1, batch=1)
    outcomes = create(workspace, [new(f"k{n}", role_id="r") for n in range(9)])
    assert {type(one) for one in outcomes} == {NotSent}
    assert {failure(one).code for one in outcomes} == {"unreachable"}
    assert workspace._client.transport.requests_sent == 1


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ((200, "<html>"), NotCreated),
        ((200, '{"data":{}}'), NotCreated),
        ((403, "{}"), NotCreated),
        ((500, "{}"), NotSent),
        (None, NotSent),
    ],
)
def test_depth_2_creates_nothing_if_the_permissions_cannot_be_read(
    scripted, answer, to, reply, kind
) -> None:
    """The permissions are read before the first create; without them those keys are not sent."""
    entry = answer(*reply) if reply else None
    server = scripted(*[entry] * 4)
    [outcome] = create(to(server.url, "core"), [new("a", 2, role_id="r")])
    assert type(outcome) is kind
    assert not any(b"createApiKey" in request for request in server.requests)


def test_one_workspace_serves_many_threads(serve) -> None:
    """Observations and creates at the same time share one session and lose nothing."""
    served = serve(Dialect.CORE)
    workspace = served.workspace("sign-in")
    role = served.sandbox.role("Admin").id
    ready = threading.Barrier(6)

    def work(number: int) -> int:
        ready.wait(5)
        outcomes = create(
            workspace, [new(f"k{number}-{n}", role_id=role) for n in range(5)], ignore
        )
        return sum(isinstance(one, Created) for one in outcomes)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) == 30
    assert len(workspace.observe().keys) == 30
    assert sum(b"getLoginToken" in one.body for one in served.journal) == 1


# Documents of several creates


def creates_of(*counts: int) -> Callable[[Request], bool]:
    """Return a filter for requests that create so many keys of core."""
    return lambda request: request.body.count(b":createApiKey(") in counts


def first_time(
    matches: Callable[[Request], bool], respond: Callable[..., Response], times: int = 1
) -> Callable[..., Response]:
    """Return a front of a server that answers the first requests of a kind with `respond`."""
    remaining = iter(range(times))
    lock = threading.Lock()

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        with lock:
            is_first = matches(request) and next(remaining, None) is not None
        return respond(request, inner) if is_first else inner(request)

    return around


def lose_request(_: Request, __: Callable[[Request], Response]) -> Response:
    raise ConnectionError


def lose_answer(request: Request, inner: Callable[[Request], Response]) -> Response:
    inner(request)
    raise ConnectionError


def core_keys(served: Any, count: int, **fields: object) -> list[NewKey]:
    role = served.sandbox.role("Admin").id
    return [new(f"k{number}", role_id=role, **fields) for number in range(count)]


@pytest.mark.large
def test_fifty_thousand_keys_of_core_are_listed(scripted, answer, to) -> None:
    """Core lists all keys in one answer, which may be larger than any other answer."""
    ids = [f"20202020-1c25-4d02-bf25-{number:012d}" for number in range(50_000)]
    timestamp = "2026-01-01T00:00:00.000Z"
    common = {"expiresAt": "2036-01-01T00:00:00.000Z", "revokedAt": None}
    common |= {"createdAt": timestamp, "updatedAt": timestamp}
    keys = [{"id": id_, "name": f"service {id_} of a large fleet"} | common for id_ in ids]
    role = {"id": "r", "label": "Admin", "canBeAssignedToApiKeys": True}
    role["apiKeys"] = [{"id": id_} for id_ in ids]
    body = json.dumps({"data": {"apiKeys": keys, "getRoles": [role]}})
    assert len(body) > 12 << 20
    observed = to(scripted(answer(200, body)).url, "core").observe()
    assert len(observed.keys) == 50_000
    assert {key.role for key in observed.keys} == {"Admin"}


CLOUD = b"<!DOCTYPE html><html><head><title>429</title></head><body>Too many canary</body></html>"


@pytest.mark.parametrize(("status", "page"), [(503, nginx_busy().body), (429, CLOUD)])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_rate_limit_in_front_of_twenty_neither_loses_nor_repeats_a_create(
    serve, caplog, dialect, status, page
) -> None:
    """A proxy refuses every third request: every thread pauses once, then all go on."""
    refused: list[Request] = []
    lock = threading.Lock()
    numbers = iter(range(10_000))

    def limit(request: Request, inner: Callable[[Request], Response]) -> Response:
        with lock:
            over = request.method == "POST" and next(numbers) % 3 == 1
            if over:
                refused.append(request)
        return Response(status, page, (("Content-Type", "text/html"),)) if over else inner(request)

    served = serve(dialect, around=limit)
    workspace = served.workspace(limits=limits_with(parallel=4, batch=3))
    outcomes = create(workspace, new_keys(served, dialect, 24))
    assert [type(one) for one in outcomes] == [Created] * 24
    assert len(served.sandbox.keys()) == 24
    assert refused
    assert sum("slow down" in one.message for one in caplog.records) >= 1


def new_keys(served: Any, dialect: Dialect, count: int) -> list[NewKey]:
    if dialect is Dialect.LEGACY:
        return [new(f"k{number}") for number in range(count)]
    return core_keys(served, count)


def test_a_503_of_an_unknown_server_leaves_the_outcome_unknown(scripted, answer, to) -> None:
    """It may come from a proxy whose server still handled the create, so it is not repeated."""
    server = scripted(answer(503, "<html>busy canary"), answer(503, ""))
    workspace = to(server.url, "core")
    [outcome] = create(workspace, [new("a", role_id="r")])
    assert isinstance(outcome, Unknown)
    assert "canary" not in failure(outcome).text
    assert len(server.requests) == 1
    assert workspace._client.transport._rate_limit._gate.name == "PAUSED"


@pytest.mark.parametrize(
    ("dialect", "max_keys", "count", "requests"),
    [(Dialect.LEGACY, 17, 60, 7), (Dialect.CORE_1, 6, 42, 15), (Dialect.LEGACY, 1, 5, 9)],
)
def test_a_request_that_is_too_large_is_sent_in_halves(
    serve, caplog, dialect, max_keys, count, requests
) -> None:
    """Requests shrink to what the proxy accepts, and one warning says so, without its HTML page."""

    def limit(request: Request, inner: Callable[[Request], Response]) -> Response:
        keys = request.body.count(b'"name"')
        page = b"<html><h1>413 canary</h1></html>"
        return (
            Response(413, page, (("Content-Type", "text/html"),))
            if keys > max_keys
            else inner(request)
        )

    served = serve(dialect, around=limit)
    outcomes = create(
        served.workspace(limits=limits_with(parallel=1)), new_keys(served, dialect, count)
    )
    assert [type(one) for one in outcomes] == [Created] * count
    assert len(served.sandbox.keys()) == count
    assert sum(one.path.startswith(("/rest/batch", "/metadata")) for one in served.writes()) <= (
        requests
    )
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "fewer" in warnings[0]
    assert "canary" not in caplog.text


@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_the_error_for_a_key_that_is_too_large_names_the_limit_to_raise(
    scripted, answer, to, generation
) -> None:
    """The key is certainly not created."""
    server = scripted(answer(413, "<html>canary"))
    [outcome] = create(to(server.url, generation), [new("a", role_id="r")])
    assert isinstance(outcome, NotCreated)
    assert "client_max_body_size" in failure(outcome).text
    assert "canary" not in failure(outcome).message


def test_core_1_accepts_documents_of_20_after_one_of_two(serve) -> None:
    """47 keys of three depths are four requests, each key with the fields of its own depth."""
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


def test_core_2_is_probed_once_and_then_sent_one_key_a_request(serve) -> None:
    """A server that refuses a document of two gets no other, in later creates either."""
    served = serve(Dialect.CORE)
    workspace = served.workspace()
    role = served.sandbox.role("Admin").id
    for round_, count in enumerate((1, 5, 3, 2)):
        served.journal.clear()
        keys = [new(f"k{round_}-{number}", role_id=role) for number in range(count)]
        assert all(isinstance(one, Created) for one in create(workspace, keys))
        assert sizes(served.writes()) == ([2] if round_ == 1 else []) + [1] * count
    assert len(served.sandbox.keys()) == 11


def test_a_server_that_is_upgraded_during_a_run_is_sent_one_key_a_request(serve) -> None:
    """A document that it refuses before running it is sent again, key by key."""
    body: Any = {"errors": [{"message": 'Duplicate root resolver: "createApiKey"'}]}
    around = first_time(creates_of(20), lambda *_: json_answer(200, body))
    served = serve(Dialect.CORE_1, around=around)
    workspace = served.workspace(limits=limits_with(parallel=1))
    outcomes = create(workspace, core_keys(served, 22))
    assert {type(one) for one in outcomes} == {Created}
    assert sizes(served.journal) == [2, 20] + [1] * 20
    served.journal.clear()
    role = served.sandbox.role("Admin").id
    create(workspace, [new(f"later-{number}", role_id=role) for number in range(3)])
    assert sizes(served.journal) == [1] * 3


@pytest.mark.parametrize("lose", [lose_request, lose_answer])
@pytest.mark.parametrize(
    ("dialect", "expected"), [(Dialect.CORE_1, [2, 2, 4]), (Dialect.CORE, [2, 2] + [1] * 6)]
)
def test_a_lost_answer_to_the_document_of_two_shows_nothing(serve, dialect, expected, lose) -> None:
    """Its two keys are unknown, and the next two keys try again."""
    served = serve(dialect, around=first_time(creates_of(2), lose))
    outcomes = create(served.workspace(), core_keys(served, 8))
    assert [type(one) for one in outcomes] == [Unknown] * 2 + [Created] * 6
    assert sizes(served.journal) == expected


def test_a_server_that_loses_every_document_of_two_is_not_probed_forever(serve) -> None:
    """After a few tries the keys are sent singly, and the next create tries again."""
    around = first_time(creates_of(2), lose_request, times=4)
    served = serve(Dialect.CORE_1, around=around)
    workspace = served.workspace()
    outcomes = create(workspace, core_keys(served, 12))
    assert [type(one) for one in outcomes] == [Unknown] * 8 + [Created] * 4
    assert sizes(served.journal) == [2] * 4 + [1] * 4
    served.journal.clear()
    role = served.sandbox.role("Admin").id
    create(workspace, [new(f"later-{number}", role_id=role) for number in range(9)])
    assert sizes(served.journal) == [2, 7]


def test_a_document_that_fails_halfway_is_unknown_and_then_sent_key_by_key(serve) -> None:
    """No key of it is certain; keys that were tried often are sent singly, and only one fails."""
    served = serve(Dialect.CORE_1)
    workspace = served.workspace()
    good = core_keys(served, 5)
    invalid = new("invalid", role_id="99999999-9999-4999-8999-999999999999")
    keys = [*good[:3], invalid, *good[3:]]
    outcomes = create(workspace, keys)
    assert [type(one) for one in outcomes] == [Created] * 2 + [Unknown] * 4
    assert {one.reason for one in outcomes if isinstance(one, Unknown)} == {"refused"}
    created = {key.name for key in served.sandbox.keys()}
    assert created >= {"k0", "k1"}
    assert "invalid" not in created
    served.journal.clear()
    again = [replace(key, name=f"{key.name}-again", tries=4) for key in keys[2:]]
    outcomes = create(workspace, again)
    assert [type(one) for one in outcomes] == [Created, Unknown, Created, Created]
    assert sizes(served.writes()) == [1] * 4


def test_keys_that_need_their_own_request_do_not_probe_the_server(serve) -> None:
    """Keys that were tried often get their own requests, whatever the server accepts."""
    served = serve(Dialect.CORE_1)
    assert len(create(served.workspace(), core_keys(served, 3, tries=4))) == 3
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
def test_requests_have_fewer_keys_after_more_tries(serve, dialect, tries, expected) -> None:
    """A key that always fails makes the others wait for a few rounds only."""
    served = serve(dialect)
    if dialect is Dialect.LEGACY:
        create(served.workspace(), [new(f"k{n}", tries=tries) for n in range(30)])
        assert sorted(len(json.loads(one.body)) for one in served.writes()) == sorted(expected)
    else:
        create(served.workspace(), core_keys(served, 30, tries=tries))
        assert sorted(sizes(served.writes())) == sorted(expected)
    assert len(served.sandbox.keys()) == 30


def test_keys_of_different_tries_do_not_share_a_request(serve) -> None:
    """A key that failed before delays no new one."""
    served = serve(Dialect.LEGACY)
    keys = [new("a"), new("b", tries=1), new("c"), new("d", tries=1)]
    assert all(isinstance(one, Created) for one in create(served.workspace(), keys))
    groups = sorted([key["name"] for key in json.loads(one.body)] for one in served.writes())
    assert groups == [["a", "c"], ["b", "d"]]


@pytest.mark.parametrize("max_size", [1, 7, 20, 60])
def test_batches_shrink_to_one_key_and_lose_none(max_size) -> None:
    """`batch_size` only shrinks, down to one; `split` leaves out no key and keeps the order."""
    batch_sizes = [batch_size(max_size, tries) for tries in range(6)]
    assert batch_sizes[0] == max_size
    assert batch_sizes == sorted(batch_sizes, reverse=True)
    assert batch_sizes[4:] == [1, 1]
    for count in (0, 1, max_size - 1, max_size, max_size + 1, 3 * max_size + 1):
        keys = tuple(new(f"k{n}") for n in range(count))
        groups = list(split(keys, max_size))
        assert tuple(key for group in groups for key in group) == keys
        assert {len(group) for group in groups[:-1]} <= {max_size}
        assert all(1 <= len(group) <= max_size for group in groups)


REFUSALS = {
    "limit": {"message": "Limit reached", "extensions": {"code": "LIMIT_REACHED"}},
    "too-many": {"message": "Too many requests. Try later."},
    "session": {"message": "Token has expired.", "extensions": {"code": "UNAUTHENTICATED"}},
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("execution_began", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_a_document_of_several_that_began_to_run_is_not_repeated(
    serve, refusal, execution_began, count
) -> None:
    """With `data: null` some keys may exist; without `data`, or for one key, nothing was done."""
    body: Any = {"errors": [REFUSALS[refusal]]} | ({"data": None} if execution_began else {})
    front = first_time(creates_of(count), lambda *_: json_answer(200, body))
    served = serve(Dialect.CORE_1, around=front)
    outcomes = create(served.workspace("sign-in"), core_keys(served, count))
    if execution_began and count > 1:
        assert [one.reason for one in outcomes if isinstance(one, Unknown)] == ["refused"] * 2
        assert sizes(served.journal) == [2]
    else:
        assert [type(one) for one in outcomes] == [Created] * count
        assert sizes(served.journal) == [count] * 2
    assert len(served.sandbox.keys()) in (0, count)


# Order of the reports


@pytest.mark.parametrize("dialect", Dialect)
def test_a_key_is_reported_before_it_is_sent(serve, dialect) -> None:
    """A run that is killed or stopped in between knows which keys may exist."""
    outcomes = Outcomes(ignore)
    unreported: list[str] = []

    def check_reported(request: Request, inner: Callable[[Request], Response]) -> Response:
        names = re.findall(rb'"name": ?"(k\d+)"', request.body)
        unreported.extend(name.decode() for name in names if name.decode() not in outcomes.sent)
        return inner(request)

    served = serve(dialect, around=check_reported)
    keys = [new(f"k{n}") for n in range(70)]
    keys = keys if dialect is Dialect.LEGACY else core_keys(served, 30)
    served.workspace().create_many(keys, outcomes)
    assert set(outcomes.sent) == {key.name for key in keys}
    assert unreported == []


@pytest.mark.parametrize("dialect", Dialect)
def test_a_stop_before_a_create_sends_nothing(serve, hurried, dialect) -> None:
    """Nothing new starts; every key is reported as not sent."""
    served = serve(dialect)
    stop = hurried()
    workspace = served.workspace(stop=stop)
    keys = [new("a"), new("b")] if dialect is Dialect.LEGACY else core_keys(served, 2)
    stop.request()
    outcomes = Outcomes(ignore)
    workspace.create_many(keys, outcomes)
    assert {type(one) for one in outcomes.by_id.values()} == {NotSent}
    assert {failure(one).code for one in outcomes.by_id.values()} == {"stopped"}
    assert outcomes.sent == []
    assert not served.writes()


@pytest.mark.parametrize("dialect", Dialect)
def test_a_stop_during_a_create_finishes_only_requests_in_flight(serve, hurried, dialect) -> None:
    """The answer to the request in flight counts; no request follows it."""
    stop = hurried()
    sent: list[int] = []

    def stop_at_third(request: Request, inner: Callable[[Request], Response]) -> Response:
        if is_create(request):
            sent.append(1)
            if len(sent) == 3:
                stop.request()
        return inner(request)

    served = serve(dialect, around=stop_at_third)
    limits = limits_with(parallel=1, batch=2)
    workspace = served.workspace(stop=stop, limits=limits)
    keys = [new(f"k{n}") for n in range(60)]
    keys = keys if dialect is Dialect.LEGACY else core_keys(served, 60)
    outcomes = create(workspace, keys)
    created = [one for one in outcomes if isinstance(one, Created)]
    assert len(created) == len(served.sandbox.keys()) > 0
    assert {failure(one).code for one in outcomes if not isinstance(one, Created)} == {"stopped"}
    assert {type(one) for one in outcomes} == {Created, NotSent}
    assert len(sent) == 3


def is_create(request: Request) -> bool:
    return request.method == "POST" and (
        request.path.startswith("/rest/batch") or b"createApiKey(" in request.body
    )


# Lost answers in a row


@pytest.mark.parametrize("entry", ["closed", "failed", "unreadable"])
@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_server_that_loses_several_answers_in_a_row_is_not_sent_the_rest(
    scripted, answer, to, generation, entry
) -> None:
    """After four lost answers the remaining keys are not sent, and are reported as that."""
    replies = {"closed": None, "failed": answer(500, "{}"), "unreadable": answer(200, "<html>")}
    server = scripted(*[replies[entry]] * 20)
    keys = [new(f"k{n}", role_id="r") for n in range(20)]
    outcomes = create(to(server.url, generation, parallel=1, batch=1), keys)
    keys_a_request = 2 if generation == "core" else 1
    assert [type(one) for one in outcomes] == [Unknown] * 4 * keys_a_request + [NotSent] * (
        20 - 4 * keys_a_request
    )
    assert failure(outcomes[-1]).code == "server_error"
    assert "4 responses in a row" in failure(outcomes[-1]).message
    assert len(server.requests) == 4


def test_more_threads_may_lose_more_answers(scripted, to) -> None:
    """Two for each thread, since one failure of a proxy affects all requests in flight."""
    server = scripted()
    outcomes = create(
        to(server.url, "legacy", parallel=4, batch=1), [new(f"k{n}") for n in range(40)]
    )
    assert 8 <= len(server.requests) <= 11
    unknown = [one for one in outcomes if isinstance(one, Unknown)]
    assert len(unknown) == len(server.requests)
    assert {type(one) for one in outcomes} == {Unknown, NotSent}


def test_an_answer_in_between_restarts_the_count(scripted, answer, to) -> None:
    """A server that answers now and then, even with a refusal, is sent everything."""
    refusal = answer(400, '{"messages":["no"]}')
    server = scripted(*[None, None, None, refusal] * 5)
    outcomes = create(
        to(server.url, "legacy", parallel=1, batch=1), [new(f"k{n}") for n in range(20)]
    )
    assert [type(one) for one in outcomes] == [Unknown, Unknown, Unknown, NotCreated] * 5
    assert len(server.requests) == 20


# Records and revocations


@pytest.mark.parametrize("dialect", Dialect)
def test_a_record_that_is_read_equals_the_one_that_a_create_returns(serve, dialect) -> None:
    """At every depth and in every generation; unknown ids are left out."""
    served = serve(dialect)
    workspace = served.workspace()
    role = None if dialect is Dialect.LEGACY else served.sandbox.role("Integrations").id
    keys = [new(f"k{depth}", depth, role_id=role) for depth in (0, 1, 2)]
    created = {one.id: one.record for one in create(workspace, keys) if isinstance(one, Created)}
    assert len(created) == 3
    fresh = served.workspace()
    fresh.observe()
    served.journal.clear()
    depths = dict(zip(created, (0, 1, 2), strict=True))
    unknown_id = "99999999-9999-4999-8999-999999999999"
    assert fresh.records(depths | {unknown_id: 1}) == created
    assert not served.writes()
    reads = 4 + (dialect is not Dialect.LEGACY)
    assert len(served.journal) == reads
    assert fresh.records(depths) == created
    assert len(served.journal) == reads + 3
    assert fresh.records({}) == {}


@pytest.mark.parametrize("dialect", Dialect)
def test_records_that_cannot_be_read_are_left_out(serve, dialect) -> None:
    """A read that is lost again and again does not affect the others."""
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
    """The key exists, and is shown as far as it can be read."""
    served = serve(Dialect.CORE)
    [key] = served.sandbox.seed(["a"])
    served.sandbox.permit("Member", API_KEYS_FLAG)
    workspace = served.workspace()
    workspace._client._credential = Secret(served.sandbox.session_token("member"))
    [record] = workspace.records({key: 2}).values()
    assert record["name"] == "a"
    assert "permissionFlags" not in record["role"]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("times", [1, 2])
def test_revoking_a_key_twice_is_the_same_as_once(serve, dialect, times) -> None:
    """The key is revoked, its twin stays live; one request in every generation."""
    served = serve(dialect)
    revoked_id, live_id = served.sandbox.seed(["a", "a"])
    workspace = served.workspace()
    workspace.observe()
    for _ in range(times):
        workspace.revoke(revoked_id)
    assert len(served.writes()) == times
    revoked = {key.id: key.revoked_at is not None for key in served.sandbox.keys()}
    assert revoked == {revoked_id: True, live_id: False}
    observed = workspace.observe()
    assert [key.id for key in observed.keys if key.live(observed.server_time)] == [live_id]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("lose", [lose_request, lose_answer])
def test_a_revocation_whose_answer_is_lost_is_repeated(serve, dialect, lose) -> None:
    """Revoking may be repeated, so a broken connection leaves no key live."""

    def revokes(request: Request) -> bool:
        return request.method == "PATCH" or b"revokeApiKey" in request.body

    served = serve(dialect, around=first_time(revokes, lose, times=3))
    [key] = served.sandbox.seed(["a"])
    served.workspace().revoke(key)
    [left] = served.sandbox.keys()
    assert left.revoked_at is not None


@pytest.mark.parametrize("generation", ["legacy", "core"])
@pytest.mark.parametrize("reply", [(500, "{}"), (200, "{}"), (400, '{"messages":["no"]}'), None])
def test_a_revocation_that_is_not_confirmed_is_an_error(
    scripted, answer, to, generation, reply
) -> None:
    """Nothing is a success unless the server says so."""
    server = scripted(*[answer(*reply) if reply else None] * 4)
    with pytest.raises(WorkspaceError):
        to(server.url, generation).revoke("20202020-1c25-4d02-bf25-6aeccf7ea419")


def test_the_error_for_a_refused_revocation_says_why(serve) -> None:
    """On 2.x an API key may not write; the error code says so."""
    served = serve(Dialect.CORE)
    [key] = served.sandbox.seed(["a"])
    with pytest.raises(WorkspaceError) as caught:
        served.workspace("token").revoke(key)
    assert caught.value.code == "session_required"


# Lists that contain a key which is being created


def no_role_yet() -> Response:
    message = "API key 20202020-1c25-4d02-bf25-6aeccf7ea419 has no role assigned"
    return json_answer(200, {"errors": [{"message": message}], "data": None})


def test_a_list_that_contains_a_key_being_created_is_repeated(serve) -> None:
    """`has no role assigned` is a temporary state and not an error."""

    def lists(request: Request) -> bool:
        return b"{apiKeys{" in request.body

    served = serve(Dialect.CORE, around=first_time(lists, lambda *_: no_role_yet(), times=6))
    served.sandbox.seed(["a", "b"])
    observed = served.workspace().observe()
    assert sorted(key.name for key in observed.keys) == ["a", "b"]
    assert sum(is_list(one) for one in served.journal) == 7


def is_list(exchange: Exchange) -> bool:
    return b"{apiKeys{" in exchange.body


def test_a_key_that_never_gets_a_role_is_reported(serve) -> None:
    """A list that keeps failing is repeated a few times, and then its error is shown."""
    served = serve(
        Dialect.CORE,
        around=lambda request, inner: (
            no_role_yet() if b"{apiKeys{" in request.body else inner(request)
        ),
    )
    with pytest.raises(WorkspaceError) as caught:
        served.workspace().observe()
    assert "has no role assigned" in caught.value.message
    assert sum(is_list(one) for one in served.journal) == 11


def test_hidden_roles_are_requested_only_once(serve) -> None:
    """Later observations do not ask again for what the first one was refused."""
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


# GraphQL documents


def documents() -> list[str]:
    from provisioner.twenty import core, core_bulk_create

    keys = tuple(new(f"k{depth}", depth) for depth in (0, 1, 2))
    creates = [core_bulk_create._document(keys[:count])[0] for count in (1, 2, 3)]
    reads = [core._QUERY_ONE % selection for selection in core_bulk_create.SELECTION.values()]
    lists = [core._LIST % (core_bulk_create.KEY, "getRoles"), core._PERMISSIONS]
    return [*creates, *reads, *lists, core._REVOKE, core._RENAME]


@pytest.mark.parametrize("dialect", CORES)
def test_the_documents_are_valid_for_the_schemas_of_the_servers(dialect) -> None:
    """Every document that is sent validates against the schema of 1.10 and of 2.21."""
    from provisioner.sandbox.sdl import METADATA, schema_text

    schema = build_schema(schema_text(dialect, METADATA, anonymous=False))
    for document in documents():
        assert validate(schema, parse(document)) == []
    assert not any(re.search(r"apiKeys\{[^}]*role", document) for document in documents())


# Changes


@pytest.mark.parametrize("dialect", Dialect)
def test_the_expiry_of_a_key_is_set_with_milliseconds(serve, dialect) -> None:
    """The expiry moves later and earlier, and nothing else of the key changes."""
    served = serve(dialect)
    [key] = served.sandbox.seed(["a"])
    before = served.sandbox.keys()[0]
    workspace = served.workspace()
    workspace.observe()
    for expires_at in (
        datetime(2040, 1, 2, 3, 4, 5, 678000, UTC),
        datetime(2032, 1, 1, tzinfo=UTC),
    ):
        workspace.set_expiry(key, expires_at)
        [found] = workspace.observe().keys
        assert found.expires_at == expires_at
    after = served.sandbox.keys()[0]
    assert replace(after, expires_at=before.expires_at, updated_at=before.updated_at) == before


@pytest.mark.parametrize("dialect", Dialect)
def test_a_key_is_renamed_and_nothing_else_of_it_changes(serve, dialect) -> None:
    """The request has no other field: a null in it could undo a revocation."""
    served = serve(dialect)
    [key] = served.sandbox.seed(["a"])
    before = served.sandbox.keys()[0]
    workspace = served.workspace()
    workspace.observe()
    for name in ('b "\u5927"', "c" * 1000):
        workspace.rename(key, name)
        workspace.rename(key, name)
        [found] = workspace.observe().keys
        assert (found.id, found.name) == (key, name)
    after = served.sandbox.keys()[0]
    assert replace(after, name="a", updated_at=before.updated_at) == before
    assert not any(b"revokedAt" in one.body for one in served.writes())


@pytest.mark.parametrize("dialect", CORES)
def test_a_key_gets_a_role_whether_it_has_one_or_not(serve, dialect) -> None:
    """`assignRoleToApiKey` repairs a key that was stored without its role."""
    served = serve(dialect)
    served.sandbox.seed(["half"], role=None)
    served.sandbox.seed(["whole"], role="Admin")
    workspace = served.workspace()
    role = served.sandbox.role("Integrations")
    for key in workspace.observe().keys:
        workspace.assign_role(key.id, role.id)
    assert {key.role for key in workspace.observe().keys} == {"Integrations"}


@pytest.mark.parametrize("dialect", Dialect)
def test_a_change_of_an_unknown_key_is_an_error(serve, dialect) -> None:
    """Servers answer null or nothing for an id that they do not know."""
    workspace = serve(dialect).workspace()
    unknown_id = "20202020-1c25-4d02-bf25-6aeccf7ea419"
    with pytest.raises(WorkspaceError):
        workspace.set_expiry(unknown_id, datetime(2032, 1, 1, tzinfo=UTC))
    with pytest.raises(WorkspaceError):
        workspace.rename(unknown_id, "a")
    if dialect is not Dialect.LEGACY:
        with pytest.raises(WorkspaceError):
            workspace.assign_role(unknown_id, unknown_id)


@pytest.mark.parametrize("reply", [(500, "{}"), (200, "{}"), (200, '{"data":{}}'), None])
@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_change_that_is_not_confirmed_is_an_error(
    scripted, answer, to, generation, reply
) -> None:
    """Nothing is a success unless the server says so."""
    key = "20202020-1c25-4d02-bf25-6aeccf7ea419"
    server = scripted(*[answer(*reply) if reply else None] * 8)
    with pytest.raises(WorkspaceError):
        to(server.url, generation).set_expiry(key, datetime(2032, 1, 1, tzinfo=UTC))
    with pytest.raises(WorkspaceError):
        to(server.url, generation).rename(key, "a")
    if generation == "core":
        with pytest.raises(WorkspaceError):
            to(server.url, generation).assign_role(key, key)
