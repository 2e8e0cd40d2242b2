"""Tokens as servers mint and accept them: the embedded Twenty, and scripted answers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from builders import END, environment_with
from model_server import Waits, token
from sandbox_control import Dialect, Request, Response, json_answer

from provisioner import secret
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import mint
from provisioner.model.environment import ApiToken, Environment, SessionToken
from provisioner.model.token_claims import claims_of
from provisioner.model.workspace import NewKey, TokenRequest
from provisioner.runtime.cancellation import STOPPED
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from provisioner.model.workspace import Outcome


@pytest.fixture(autouse=True, scope="module")
def forget_secrets() -> Iterator[None]:
    """Forget the secrets of this module, so that no other test masks them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret, "_KNOWN", secret._Known())
        yield


DIALECTS = pytest.mark.parametrize("dialect", Dialect)


EXPIRES_AT = "2031-01-01T00:00:00.417Z"


UNKNOWN_ID = "7b6f2c1e-0000-4000-8000-000000000000"


def is_mint(body: bytes) -> bool:
    return b"generateApiKeyToken" in body


@DIALECTS
def test_a_minted_token_opens_the_workspace_until_its_key_expires(serve, dialect: Dialect) -> None:
    """The token is for this key, and a second token does not end the first."""
    served = serve(dialect)
    [key_id] = served.sandbox.seed(["a"], expires_at=EXPIRES_AT)
    workspace = served.workspace()
    expires_at = datetime.fromisoformat(EXPIRES_AT)
    tokens = [mint(workspace, key_id, expires_at) for _ in range(2)]
    for minted in tokens:
        claims = claims_of(minted)
        assert claims is not None
        assert (claims.key, claims.workspace) == (key_id, served.sandbox.workspace_id)
        assert claims.expires_at == expires_at.replace(microsecond=0)
        environment = environment_with(url=served.sandbox.url)
        workspace_of_key = opened(served, environment, ApiToken(minted))
        assert key_id in {key.id for key in workspace_of_key.observe().keys}
    assert [key.id for key in served.sandbox.keys()] == [key_id]


def opened(served: Any, environment: Environment, credential: ApiToken | SessionToken) -> Any:
    from provisioner.twenty.connect import connect

    workspace = connect(environment, served.sandbox.url, credential, Waits())
    served.stack.callback(workspace.close)
    return workspace


@DIALECTS
def test_no_token_is_minted_for_a_key_that_is_revoked_or_unknown(serve, dialect: Dialect) -> None:
    """Legacy mints a token and does not accept it; core mints none. The error code is the same."""
    served = serve(dialect)
    [revoked] = served.sandbox.seed(["a"], revoked_at="2026-01-01T00:00:00.000Z")
    workspace = served.workspace()
    for key_id in (revoked, UNKNOWN_ID):
        with pytest.raises(WorkspaceError) as caught:
            mint(workspace, key_id, datetime.fromisoformat(EXPIRES_AT))
        assert caught.value.code == "token_refused"
        assert caught.value.remedy
        assert "eyJ" not in str(caught.value)
    if dialect is not Dialect.LEGACY:
        with pytest.raises(WorkspaceError) as caught:
            workspace.mint(revoked, datetime.fromisoformat(EXPIRES_AT))
        assert revoked in caught.value.message
        assert "is revoked" in caught.value.message
        assert caught.value.remedy == (
            "Someone revoked this key or the credential's own. Run the command again."
        )


@DIALECTS
def test_a_mint_whose_answer_was_lost_is_repeated(serve, dialect: Dialect) -> None:
    """Nobody has the first token; the second one is verified."""
    lost = iter([True])

    def lose_first(request: Any, inner: Callable[[Any], Any]) -> Any:
        answer = inner(request)
        if is_mint(request.body) and next(lost, False):
            raise ConnectionError
        return answer

    served = serve(dialect, around=lose_first)
    [key_id] = served.sandbox.seed(["a"], expires_at=EXPIRES_AT)
    minted = mint(served.workspace(), key_id, datetime.fromisoformat(EXPIRES_AT))
    claims = claims_of(minted)
    assert claims is not None
    assert claims.key == key_id
    assert sum(is_mint(one.body) for one in served.journal) == 2


