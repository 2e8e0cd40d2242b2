"""The sign-ins of the embedded Twenty: refusals, a second factor, several workspaces, renewal."""

from __future__ import annotations

import base64
import hmac
import json
import time

import pytest
from sandbox_client import admin_of, client_of
from sandbox_control import Dialect, Exchange, Sandbox, Settings, SignInRefusal

SECRET = "JBSWY3DPEHPK3PXP"
"""As long as the secrets that Twenty makes, 80 bits."""

LOGIN = (
    "mutation($e:String!,$p:String!,$o:String!)"
    "{getLoginTokenFromCredentials(email:$e,password:$p,origin:$o){loginToken{token}}}"
)
SIGN_IN = (
    "mutation($e:String!,$p:String!){signIn(email:$e,password:$p){availableWorkspaces"
    "{availableWorkspacesForSignIn{id displayName loginToken workspaceUrls{subdomainUrl}}}}}"
)
OTP = (
    "mutation($c:String!,$t:String!,$o:String!)"
    "{getAuthTokensFromOTP(otp:$c,loginToken:$t,origin:$o)"
    "{tokens{accessOrWorkspaceAgnosticToken{token}}}}"
)
RENEW = (
    "mutation($t:String!){renewToken(appToken:$t)"
    "{tokens{accessOrWorkspaceAgnosticToken{token} refreshToken{token}}}}"
)
SIGN_OUT = "mutation($t:String){signOut(refreshToken:$t)}"
HERE, THERE = "http://here.localhost:3000", "http://there.localhost:3000"
CORES = [dialect for dialect in Dialect if dialect.keeps_core_keys]


