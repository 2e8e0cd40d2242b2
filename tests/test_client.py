"""The client against the embedded Twenty, in every generation."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from graphql import build_schema, parse, validate

from provisioner.desired import ApiToken, Environment, Limits, SessionToken, SignIn
from provisioner.errors import RefusedError, WorkspaceError
from provisioner.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.sandbox import API_KEYS_FLAG, Dialect
from provisioner.secret import Secret
from provisioner.twenty import transport as transport_module
from provisioner.twenty.connect import connect
from provisioner.twenty.workspace import Created, NewKey, NotCreated, Unknown

CORES = [Dialect.CORE_1, Dialect.CORE]
END = "2031-01-01T00:00:00.417Z"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "_FIRST_WAIT", 0.001)


def new(name: str, depth: int = 1, **more: object) -> NewKey:
    number = abs(hash((name, depth)))
    fields: dict[str, object] = {
        "id": f"{number % 16**8:08x}-0000-4000-8000-{number % 16**12:012x}",
        "name": name,
        "expires_at": END,
        "depth": depth,
    }
    return NewKey(**(fields | more))  # type: ignore[arg-type]


def silent(_: int) -> None:
    """Nobody watches the progress."""


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
def test_without_the_roles_permission_the_keys_alone_are_listed(serve, page: bool) -> None:
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
    workspace = served.workspace(limits=Limits(parallel=parallel))
    counts = {0: 20, 1: 57, 2: 60}
    keys = [new(f"k-{depth}-{n}", depth) for depth in counts for n in range(counts[depth])]
    settled: list[int] = []
    outcomes = workspace.create_many(keys, settled.append)
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
    workspace = served.workspace(limits=Limits(batch=25))
    workspace.create_many([new(f"k{n}") for n in range(61)], silent)
    assert sorted(len(json.loads(one.body)) for one in served.writes()) == [11, 25, 25]


def test_a_bad_record_of_a_batch_stands_alone(serve) -> None:
    """A definite 400 splits the batch until only the bad record fails."""
    served = serve(Dialect.LEGACY)
    keys = [new(f"k{n}") for n in range(9)]
    keys[4] = new("bad", expires_at="not-a-date")
    outcomes = served.workspace().create_many(keys, silent)
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
    workspace.create_many([new("a")], silent)
    [again] = workspace.create_many([new("a")], silent)
    assert isinstance(again, Unknown)
    assert again.failure.code == "outcome_unknown"


@pytest.mark.parametrize("kind", ["session", "token", "sign-in"])
@pytest.mark.parametrize("dialect", CORES)
def test_core_creates_one_key_a_request_with_its_role(serve, dialect, kind) -> None:
    """Depth 0 is the key, 1 its role, 2 the role's flags and its permissions."""
    served = serve(dialect)
    workspace = served.workspace(kind)
    role = served.sandbox.role("Integrations").id
    keys = [new(f"k{depth}", depth, role_id=role) for depth in (0, 1, 2)]
    outcomes = workspace.create_many(keys, silent)
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
    assert len(served.writes()) == 3


@pytest.mark.parametrize("parallel", [1, 3, 8])
def test_no_more_requests_are_in_flight_than_the_limit(serve, parallel: int) -> None:
    """Requests of any kind, over the whole run, share the environment's slots."""
    served = serve(Dialect.CORE, create_seconds=0.01)
    workspace = served.workspace(limits=Limits(parallel=parallel))
    workspace.observe()
    role = served.sandbox.role("Admin").id
    workspace.create_many([new(f"k{n}", 2, role_id=role) for n in range(24)], silent)
    assert served.most_in_flight() <= parallel
    assert served.most_in_flight() > 1 or parallel == 1
    assert len(served.writes()) == 24


def test_a_born_revoked_key_is_sent_as_it_is(serve) -> None:
    """`revokedAt` and `roleId` reach the server where the dialect has them."""
    for dialect in Dialect:
        served = serve(dialect)
        role = None if dialect is Dialect.LEGACY else served.sandbox.role("Admin").id
        key = new("dead", revoked_at="2020-01-01T00:00:00Z", role_id=role)
        [outcome] = served.workspace().create_many([key], silent)
        assert isinstance(outcome, Created)
        assert outcome.record["revokedAt"] == "2020-01-01T00:00:00.000Z"