def documents(served: Any) -> list[int]:
    """Return how many tokens each document minted, or tried to."""
    return [one.body.count(b"generateApiKeyToken") for one in served.journal if is_mint(one.body)]


def requests_of(key_ids: Iterable[str]) -> list[TokenRequest]:
    return [TokenRequest(one, datetime.fromisoformat(EXPIRES_AT)) for one in key_ids]


def keys_of(tokens: Iterable[Secret | Failure]) -> tuple[str | None, ...]:
    """Return the key that each token is for, and None for each failure."""
    claims = (claims_of(one) if isinstance(one, Secret) else None for one in tokens)
    return tuple(one.key if one else None for one in claims)


@DIALECTS
def test_many_tokens_take_few_documents_where_the_server_accepts_them(
    serve, dialect: Dialect
) -> None:
    """At most 20 a document on legacy and 1.x; 2.x refuses the first one, and gets no second."""
    served = serve(dialect)
    key_ids = served.sandbox.seed([f"k{n}" for n in range(43)], expires_at=EXPIRES_AT)
    workspace = served.workspace()
    several = dialect in (Dialect.LEGACY, Dialect.CORE_1)
    for tries in (1, 2):
        served.journal.clear()
        assert keys_of(workspace.mint_many(requests_of(key_ids))) == key_ids
        singles = [1] * 43 if tries == 2 else [20] + [1] * 43
        assert sorted(documents(served)) == sorted([20, 20, 3] if several else singles)
    assert keys_of(workspace.mint_many(requests_of(key_ids[:1]))) == key_ids[:1]
    assert workspace.mint_many(()) == ()


def test_minting_uses_what_creates_have_learnt(serve) -> None:
    """A server that refused two creates in a document is not asked for two tokens in one."""
    served = serve(Dialect.CORE)
    workspace = served.workspace()
    role = served.sandbox.role("Admin").id
    ids = [f"{n}b6f2c1e-0000-4000-8000-000000000000" for n in range(2)]
    names = ("a", "b")
    new = [
        NewKey(id=id_, name=name, expires_at=EXPIRES_AT, depth=0, role_id=role)
        for id_, name in zip(ids, names, strict=True)
    ]
    workspace.create_many(new, Ignored())
    key_ids = tuple(one.id for one in served.sandbox.keys() if one.name in names)
    assert keys_of(workspace.mint_many(requests_of(key_ids))) == key_ids
    assert documents(served) == [1, 1]


class Ignored:
    """Observer of creates that does nothing."""

    def on_send(self, key: NewKey) -> None: ...

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None: ...


@DIALECTS
def test_a_key_that_gets_no_token_does_not_cost_another_its_own(serve, dialect: Dialect) -> None:
    """On 1.x one unknown key fails a whole document; the tokens of the others still come."""
    served = serve(dialect)
    key_ids = served.sandbox.seed(["a", "b"], expires_at=EXPIRES_AT)
    first, unknown, last = served.workspace().mint_many(
        requests_of([key_ids[0], UNKNOWN_ID, key_ids[1]])
    )
    assert keys_of((first, last)) == key_ids
    if dialect is not Dialect.LEGACY:  # which mints for any id
        assert isinstance(unknown, Failure)
        assert (unknown.code, UNKNOWN_ID in unknown.message) == ("token_refused", True)


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE_1])
def test_a_document_whose_answer_is_lost_or_incomplete_is_made_good(serve, dialect) -> None:
    """What a document does not return is minted alone."""
    script = iter(["lost"] * 4 + ["incomplete"])

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        answer = inner(request)
        fate = next(script, None) if request.body.count(b"generateApiKeyToken") > 1 else None
        if fate == "lost":
            raise ConnectionError
        if fate == "incomplete":
            data = json.loads(answer.body)["data"]
            return json_answer(200, {"data": data | {"m1": None}})
        return answer

    served = serve(dialect, around=around)
    key_ids = served.sandbox.seed(["a", "b", "c"], expires_at=EXPIRES_AT)
    workspace = served.workspace()
    for expected in ([3, 3, 3, 3, 1, 1, 1], [3, 1], [3]):
        served.journal.clear()
        assert keys_of(workspace.mint_many(requests_of(key_ids))) == key_ids
        assert documents(served) == expected


