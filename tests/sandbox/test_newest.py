"""The newest Twenty, of which nothing is recorded: pages, rights, signing keys, limits."""

from __future__ import annotations

import base64
import json

import pytest
from sandbox_client import admin_of, client_of
from sandbox_control import (
    API_KEYS_FLAG,
    ROLES_FLAG,
    ApiKey,
    Dialect,
    Request,
    Sandbox,
    rate_limited,
    spent_credits,
)

DATE = "2031-01-01T00:00:00.000Z"
LIST = "/rest/metadata/apiKeys"
NOT_AVAILABLE = "This endpoint is not available to this caller"


@pytest.fixture
def newest():
    with Sandbox(None, Dialect.CORE_NEWEST) as sandbox:
        yield sandbox


def put(sandbox, number, created_at="2027-01-01T00:00:00.000Z"):
    """Add a key whose id and name end with a number; return its id."""
    key_id = f"00000000-0000-4000-8000-{number:012}"
    role_id = sandbox.role("Admin").id
    key = ApiKey(key_id, f"key-{number}", DATE, created_at, created_at, role_id=role_id)
    sandbox.put(key)
    return key_id


def page(client, query=""):
    answer = client("GET", LIST + query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer):
    return [key["id"] for key in answer["data"]]


def test_the_list_is_paged_by_creation_and_id(newest):
    """Keys come by `createdAt`, then `id`, 60 a page by default and at most 200."""
    with admin_of(newest) as client:
        empty = {
            "hasNextPage": False,
            "hasPreviousPage": False,
            "startCursor": None,
            "endCursor": None,
        }
        assert page(client) == {"data": [], "pageInfo": empty, "totalCount": 0}
        late = [put(newest, n, "2027-02-01T00:00:00.000Z") for n in range(3, 0, -1)]
        expected = [put(newest, n) for n in range(4, 254)] + late[::-1]
        newest.seed(["gone"], revoked_at=DATE)
        first = page(client)
        assert ids(first) == expected[:60]
        assert first["totalCount"] == 253
        assert first["pageInfo"]["hasNextPage"]
        received = ids(page(client, "?limit=1000"))
        assert received == expected[:200]
        rest = page(client, f"?limit=200&starting_after={received[-1]}")
        assert ids(rest) == expected[200:]
        assert not rest["pageInfo"]["hasNextPage"]
        before = page(client, f"?limit=2&ending_before={expected[200]}")
        assert ids(before) == expected[198:200]
        assert before["pageInfo"]["hasPreviousPage"]
        assert len(client("GET", "/rest/apiKeys").json()) == 253
        assert len(client.query("{apiKeys{id}}")["data"]["apiKeys"]) == 253


def test_a_cursor_that_has_left_the_list_ends_it(newest):
    """After a revocation of the cursor's key, the page is empty and the last, without an error."""
    keys = [put(newest, n) for n in range(5)]
    with admin_of(newest) as client:
        assert ids(page(client, f"?limit=2&starting_after={keys[1]}")) == keys[2:4]
        client("DELETE", f"{LIST}/{keys[1]}")
        for direction in ("starting_after", "ending_before"):
            trap = page(client, f"?limit=2&{direction}={keys[1]}")
            assert ids(trap) == []
            assert not trap["pageInfo"]["hasNextPage"]
            assert trap["totalCount"] == 4


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("starting_after=abc", "Invalid cursor: abc"),
        ("ending_before=1", "Invalid cursor: 1"),
        ("limit=x", "limit 'x' is invalid. Should be an integer"),
        ("limit=-1", "limit '-1' is invalid. Should be an integer"),
    ],
)
def test_an_invalid_page_is_refused(newest, query, text):
    """A cursor that is no id and a limit that is no number are 400."""
    with admin_of(newest) as client:
        answer = client("GET", f"{LIST}?{query}")
        assert (answer.status_code, answer.json()["messages"]) == (400, [text])


def test_the_older_path_can_be_switched_off(newest):
    """Without `/rest/apiKeys` the path is unknown as any other, and the metadata path remains."""
    with admin_of(newest) as client:
        assert client("GET", "/rest/apiKeys").json() == []
        newest.configure(serves_bare_list=False)
        for path in ("/rest/apiKeys", f"/rest/apiKeys/{put(newest, 1)}"):
            answer = client("GET", path)
            assert answer.status_code == 400
            assert answer.json()["messages"] == ["object 'apiKeys' not found. eg: companies"]
        assert len(ids(page(client))) == 1


WRITES = {
    "createApiKey": (
        'mutation($r:UUID!){createApiKey(input:{name:"k",expiresAt:"2031-01-01",roleId:$r}){id}}'
    ),
    "assignRoleToApiKey": "mutation($k:UUID!,$r:UUID!){assignRoleToApiKey(apiKeyId:$k,roleId:$r)}",
    "updateApiKey": 'mutation($k:UUID!){updateApiKey(input:{id:$k,name:"n"}){id}}',
    "generateApiKeyToken": (
        'mutation($k:UUID!){generateApiKeyToken(apiKeyId:$k,expiresAt:"2031-01-01"){token}}'
    ),
    "revokeApiKey": "mutation($k:UUID!){revokeApiKey(input:{id:$k}){id}}",
}


def write(client, sandbox, name, key_id):
    variables = {"k": key_id, "r": sandbox.role("Admin").id}
    used = {one: value for one, value in variables.items() if f"${one}:" in WRITES[name]}
    return client.query(WRITES[name], **used)