def test_a_role_that_the_server_does_not_know_is_no_success(serve) -> None:
    """On 1.x and 2.x an error after the store may have been begun is an unknown outcome."""
    for dialect in CORES:
        served = serve(dialect)
        key = new("a", role_id="99999999-9999-4999-8999-999999999999")
        [outcome] = served.workspace().create_many([key], silent)
        assert isinstance(outcome, Unknown)
        bad = new("b", role_id="zzz")
        [outcome] = served.workspace().create_many([bad], silent)
        assert isinstance(outcome, NotCreated)


def test_a_session_that_runs_out_in_the_middle_is_renewed_once_for_all(serve, monkeypatch) -> None:
    """Refused requests are sent again with the new session, and only one thread signs in."""
    served = serve(Dialect.CORE)
    workspace = served.workspace("sign-in")
    workspace.observe()
    # From here every token the client holds is one that the server takes for expired.
    stale = served.sandbox.session_token(seconds=-5)
    session = workspace._wire._pass
    session._token = Secret(stale)
    session._ends = float("inf")
    before = len(served.journal)
    role = served.sandbox.role("Admin").id
    outcomes = workspace.create_many([new(f"k{n}", role_id=role) for n in range(12)], silent)
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    after = served.journal[before:]
    assert sum(b"getLoginToken" in one.body for one in after) == 1
    assert len(served.sandbox.keys()) == 12


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_signing_in_never_waits_for_a_slot_that_waits_for_it(serve, parallel: int) -> None:
    """At the start, and when the session runs out under many threads, with any few slots."""
    served = serve(Dialect.CORE, create_seconds=0.005, session_seconds=2.0)
    workspace = served.workspace("sign-in", limits=Limits(parallel=parallel))
    role = served.sandbox.role("Admin").id
    session = workspace._wire._pass
    seen: list[int] = []

    def run_out(count: int) -> None:
        seen.append(count)
        if len(seen) % 5 == 0:
            session._ends = 0.0

    with ThreadPoolExecutor(1) as pool:
        keys = [new(f"k{n}", role_id=role) for n in range(30)]
        outcomes = pool.submit(workspace.create_many, keys, run_out).result(timeout=30)
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
def test_the_answer_to_a_sign_in_is_never_shown(scripted, answer, echo) -> None:
    """Servers and proxies echo what they got; e-mail, password and tokens stay unseen."""
    server = scripted(*[answer(*echo)] * 4)
    credential = SignIn(Secret("canary@example.com"), Secret("canary-password"))
    with pytest.raises(WorkspaceError) as caught:
        connect(Environment(name="shop", url=server.url), server.url, credential)
    assert "canary" not in f"{caught.value.message} {caught.value.remedy}"


def test_what_a_server_echoes_of_our_secrets_is_masked(scripted, answer) -> None:
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
        environment = Environment(name="shop", url=server.url, headers=headers)
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
def test_an_answer_with_data_is_never_asked_for_again(scripted, answer, body) -> None:
    """Errors beside data do not undo what was made: one request, and an unknown outcome."""
    body = '{"data":{"createApiKey":{"id":"1","name":"a"}},"errors":[' + body + "]}"
    server = scripted(answer(200, body), answer(200, body))
    environment = Environment(name="shop", url=server.url, generation="core")
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    [outcome] = workspace.create_many([new("a", role_id="r")], silent)
    assert isinstance(outcome, Unknown)
    assert len(server.requests) == 1


def test_a_wait_beyond_all_patience_fails_everything_at_once(scripted, answer) -> None:
    """An hour of Retry-After is not waited for once a key: one request, and the rest is told."""
    server = scripted(answer(429, "{}", Retry_After="3600"))
    environment = Environment(
        name="shop", url=server.url, generation="core", limits=Limits(parallel=1)
    )
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    outcomes = workspace.create_many([new(f"k{n}", role_id="r") for n in range(9)], silent)
    assert {one.failure.code for one in outcomes if isinstance(one, NotCreated)} == {"rate_limited"}
    assert len(outcomes) == 9
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "records",
    [
        ['{"id":"1","name":"k0"}', '{"id":"1","name":"k1"}'],
        ['{"id":"1","name":"other"}', '{"id":"2"}'],
    ],
)
def test_an_answer_about_another_key_is_no_proof(scripted, answer, records) -> None:
    """The created record must be of this name, and no id may stand for two keys."""
    bodies = ['{"data":{"createApiKey":' + record + "}}" for record in records]
    server = scripted(*[answer(200, body) for body in bodies])
    environment = Environment(
        name="shop", url=server.url, generation="core", limits=Limits(parallel=1)
    )
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    outcomes = workspace.create_many([new("k0", role_id="r"), new("k1", role_id="r")], silent)
    assert [type(one) for one in outcomes] == [Unknown, Unknown]