def test_no_token_is_minted_after_a_stop(serve) -> None:
    """A stop leaves the tokens that are not requested yet to the next run."""
    served = serve(Dialect.LEGACY)
    key_ids = served.sandbox.seed(["a", "b"], expires_at=EXPIRES_AT)
    stop = Waits()
    workspace = served.workspace(stop=stop)
    stop.request()
    assert workspace.mint_many(requests_of(key_ids)) == (STOPPED, STOPPED)
    assert documents(served) == []


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE_1])
def test_a_credential_without_permission_cannot_mint(serve, dialect: Dialect) -> None:
    """A member of the workspace may see its keys, but mints nothing."""
    served = serve(dialect)
    [key_id] = served.sandbox.seed(["a"], expires_at=EXPIRES_AT)
    member = SessionToken(Secret(served.sandbox.session_token("member")))
    environment = environment_with(
        url=served.sandbox.url,
        generation="legacy" if dialect is Dialect.LEGACY else "core",
    )
    with pytest.raises(WorkspaceError) as caught:
        opened(served, environment, member).mint(key_id, datetime.fromisoformat(EXPIRES_AT))
    assert caught.value.code == "permission_denied"


@DIALECTS
def test_a_token_that_the_server_does_not_accept_is_refused(serve, dialect: Dialect) -> None:
    """Revoked, expired, forged or invalid: the message has the server's code, but not the token."""
    served = serve(dialect)
    sandbox, workspace = served.sandbox, served.workspace()
    [live] = sandbox.seed(["a"])
    [revoked] = sandbox.seed(["a"], revoked_at="2026-01-01T00:00:00.000Z")
    good = sandbox.token_of(live)
    workspace.verify_token(Secret(good))
    cases = {
        sandbox.token_of(revoked): "credential_revoked",
        sandbox.token_of(live, seconds=-5): "credential_expired",
        good[:-10] + "A" * 10: "credential_invalid",
        "abc.def.ghi": "credential_invalid",
    }
    for refused, code in cases.items():
        with pytest.raises(WorkspaceError) as caught:
            workspace.verify_token(Secret(refused))
        assert (caught.value.code, f"({code})" in caught.value.message) == ("token_refused", True)
        assert refused not in caught.value.message + caught.value.remedy


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"data":{"generateApiKeyToken":{"token":""}}}', "unexpected_answer"),
        ('{"data":{"generateApiKeyToken":{"token":7}}}', "unexpected_answer"),
        ('{"data":{"generateApiKeyToken":{}}}', "unexpected_answer"),
        ('{"data":{"generateApiKeyToken":null}}', "unexpected_answer"),
        ('{"data":null}', "unexpected_answer"),
        ("<html>", "unexpected_answer"),
        ('{"errors":[{"message":"No such field."}],"data":null}', "rejected"),
        (
            '{"errors":[{"message":"Late."}],"data":{"generateApiKeyToken":{"token":"eyJ"}}}',
            "rejected",
        ),
    ],
)
def test_an_answer_without_a_token_is_an_error(scripted, answer, body: str, code: str) -> None:
    """An incomplete answer is not a token, and neither is a token next to an error."""
    server = scripted(*[answer(200, body)] * 9)
    with pytest.raises(WorkspaceError) as caught:
        scripted_workspace(server).mint("id-a", END)
    assert caught.value.code == code