def totp_of(secret):
    """Return the code of this moment, by the steps of RFC 6238."""
    counter = int(time.time() // 30).to_bytes(8, "big")
    digest = hmac.digest(base64.b32decode(secret), counter, "sha1")
    start = digest[-1] & 15
    return f"{(int.from_bytes(digest[start : start + 4]) & 0x7FFFFFFF) % 1_000_000:06}"


def login(client, sandbox, origin=HERE):
    return client.query(LOGIN, e=sandbox.email, p=sandbox.password, o=origin)


def login_token(client, sandbox, origin=HERE):
    answer = login(client, sandbox, origin)
    return answer["data"]["getLoginTokenFromCredentials"]["loginToken"]["token"]


def workspaces_of(client, sandbox):
    answer = client.query(SIGN_IN, e=sandbox.email, p=sandbox.password)
    return answer["data"]["signIn"]["availableWorkspaces"]["availableWorkspacesForSignIn"]


@pytest.mark.parametrize("refusal", SignInRefusal)
@pytest.mark.parametrize("dialect", Dialect)
def test_a_sign_in_is_refused_with_the_text_of_its_reason(dialect, refusal):
    """Each reason has its text on every dialect, whatever the password, until it is mended."""
    settings = Settings(refusal=refusal)
    with Sandbox(None, dialect, settings=settings) as sandbox, client_of(sandbox) as client:
        [error] = login(client, sandbox)["errors"]
        assert error["message"] == refusal.value
        sandbox.configure(refusal=None)
        assert login_token(client, sandbox)


@pytest.mark.parametrize("dialect", Dialect)
def test_a_sign_in_names_an_origin(dialect):
    """A server that is told its origin knows no workspace at another one."""
    settings = Settings(origin=HERE)
    with Sandbox(None, dialect, settings=settings) as sandbox, client_of(sandbox) as client:
        [error] = login(client, sandbox, THERE)["errors"]
        assert error["message"] == "Workspace not found"
        assert login_token(client, sandbox, f"{HERE}/")
        answer = client.exchange(login_token(client, sandbox), dialect, THERE)
        assert answer["errors"][0]["message"] == "Workspace not found"


@pytest.mark.parametrize("dialect", CORES)
def test_a_second_factor_is_a_code_of_the_moment(dialect):
    """The exchange asks for the second factor; a wrong code is refused, the right one passes."""
    settings = Settings(totp_secret=SECRET)
    with Sandbox(None, dialect, settings=settings) as sandbox, client_of(sandbox) as client:
        token = login_token(client, sandbox)
        [error] = client.exchange(token, dialect)["errors"]
        required = "TWO_FACTOR_AUTHENTICATION_VERIFICATION_REQUIRED"
        assert error["extensions"]["subCode"] == required
        right = totp_of(SECRET)
        wrong = f"{(int(right) + 1) % 1_000_000:06}"
        [error] = client.query(OTP, c=wrong, t=token, o="x")["errors"]
        assert (error["message"], error["extensions"]["subCode"]) == ("Invalid OTP", "INVALID_OTP")
        sandbox.configure(refusal=SignInRefusal.CAPTCHA)
        [error] = client.query(OTP, c=right, t=token, o="x")["errors"]
        assert error["message"] == SignInRefusal.CAPTCHA.value
        sandbox.configure(refusal=None)
        tokens = client.query(OTP, c=right, t=token, o="x")["data"]["getAuthTokensFromOTP"]
        access = tokens["tokens"]["accessOrWorkspaceAgnosticToken"]["token"]
    assert access.count(".") == 2


def test_a_renewal_needs_neither_password_nor_second_factor():
    """A refresh token gives a new session, again and again, until the session is signed out."""
    with Sandbox(None, Dialect.CORE_NEWEST) as sandbox, client_of(sandbox) as client:
        refresh = client.sign_in(sandbox)["refreshToken"]["token"]
        sandbox.configure(totp_secret=SECRET, refusal=SignInRefusal.CAPTCHA)
        for _ in range(2):
            tokens = client.query(RENEW, t=refresh)["data"]["renewToken"]["tokens"]
            access = tokens["accessOrWorkspaceAgnosticToken"]["token"]
            with client_of(sandbox, access) as renewed:
                assert renewed("GET", "/rest/apiKeys").status_code == 200
        assert client.query(SIGN_OUT, t=refresh) == {"data": {"signOut": True}}
        assert client.query(SIGN_OUT) == {"data": {"signOut": True}}
        assert client.query(RENEW, t=refresh)["errors"][0]["message"] == "Token invalid."
        assert client.query(RENEW, t=access)["errors"][0]["message"] == "Token invalid."


@pytest.mark.parametrize("dialect", Dialect)
def test_several_workspaces_share_an_address(dialect):
    """`signIn` lists those of the user, and each token goes to the workspace that it names."""
    journal: list[Exchange] = []
    first = Sandbox(None, dialect, settings=Settings(origin=HERE, name="Here"), journal=journal)
    with first, Sandbox(None, dialect, settings=Settings(origin=THERE), beside=first) as second:
        assert second.url == first.url
        second.share_users(first)
        strangers = Sandbox(None, dialect, settings=Settings(origin="x"), beside=first)
        with strangers, client_of(first) as client:
            listed = workspaces_of(client, first)
            expected = {first.workspace_id: f"{HERE}/", second.workspace_id: f"{THERE}/"}
            urls = {one["id"]: one["workspaceUrls"]["subdomainUrl"] for one in listed}
            assert urls == expected
            assert listed[0]["displayName"] == "Here"
            token = listed[1]["loginToken"]
            mismatch = client.exchange(token, dialect, HERE)["errors"][0]["message"]
            assert mismatch == "Token is not valid for this workspace"
            assert "errors" not in client.exchange(token, dialect, THERE)
            assert "errors" not in client.sign_in(second, origin=THERE)
        for sandbox in (first, second):
            sandbox.seed([sandbox.settings.name])
            with client_of(sandbox, sandbox.api_token()) as client:
                answer = client.query("{currentWorkspace{id}}")
                assert answer["data"]["currentWorkspace"]["id"] == sandbox.workspace_id
                assert sandbox.settings.name in client("GET", "/rest/apiKeys").text
    assert json.loads(journal[0].body)["query"] == SIGN_IN


def test_a_workspace_without_the_user_or_the_password_is_listed_so():
    """`signIn` omits workspaces of others, and gives no login token where passwords are off."""
    with (
        Sandbox(None, settings=Settings(origin=HERE)) as first,
        Sandbox(None, settings=Settings(origin=THERE), beside=first) as second,
        client_of(first) as client,
    ):
        second.share_users(first)
        second.configure(refusal=SignInRefusal.PASSWORD_DISABLED)
        assert [one["loginToken"] is None for one in workspaces_of(client, first)] == [False, True]
        second.configure(refusal=SignInRefusal.NOT_A_MEMBER)
        assert [one["id"] for one in workspaces_of(client, first)] == [first.workspace_id]
        second.configure(refusal=SignInRefusal.EMAIL_NOT_VERIFIED)
        [error] = client.query(SIGN_IN, e=first.email, p=first.password)["errors"]
        assert error["message"] == "Email is not verified"
        [error] = client.query(SIGN_IN, e="nobody@sandbox.test", p="x")["errors"]
        assert error["message"] == "User not found"


@pytest.mark.parametrize("dialect", Dialect)
def test_a_proof_of_a_token_names_the_workspace(dialect):
    """`currentWorkspace` needs a token and no permission."""
    with Sandbox(None, dialect) as sandbox:
        sandbox.permit("Member")
        query = "{currentWorkspace{id displayName}}"
        expected = {"id": sandbox.workspace_id, "displayName": "Sandbox"}
        for token in (sandbox.session_token("member"), sandbox.api_token()):
            with client_of(sandbox, token) as client:
                assert client.query(query) == {"data": {"currentWorkspace": expected}}
        with client_of(sandbox) as client:
            assert client.query(query)["errors"][0]["message"] == "Forbidden resource"


def test_one_document_lists_keys_roles_and_workspace():
    """On core one read tells all that a plan needs (`E-list-in-one`)."""
    for dialect in CORES:
        with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
            sandbox.seed(["k"])
            query = "{apiKeys{id name} getRoles{label apiKeys{id}} currentWorkspace{id}}"
            data = client.query(query)["data"]
            [key] = data["apiKeys"]
            assert [role["label"] for role in data["getRoles"] if role["apiKeys"]] == ["Admin"]
            assert key["name"] == "k"


def test_several_tokens_are_minted_in_one_document():
    """Aliases mint on legacy and 1.10; later servers refuse them (`A22-gql-mint-aliases-22`)."""
    for dialect in Dialect:
        with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
            mints = " ".join(
                f'm{n}:generateApiKeyToken(apiKeyId:"{key_id}",expiresAt:"2031-01-01"){{token}}'
                for n, key_id in enumerate(sandbox.seed(["a", "b", "c"]))
            )
            answer = client.query(f"mutation{{{mints}}}")
            if dialect.limits_documents:
                assert "Duplicate root resolver" in answer["errors"][0]["message"]
            else:
                assert list(answer["data"]) == ["m0", "m1", "m2"]


@pytest.mark.parametrize("dialect", CORES)
def test_an_update_renames_and_undoes_a_revocation(dialect):
    """`updateApiKey` with `revokedAt: null` un-revokes (`C-gql-update-unrevoke`)."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        [key_id] = sandbox.seed(["k"], revoked_at="2027-01-01T00:00:00.000Z")
        update = "mutation($i:UpdateApiKeyInput!){updateApiKey(input:$i){name revokedAt}}"
        answer = client.query(update, i={"id": key_id, "name": "new"})["data"]["updateApiKey"]
        assert answer["name"] == "new"
        assert answer["revokedAt"] is not None
        answer = client.query(update, i={"id": key_id, "revokedAt": None})["data"]["updateApiKey"]
        assert answer == {"name": "new", "revokedAt": None}