def test_a_refusal_of_the_whole_request_is_not_split(scripted, answer) -> None:
    """What is wrong with every record alike is asked once, not once for each half."""
    said = '{"statusCode":400,"messages":["object \'apiKeys\' not found. eg: companies"]}'
    server = scripted(*[answer(400, said)] * 9)
    environment = Environment(name="shop", url=server.url, generation="legacy")
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    outcomes = workspace.create_many([new(f"k{n}") for n in range(8)], silent)
    assert {type(one) for one in outcomes} == {NotCreated}
    assert len(server.requests) == 1


def test_a_generation_that_is_declared_wrong_is_found_before_anything_is_written(serve) -> None:
    """`legacy` for a core server, and `core` for a legacy one."""
    with pytest.raises(WorkspaceError) as caught:
        serve(Dialect.CORE).workspace(generation="legacy").observe()
    assert "generation: core" in caught.value.remedy
    with pytest.raises(WorkspaceError):
        serve(Dialect.LEGACY).workspace(generation="core").observe()


def test_a_key_of_the_far_future_does_not_stop_the_look(scripted, answer) -> None:
    """JavaScript writes years from 10 000 on with a plus; such a key just lives."""
    far = (KEY % 1).replace("2031-01-01", "+010000-01-01")
    server = scripted(answer(200, PAGE % (far, "false", "null")))
    environment = Environment(name="shop", url=server.url)
    [key] = connect(environment, server.url, ApiToken(Secret("t"))).observe().keys
    assert key.expires_at.year == 9999


def test_half_a_key_is_named(scripted, answer) -> None:
    """Which of thousands of keys cannot be read stands in the message."""
    bad = (KEY % "the-id").replace("2031-01-01", "soon")
    server = scripted(answer(200, PAGE % (bad, "false", "null")))
    environment = Environment(name="shop", url=server.url)
    with pytest.raises(WorkspaceError) as caught:
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert "the-id" in caught.value.message


def test_a_core_list_is_judged_by_its_status_too(scripted, answer) -> None:
    """A 500 with a list in it is no list; a key listed twice is one key."""
    body = '{"data":{"apiKeys":[%s],"getRoles":[]}}'
    server = scripted(*[answer(500, body % "")] * 4)
    environment = Environment(name="shop", url=server.url, generation="core")
    with pytest.raises(WorkspaceError):
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    again = scripted(answer(200, body % f"{KEY % 1},{KEY % 1}"))
    environment = Environment(name="shop", url=again.url, generation="core")
    assert len(connect(environment, again.url, ApiToken(Secret("t"))).observe().keys) == 1


def test_a_session_near_its_end_is_renewed_before_it_is_used(serve) -> None:
    """A token with less than a moment to live is not sent at all."""
    served = serve(Dialect.CORE, session_seconds=2.0)
    workspace = served.workspace("sign-in")
    workspace.observe()
    signed_in = sum(b"getLoginToken" in one.body for one in served.journal)
    workspace._wire._pass._ends = 0.0
    workspace.observe()
    assert sum(b"getLoginToken" in one.body for one in served.journal) == signed_in + 1


@pytest.mark.parametrize("dialect", Dialect)
def test_signing_in_works_on_every_generation(serve, dialect) -> None:
    """Each dialect's endpoint and token field is found."""
    served = serve(dialect)
    assert served.workspace("sign-in").observe().workspace == served.sandbox.workspace_id


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("wrong", ["password", "email"])
def test_a_refused_sign_in_names_neither_email_nor_password(serve, dialect, wrong) -> None:
    """The e-mail is as secret as the password; the remedy names the place of both."""
    served = serve(dialect)
    email = "canary@example.com" if wrong == "email" else served.sandbox.email
    credential = SignIn(Secret(email), Secret("canary-password"))
    with pytest.raises(WorkspaceError) as caught:
        connect(served.environment(), served.sandbox.url, credential).observe()
    assert caught.value.slug == "sign_in_failed"
    told = f"{caught.value.message} {caught.value.remedy}"
    assert "canary" not in told
    assert email not in told