def test_a_token_is_requested_with_the_milliseconds_of_its_key(scripted, answer) -> None:
    """The expiry is written as the server writes it; the id is a string of the document."""
    minted = '{"data":{"generateApiKeyToken":{"token":"eyJhbGciOiJIUzI1NiJ9.e30.x"}}}'
    server = scripted(answer(200, minted))
    workspace = scripted_workspace(server)
    minted_token = workspace.mint('id-"a"', END.replace(microsecond=7000))
    assert minted_token.reveal() == "eyJhbGciOiJIUzI1NiJ9.e30.x"
    document = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])["query"]
    assert '(apiKeyId:"id-\\"a\\"",expiresAt:"2027-02-21T04:00:00.007Z")' in document


@pytest.mark.parametrize(
    ("status", "code"), [(500, "server_error"), (429, "rate_limited"), (403, "token_refused")]
)
def test_a_server_error_does_not_refuse_a_token(scripted, answer, status, code) -> None:
    """Only a refusal refuses the token; a server that fails or is busy is reported as that."""
    server = scripted(*[answer(status, '{"message":"No."}', Retry_After="30")] * 99)
    with pytest.raises(WorkspaceError) as caught:
        scripted_workspace(server, clocked=True).verify_token(token("id-a", END))
    assert caught.value.code == code
    assert caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, '{"data":null}'),
        (200, "{}"),
        (200, '{"data":{"__typename":"Query"}}'),
        (200, '{"data":{"currentWorkspace":null}}'),
        (200, '{"data":{"currentWorkspace":{"id":"w"}},"errors":[{"message":"Late."}]}'),
        (404, '{"data":{"currentWorkspace":{"id":"w"}}}'),
        (404, ""),
    ],
)
def test_only_a_complete_answer_verifies_a_token(scripted, answer, status: int, body: str) -> None:
    """Data next to an error, or with the status of a failure, does not verify the token."""
    server = scripted(*[answer(status, body)] * 9)
    with pytest.raises(WorkspaceError) as caught:
        scripted_workspace(server).verify_token(token("id-a", END))
    assert (caught.value.code, caught.value.remedy) == (
        "token_refused",
        "Nothing was delivered; check the key in Twenty itself.",
    )
    fine = scripted(answer(200, '{"data":{"currentWorkspace":{"id":"w"}}}'))
    scripted_workspace(fine).verify_token(token("id-a", END))


@DIALECTS
def test_a_proxy_that_swallows_the_header_proves_no_token(serve, dialect: Dialect) -> None:
    """`{__typename}` would be answered without a credential too; the workspace is not named."""

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        swallows = b"currentWorkspace" in request.body
        return inner(replace(request, authorization="") if swallows else request)

    served = serve(dialect, around=around)
    workspace = served.workspace()
    with pytest.raises(WorkspaceError) as caught:
        workspace.verify_token(Secret(served.sandbox.token_of(served.sandbox.seed(["a"])[0])))
    assert caught.value.code == "token_refused"
    assert "did not receive the token (credential_missing)" in caught.value.message
    assert "Authorization" in caught.value.remedy


@DIALECTS
def test_the_server_of_another_workspace_proves_no_token(serve, dialect: Dialect) -> None:
    """A server that names another workspace than the credential's does not know the token."""
    other = "20202020-1c25-4d02-bf25-6aeccf7ea419"

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if b"currentWorkspace" in request.body:
            return json_answer(200, {"data": {"currentWorkspace": {"id": other}}})
        return inner(request)

    served = serve(dialect, around=around)
    workspace = served.workspace()
    with pytest.raises(WorkspaceError) as caught:
        workspace.verify_token(Secret(served.sandbox.token_of(served.sandbox.seed(["a"])[0])))
    assert caught.value.code == "token_refused"
    assert f"{other}, not {served.sandbox.workspace_id}" in caught.value.message


class Clocked(Waits):
    """A cancellation whose clock advances by its waits."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0

    def now(self) -> float:
        return self._seconds

    def sleep(self, seconds: float) -> None:
        self._seconds += seconds


def scripted_workspace(server: Any, *, clocked: bool = False) -> Any:
    from provisioner.twenty.connect import connect

    environment = environment_with(url=server.url, generation="legacy")
    stop = Clocked() if clocked else Waits()
    return connect(environment, server.url, SessionToken(Secret("session")), stop)