@pytest.mark.parametrize("name", WRITES)
def test_keys_are_written_by_sessions_alone(newest, name):
    """The token of a key, whatever its role, gets the newest's refusal, and changes nothing."""
    key_id = put(newest, 1)
    with client_of(newest, newest.api_token()) as client:
        before = newest.keys()
        [error] = write(client, newest, name, key_id)["errors"]
        assert error["message"] == NOT_AVAILABLE
        assert error["extensions"]["code"] == "FORBIDDEN"
        for method, path in (("POST", ""), ("PATCH", f"/{key_id}"), ("DELETE", f"/{key_id}")):
            answer = client(method, LIST + path, {})
            assert (answer.status_code, answer.json()["messages"]) == (403, [NOT_AVAILABLE])
        assert newest.keys() == before
    with admin_of(newest) as client:
        assert "errors" not in write(client, newest, name, key_id)


@pytest.mark.parametrize("name", WRITES)
def test_a_session_without_the_permission_for_roles_creates_and_assigns_nothing(newest, name):
    """Creating and assigning need ROLES; updating, minting, revoking and listing do not."""
    key_id = put(newest, 1)
    newest.permit("Member", API_KEYS_FLAG)
    needs_roles = name in ("createApiKey", "assignRoleToApiKey")
    with client_of(newest, newest.session_token("member")) as client:
        assert len(client.query("{apiKeys{id}}")["data"]["apiKeys"]) == 1
        assert "errors" in client.query("{getRoles{id}}")
        answer = write(client, newest, name, key_id)
        assert ("errors" in answer) is needs_roles
        if name == "createApiKey":
            body = {"name": "k", "expiresAt": DATE, "roleId": newest.role("Admin").id}
            refused = client("POST", LIST, body)
            assert refused.json()["code"] == "PERMISSION_DENIED"
            assert len(newest.keys()) == 1
    newest.permit("Member", API_KEYS_FLAG, ROLES_FLAG)
    with client_of(newest, newest.session_token("member")) as client:
        assert "errors" not in write(client, newest, name, key_id)


def test_roles_for_keys_are_listed_for_the_permission_for_keys(newest):
    """`getApiKeyRoles` needs only that, and omits roles that may not be given to keys."""
    newest.permit("Member", API_KEYS_FLAG)
    query = "{getApiKeyRoles{id label canBeAssignedToApiKeys}}"
    with client_of(newest, newest.session_token("member")) as client:
        labels = [role["label"] for role in client.query(query)["data"]["getApiKeyRoles"]]
        assert labels == [role.label for role in newest.roles() if role.assignable]
        assert "Member" not in labels
    newest.permit("Member")
    with client_of(newest, newest.session_token("member")) as client:
        assert "errors" in client.query(query)


def test_a_token_names_its_signing_key_which_can_be_revoked(newest):
    """Tokens of a revoked key are invalid, their rows stay live, and minting again heals."""
    token = newest.token_of(put(newest, 1))
    header, _, signature = token.split(".")
    fields = json.loads(base64.urlsafe_b64decode(header + "=="))
    assert fields["alg"] == "ES256"
    assert len(base64.urlsafe_b64decode(signature + "==")) == 64
    with client_of(newest, token) as client:
        assert client("GET", LIST).status_code == 200
        newest.revoke_signing_key()
        refused = client("GET", LIST)
        assert (refused.status_code, refused.json()["messages"]) == (401, ["Token invalid."])
        [error] = client.query("{currentWorkspace{id}}")["errors"]
        assert error["message"] == "Token invalid."
    renewed = newest.token_of(put(newest, 1))
    kid = json.loads(base64.urlsafe_b64decode(renewed.split(".")[0] + "=="))["kid"]
    assert kid != fields["kid"]
    with client_of(newest, renewed) as client:
        assert ids(page(client)) == [newest.keys()[0].id]


def test_a_null_revocation_undoes_one_by_rest(newest):
    """`revokedAt: null` un-revokes by REST too, which no client should send by accident."""
    [key_id] = newest.seed(["k"], revoked_at=DATE)
    with admin_of(newest) as client:
        client("PATCH", f"{LIST}/{key_id}", {"revokedAt": None})
        assert ids(page(client)) == [key_id]


def test_a_document_has_ten_root_fields_and_ten_levels(newest):
    """More of either, and a root field twice, is refused before anything runs."""
    with admin_of(newest) as client:
        deep = "{getRoles" + "{apiKeys" * 11 + "{id}" + "}" * 12
        [error] = client.query(deep)["errors"]
        assert "Maximum allowed nested fields: 10" in error["message"]
        [error] = client.query("{a:getRoles{id} b:getRoles{id}}")["errors"]
        assert error["message"] == 'Duplicate root resolver: "getRoles"'
        assert "errors" not in client.query("{getRoles{apiKeys{id}}}")


def test_throttling_and_spent_credits_by_around():
    """`around` answers as the newest does when it limits requests or has no credits left."""
    answers = [rate_limited, spent_credits]

    def around(request: Request, answer):
        return answers[0](request) if answers else answer(request)

    sandbox = Sandbox(None, Dialect.CORE_NEWEST, around=around)
    with sandbox, admin_of(sandbox) as client:
        limited = client("GET", LIST)
        assert (limited.status_code, limited.json()["error"]) == (429, "RATE_LIMITED")
        assert limited.json()["retryAfterSeconds"] == int(limited.headers["Retry-After"]) == 1
        assert limited.headers["X-RateLimit-Remaining"] == "0"
        [error] = client.query("{apiKeys{id}}")["errors"]
        assert error["extensions"] == {"code": "RATE_LIMITED", "retryAfterMs": 1000}
        del answers[0]
        assert client("GET", LIST).status_code == 402
        del answers[0]
        assert client("GET", LIST).status_code == 200