def test_a_sign_in_that_the_workspace_forbids_points_to_a_session_token(scripted, answer) -> None:
    """Single sign-on, a second factor or a captcha: another credential is the way."""
    server = scripted(answer(200, '{"errors":[{"message":"Captcha is not valid"}],"data":null}'))
    credential = SignIn(Secret("a@b.c"), Secret("p"))
    with pytest.raises(WorkspaceError) as caught:
        connect(Environment(name="shop", url=server.url), server.url, credential)
    assert caught.value.slug == "sign_in_failed"
    assert "session_token" in caught.value.remedy


@pytest.mark.parametrize(
    ("said", "slug"),
    [
        ((200, "<html>"), "unexpected_answer"),
        ((200, '{"data":{"getLoginTokenFromCredentials":{}}}'), "unexpected_answer"),
        ((502, "<html>"), "server_error"),
    ],
)
def test_a_sign_in_that_is_no_answer_is_an_error(scripted, answer, said, slug) -> None:
    """Half and foreign answers to the sign-in are told as what they are."""
    server = scripted(*[answer(*said)] * 4)
    credential = SignIn(Secret("a@b.c"), Secret("p"))
    with pytest.raises(WorkspaceError) as caught:
        connect(Environment(name="shop", url=server.url), server.url, credential)
    assert caught.value.slug == slug


def test_a_lost_sign_in_is_an_error_of_the_workspace(scripted) -> None:
    """No answer to four sign-ins: the environment cannot be used, and it says why."""
    server = scripted(*[None] * 4)
    with pytest.raises(WorkspaceError) as caught:
        connect(
            Environment(name="shop", url=server.url), server.url, SignIn(Secret("a"), Secret("p"))
        )
    assert caught.value.slug == "connection_lost"


def test_a_session_without_dates_lives_until_it_is_refused(scripted, answer) -> None:
    """A proxy that removes `Date`, or an end that is no date, does not stop the sign-in."""
    login = '{"data":{"getLoginTokenFromCredentials":{"loginToken":{"token":"l"}}}}'
    field = "accessOrWorkspaceAgnosticToken"
    tokens = '{"data":{"getAuthTokensFromLoginToken":{"tokens":{"%s":{"token":"t"%s}}}}}'
    for end in ("", ',"expiresAt":"2031-01-01T00:00:00Z"'):
        server = scripted(answer(200, login), answer(200, tokens % (field, end)), answer(200, "[]"))
        workspace = connect(
            Environment(name="shop", url=server.url), server.url, SignIn(Secret("a"), Secret("p"))
        )
        assert workspace.generation == "core"
        assert b"Bearer t" in server.requests[2]
        workspace.close()


def test_the_workspace_pin_is_held_against_the_credential(serve) -> None:
    """Another workspace, or one that cannot be known, is refused before any other request."""
    served = serve(Dialect.CORE)
    pin = served.sandbox.workspace_id
    assert served.workspace(workspace=pin.upper()).observe().workspace == pin
    sent = len(served.journal)
    with pytest.raises(RefusedError) as caught:
        served.workspace(workspace="20202020-1c25-4d02-bf25-6aeccf7ea419")
    assert caught.value.slug == "workspace_mismatch"
    assert pin in caught.value.message
    opaque = ("opaque", "a.b.c", "a.bm9wZQ.c", "a.W10.c", "a.e30.c")
    for token in opaque:
        with pytest.raises(RefusedError) as caught:
            connect(served.environment(workspace=pin), served.sandbox.url, ApiToken(Secret(token)))
        assert caught.value.slug == "workspace_unknown"
    assert len(served.journal) == sent


@pytest.mark.parametrize("dialect", Dialect)
def test_a_bad_credential_says_what_to_do(serve, dialect) -> None:
    """Garbage, expired and revoked tokens are told apart in every dialect."""
    served = serve(dialect)
    [revoked] = served.sandbox.seed(["r"], revoked_at="2026-01-01T00:00:00.000Z")
    cases = {
        "abc.def.ghi": "credential_invalid",
        served.sandbox.session_token(seconds=-5): "credential_expired",
        served.sandbox.token_of(revoked): "credential_revoked",
    }
    for token, slug in cases.items():
        with pytest.raises(WorkspaceError) as caught:
            connect(served.environment(), served.sandbox.url, ApiToken(Secret(token))).observe()
        assert caught.value.slug == slug
        assert token not in caught.value.message
        assert "auth" in caught.value.remedy


def test_a_credential_without_the_permission_is_told_so(serve) -> None:
    """400 with PERMISSION_DENIED at the detecting read is core, and the permission lacks."""
    served = serve(Dialect.CORE)
    token = SessionToken(Secret(served.sandbox.session_token("member")))
    for generation in (None, "core"):
        with pytest.raises(WorkspaceError) as caught:
            connect(served.environment(generation=generation), served.sandbox.url, token).observe()
        assert caught.value.slug == "permission_denied"


PAGE = '{"data":{"apiKeys":[%s]},"pageInfo":{"hasNextPage":%s,"endCursor":%s},"totalCount":1}'
KEY = (
    '{"id":"%s","name":"a","expiresAt":"2031-01-01T00:00:00.000Z","revokedAt":null,'
    '"createdAt":"2026-01-01T00:00:00.000Z"}'
)


@pytest.mark.parametrize(
    ("bodies", "slug"),
    [
        (["<html>"], "unexpected_answer"),
        ([""], "unexpected_answer"),
        (['{"data":{}}'], "unexpected_answer"),
        (["7"], "unexpected_answer"),
        (['{"data":{"apiKeys":7},"pageInfo":{"hasNextPage":false}}'], "unexpected_answer"),
        (['{"data":{"apiKeys":[]}}'], "unexpected_answer"),
        ([PAGE % (KEY % 1, "true", "null")], "unexpected_answer"),
        ([PAGE % ("7", "false", "null")], "unexpected_answer"),
        ([PAGE % ('{"id":"1"}', "false", "null")], "unexpected_answer"),
        ([PAGE % (KEY % 1, "true", '"x"')] * 2, "unexpected_answer"),
        ([PAGE % (KEY % 1, "true", '"x"'), "<html>"], "unexpected_answer"),
        ([PAGE % (KEY % 1, "true", '"x"'), PAGE % (KEY % 1, "true", '"y"')], "unexpected_answer"),
        ([(PAGE % (KEY % 1, "false", "null")).replace(":1}", ":2}")], "unexpected_answer"),
        ([PAGE % ((KEY % 1).replace("2031", "never"), "false", "null")], "unexpected_answer"),
    ],
)
def test_half_a_list_is_an_error_and_never_a_shorter_list(scripted, answer, bodies, slug) -> None:
    """A list that is cut, foreign or circular must not look like a workspace with fewer keys."""
    server = scripted(*[answer(200, body) for body in bodies])
    environment = Environment(name="shop", url=server.url)
    with pytest.raises(WorkspaceError) as caught:
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert caught.value.slug == slug
    assert "shop" in caught.value.message


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
def test_half_a_core_list_is_an_error(scripted, answer, body) -> None:
    """As on legacy: an answer that is not whole is no list."""
    server = scripted(answer(200, body))
    environment = Environment(name="shop", url=server.url, generation="core")
    with pytest.raises(WorkspaceError) as caught:
        connect(environment, server.url, ApiToken(Secret("t"))).observe()
    assert caught.value.slug in ("unexpected_answer", "rejected")


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        ((500, "{}"), Unknown, "outcome_unknown"),
        ((502, "<html>"), Unknown, "outcome_unknown"),
        ((408, ""), Unknown, "outcome_unknown"),
        ((200, ""), Unknown, "outcome_unknown"),
        ((200, "<html>"), Unknown, "outcome_unknown"),
        ((200, '{"data":{"createApiKey":null}}'), Unknown, "outcome_unknown"),
        ((200, '{"data":{"createApiKey":{"name":"a"}}}'), Unknown, "outcome_unknown"),
        (
            (200, '{"data":{"createApiKey":{"id":"1"}},"errors":[{"message":"role"}]}'),
            Unknown,
            "outcome_unknown",
        ),
        ((200, '{"errors":[{"message":"boom"}],"data":null}'), Unknown, "outcome_unknown"),
        (
            (200, '{"errors":[{"message":"x","extensions":{"code":"BAD_USER_INPUT"}}]}'),
            NotCreated,
            "rejected",
        ),
        ((200, '{"errors":[{"message":"Cannot query field \\"x\\""}]}'), NotCreated, "rejected"),
        ((413, "<html>"), NotCreated, "unexpected_answer"),
        ((302, ""), NotCreated, "unexpected_answer"),
        ((403, '{"messages":["This API Key is revoked"]}'), NotCreated, "credential_revoked"),
    ],
)
def test_a_core_create_is_made_refused_or_unknown(scripted, answer, said, kind, code) -> None:
    """Only what the server certainly refused counts as not made; nothing is sent twice."""
    server = scripted(answer(*said), answer(*said))
    environment = Environment(name="shop", url=server.url, generation="core")
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    [outcome] = workspace.create_many([new("a", role_id="r")], silent)
    assert isinstance(outcome, kind)
    assert outcome.failure.code == code
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ((500, "{}"), [Unknown, Unknown]),
        ((200, "<html>"), [Unknown, Unknown]),
        ((201, '{"data":{"createApiKeys":null}}'), [Unknown, Unknown]),
        ((201, '{"data":{"createApiKeys":[null,{"id":"%s"}]}}'), [Unknown, Created]),
        ((403, '{"messages":["This API Key is revoked"]}'), [NotCreated, NotCreated]),
    ],
)
def test_a_legacy_batch_is_judged_key_by_key(scripted, answer, said, kinds) -> None:
    """What the answer shows under its id is made; a null or a missing one is unknown."""
    keys = [new("a"), new("b")]
    status, body = said
    server = scripted(answer(status, body.replace("%s", keys[1].id)))
    environment = Environment(name="shop", url=server.url, generation="legacy")
    outcomes = connect(environment, server.url, ApiToken(Secret("t"))).create_many(keys, silent)
    assert [type(outcome) for outcome in outcomes] == kinds
    assert len(server.requests) == 1


@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_lost_answer_of_a_create_is_unknown_and_not_repeated(scripted, generation) -> None:
    """A connection that breaks after the request is one request and an honest word."""
    server = scripted(None, None)
    environment = Environment(name="shop", url=server.url, generation=generation)
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    [outcome] = workspace.create_many([new("a", role_id="r")], silent)
    assert isinstance(outcome, Unknown)
    assert outcome.failure.code == "outcome_unknown"
    assert len(server.requests) == 1


@pytest.mark.parametrize("generation", ["legacy", "core"])
def test_a_server_that_went_away_made_nothing(scripted, generation) -> None:
    """Where no connection comes up nothing was sent, which is certain."""
    with_nobody = scripted()
    environment = Environment(name="shop", url=with_nobody.url, generation=generation)
    workspace = connect(environment, with_nobody.url, ApiToken(Secret("t")))
    with_nobody.__exit__()
    [outcome] = workspace.create_many([new("a", role_id="r")], silent)
    assert isinstance(outcome, NotCreated)
    assert outcome.failure.code == "unreachable"
    with_nobody.__init__([])
    with_nobody.__enter__()


@pytest.mark.parametrize("said", [(200, "<html>"), (200, '{"data":{}}'), (403, "{}"), None])
def test_depth_2_without_permissions_to_show_creates_nothing(scripted, answer, said) -> None:
    """The permissions are read before the first create; without them those keys fail."""
    entry = answer(*said) if said else None
    server = scripted(*[entry] * 4)
    environment = Environment(name="shop", url=server.url, generation="core")
    workspace = connect(environment, server.url, ApiToken(Secret("t")))
    [outcome] = workspace.create_many([new("a", 2, role_id="r")], silent)
    assert isinstance(outcome, NotCreated)
    assert not any(b"createApiKey" in request for request in server.requests)


def test_one_workspace_serves_many_threads(serve) -> None:
    """Several looks and creates at once share one session and lose nothing."""
    served = serve(Dialect.CORE)
    workspace = served.workspace("sign-in")
    role = served.sandbox.role("Admin").id
    ready = threading.Barrier(6)

    def work(number: int) -> int:
        ready.wait(5)
        made = workspace.create_many(
            [new(f"k{number}-{n}", role_id=role) for n in range(5)], silent
        )
        return sum(isinstance(one, Created) for one in made)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) == 30
    assert len(workspace.observe().keys) == 30
    assert sum(b"getLoginToken" in one.body for one in served.journal) == 1


def documents() -> list[str]:
    from provisioner.twenty import core

    selections = [core._CREATE % selection for selection in core._SELECTION.values()]
    return [*selections, core._LIST % (core._KEY, "getRoles"), core._PERMISSIONS]


@pytest.mark.parametrize("dialect", CORES)
def test_the_documents_are_valid_against_what_the_servers_know(dialect) -> None:
    """Every document that is sent validates against the schema of 1.10 and of 2.21."""
    from provisioner.sandbox.sdl import METADATA, schema_text

    schema = build_schema(schema_text(dialect, METADATA, anonymous=False))
    for document in documents():
        assert validate(schema, parse(document)) == []
    assert not any(re.search(r"apiKeys\{[^}]*role", document) for document in documents())
