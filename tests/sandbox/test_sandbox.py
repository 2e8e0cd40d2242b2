"""The embedded Twenty as a program: its state, tokens, limits and speed."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path

import pytest
import requests
from sandbox_client import admin_of, client_of
from sandbox_control import (
    API_KEYS_FLAG,
    ROLES_FLAG,
    ApiKey,
    Dialect,
    Sandbox,
    dialect_of,
    role,
)

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.token_claims import claims_of
from provisioner.sandbox.keys_core import LISTED
from provisioner.secret import Secret

DATE = "2031-01-01T00:00:00.417Z"
CORES = [Dialect.CORE, Dialect.CORE_1, Dialect.CORE_NEWEST]


@pytest.fixture(params=list(Dialect))
def dialect(request):
    return request.param


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "development"


def body_of(sandbox, name="k", **fields):
    body = {"name": name, "expiresAt": DATE, **fields}
    if sandbox.dialect is not Dialect.LEGACY:
        body["roleId"] = sandbox.role("Admin").id
    return body


def create(client, sandbox, name="k", **fields):
    answer = client("POST", "/rest/apiKeys", body_of(sandbox, name, **fields))
    assert answer.status_code == 201, answer.text
    created = answer.json()
    return created["data"]["createApiKey"] if "data" in created else created


def rows_of(sandbox):
    return sandbox.keys()


def message_of(answer):
    return answer.json()["messages"][0]


# --- The workspace and its file


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sandbox:", Dialect.CORE),
        ("sandbox:core", Dialect.CORE),
        ("sandbox:core-1", Dialect.CORE_1),
        ("sandbox:core-newest", Dialect.CORE_NEWEST),
        ("sandbox:legacy", Dialect.LEGACY),
    ],
)
def test_a_url_names_a_dialect(url, expected):
    """`sandbox:` without a name means the newest server."""
    assert dialect_of(url) is expected


@pytest.mark.parametrize("url", ["sandbox:nope", "https://crm.example.com", ""])
def test_the_error_for_a_wrong_url_lists_the_choices(url):
    """The error for a mistyped URL lists the valid ones."""
    with pytest.raises(ValueError, match=r"Use sandbox:, .*sandbox:legacy"):
        dialect_of(url)


def test_a_new_workspace_has_no_keys(dialect):
    """A new workspace has no unmanaged keys."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        listed = client("GET", "/rest/apiKeys").json()
        assert sandbox.keys() == ()
        assert listed == [] or listed["data"]["apiKeys"] == []


def test_state_survives_a_stop(file, dialect):
    """Keys, users, secrets and tokens of one run are valid in the next."""
    with Sandbox(file, dialect) as first, admin_of(first) as client:
        created = create(client, first, "survivor")
        before = (first.workspace_id, first.email, first.password, first.roles(), first.keys())
        session_token, api_token = first.session_token(), first.api_token()
    with Sandbox(file, dialect) as second:
        rows = second.keys()
        assert (second.workspace_id, second.email, second.password, second.roles()) == before[:4]
        assert [row.name for row in rows] == ["survivor", "provision"]
        assert rows[0].id == created["id"]
        assert rows[0].expires_at == DATE
        for token in (session_token, api_token):
            with client_of(second, token) as client:
                assert client("GET", "/rest/apiKeys").status_code == 200
        assert second.api_token()
        assert len(second.keys()) == 2


def test_two_servers_share_one_file(file, dialect):
    """Two runs at the same time see each other's keys."""
    with Sandbox(file, dialect) as first, Sandbox(file, dialect) as second:
        assert first.workspace_id == second.workspace_id
        with admin_of(first) as client:
            created = create(client, first)
        assert [row.id for row in rows_of(second)] == [created["id"]]


def test_many_servers_that_start_together_agree(file):
    """If several servers start on a missing file, one creates it and no other file remains."""
    with ThreadPoolExecutor(8) as pool:
        sandboxes = list(pool.map(lambda _: Sandbox(file).start(), range(8)))
    assert len({sandbox.workspace_id for sandbox in sandboxes}) == 1
    for sandbox in sandboxes:
        sandbox.stop()
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "development"]


def test_two_processes_write_at_once(file):
    """Writers in different processes wait for each other and lose no write."""
    script = (
        "import sys, requests\n"
        "from pathlib import Path\n"
        "from sandbox_control import Sandbox\n"
        "with Sandbox(Path(sys.argv[1])) as s, requests.Session() as http:\n"
        "    http.trust_env = False\n"
        "    http.headers['Authorization'] = 'Bearer ' + s.session_token()\n"
        "    body = {'name': sys.argv[2], 'expiresAt': '2031-01-01',"
        " 'roleId': s.role('Admin').id}\n"
        "    for _ in range(40):\n"
        "        assert http.post(s.url + '/rest/apiKeys', json=body).status_code == 201\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, str(file), name], env=environment
        )
        for name in ("a", "b")
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    with Sandbox(file) as sandbox:
        names = [row.name for row in rows_of(sandbox)]
    assert sorted(names) == ["a"] * 40 + ["b"] * 40


def test_the_file_is_private(file):
    """The file contains secrets: only its owner can read it, and git ignores it."""
    with Sandbox(file) as sandbox, admin_of(sandbox) as client:
        create(client, sandbox)
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
        ignored = (file.parent / ".gitignore").read_text(encoding="ascii")
    assert {mode for name, mode in modes.items() if name != ".gitignore"} == {0o600}
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert ignored == "*\n"


def test_a_directory_of_the_user_is_left_alone(tmp_path):
    """Only a directory that the sandbox created gets a `.gitignore`."""
    with Sandbox(tmp_path / "development"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["development"]


def test_a_clean_stop_leaves_one_file(file):
    """SQLite's log is merged into the file; a second stop does nothing."""
    sandbox = Sandbox(file).start()
    with admin_of(sandbox) as client:
        create(client, sandbox)
    sandbox.stop()
    sandbox.stop()
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "development"]


def test_without_a_file_nothing_is_left(tmp_path, monkeypatch):
    """A sandbox without a file leaves no files behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Sandbox(None) as sandbox:
        sandbox.seed(["a"])
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_dialect_is_refused(file):
    """A workspace keeps the dialect that it was created with."""
    with Sandbox(file, Dialect.LEGACY):
        pass
    with pytest.raises(WorkspaceError, match="sandbox:legacy, not of sandbox:core"):
        Sandbox(file, Dialect.CORE).start()


def test_a_file_that_is_not_a_workspace_is_refused(file):
    """A file that is not a workspace is left unchanged."""
    file.parent.mkdir()
    file.write_text("not a database, but long enough to look at" * 99, encoding="ascii")
    with pytest.raises(WorkspaceError, match="not a workspace of the embedded Twenty"):
        Sandbox(file).start()
    assert file.read_text(encoding="ascii").startswith("not a database")


def test_a_port_that_is_taken_is_reported(file):
    """The file is closed again if the server cannot start."""
    with Sandbox(None) as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            Sandbox(file, port=port).start()
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "development"]


def test_use_before_the_start_is_an_error():
    """Using a sandbox before `start` raises an error that says so."""
    with pytest.raises(RuntimeError, match="not been started"):
        _ = Sandbox(None).url


def test_naming_a_dialect_does_not_load_graphql():
    """Commands that only read `sandbox:` do not wait for graphql-core."""
    script = "import sys, provisioner.sandbox; sys.exit('graphql' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- Tokens


@pytest.mark.parametrize(
    ("mint", "status", "text"),
    [
        (lambda s: s.session_token(seconds=-1), 401, "Token has expired."),
        (lambda s: s.token_of(s.seed(["k"])[0], seconds=-1), 401, "Token has expired."),
        (lambda s: s.token_of(str(uuid.uuid4())), 403, "This API Key is revoked"),
        (lambda s: s.token_of(s.seed(["k"], revoked_at=DATE)[0]), 403, "This API Key is revoked"),
        (lambda s: s.session_token()[:-4] + "AAAA", 401, "Token invalid."),
        (lambda s: s.session_token() + "é", 401, None),
        (lambda _: "a.b.c", 401, None),
    ],
)
def test_an_invalid_token_is_refused(dialect, mint, status, text):
    """Expired, revoked, deleted, forged and malformed tokens get different answers."""
    with Sandbox(None, dialect) as sandbox:
        token = mint(sandbox).encode().decode("latin-1")
        garbage = "Token invalid." if dialect.recorded is Dialect.CORE else "No payload"
        with client_of(sandbox, token) as client:
            answer = client("GET", "/rest/apiKeys")
            graphql_answer = client.query("{__typename}")
    assert (answer.status_code, message_of(answer)) == (status, text or garbage)
    assert graphql_answer["errors"][0]["message"] == (text or garbage)


def test_a_revoked_token_stops_working_at_once(dialect):
    """The tokens of a revoked key are refused from the next request on."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as admin:
        key_id = sandbox.seed(["k"])[0]
        with client_of(sandbox, sandbox.token_of(key_id)) as client:
            assert client("GET", "/rest/apiKeys").status_code == 200
            admin("PATCH", f"/rest/apiKeys/{key_id}", {"revokedAt": "2026-01-01"})
            assert client("GET", "/rest/apiKeys").status_code == 403


@pytest.mark.parametrize("kind", ["loginToken", "refreshToken"])
def test_login_and_refresh_tokens_are_not_access_tokens(kind):
    """Only the access token is accepted as a bearer token."""
    with Sandbox(None) as sandbox, client_of(sandbox) as client:
        login, tokens = sign_in(client, sandbox)
        token = login if kind == "loginToken" else tokens[kind]["token"]
        with client_of(sandbox, token) as other:
            assert other("GET", "/rest/apiKeys").status_code == 401


def test_the_session_of_a_lost_user_is_refused(file):
    """The session of a deleted user is refused."""
    with Sandbox(file) as sandbox, admin_of(sandbox) as client:
        with sqlite3.connect(file) as database:
            database.execute("DELETE FROM user WHERE name = 'admin'")
        database.close()
        assert client("GET", "/rest/apiKeys").status_code == 401


def sign_in(client, sandbox):
    login = client.query(
        "mutation($e:String!,$p:String!){getLoginTokenFromCredentials(email:$e,password:$p,"
        'origin:"x"){loginToken{token expiresAt}}}',
        e=sandbox.email,
        p=sandbox.password,
    )["data"]["getLoginTokenFromCredentials"]["loginToken"]["token"]
    legacy = sandbox.dialect is Dialect.LEGACY
    access = "accessToken" if legacy else "accessOrWorkspaceAgnosticToken"
    tokens = client.query(
        "mutation($t:String!){getAuthTokensFromLoginToken(loginToken:$t,"
        f'origin:"x"){{tokens{{{access}{{token expiresAt}} refreshToken{{token expiresAt}}}}}}}}',
        t=login,
    )["data"]["getAuthTokensFromLoginToken"]["tokens"]
    return login, {**tokens, "access": tokens[access]}


def test_a_sign_in_lasts_session_seconds(dialect):
    """`session_seconds` is the lifetime of the access token, which is a real JWT."""
    with Sandbox(None, dialect, session_seconds=90) as sandbox, client_of(sandbox) as client:
        _, tokens = sign_in(client, sandbox)
        access = tokens["access"]["token"]
        claims = json.loads(base64.urlsafe_b64decode(access.split(".")[1] + "=="))
        assert claims["type"] == "ACCESS"
        assert claims["workspaceId"] == sandbox.workspace_id
        assert claims["userId"] == claims["sub"] == sandbox.user().id
        assert 80 < claims["exp"] - time.time() <= 91
        with client_of(sandbox, access) as signed_in:
            assert signed_in("GET", "/rest/apiKeys").status_code == 200
        second_use = client.query(
            f'mutation{{getAuthTokensFromLoginToken(loginToken:"{access}",origin:"x")'
            "{tokens{refreshToken{token}}}}"
        )
        assert second_use["errors"][0]["message"] == "Token invalid."


@pytest.mark.parametrize("dialect", CORES)
def test_a_sign_in_without_a_password_lists_what_is_wrong(dialect):
    """The answer lists only the constraints that are violated."""
    with Sandbox(None, dialect) as sandbox, client_of(sandbox) as client:
        answer = client.query(
            'mutation{getLoginTokenFromCredentials(email:"a@b.test",password:"",origin:"x")'
            "{loginToken{token}}}"
        )
    assert answer["errors"][0]["message"] == "password should not be empty"


def test_a_minted_token_carries_the_date_of_the_request(dialect):
    """`exp` is the requested date, `jti` is the key's id, and the token works."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        created = create(client, sandbox)
        token = client.query(
            f'mutation{{generateApiKeyToken(apiKeyId:"{created["id"]}",'
            'expiresAt:"2030-01-01T00:00:00Z"){token}}'
        )["data"]["generateApiKeyToken"]["token"]
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        assert claims["jti"] == created["id"]
        assert claims["type"] == "API_KEY"
        assert claims["sub"] == claims["workspaceId"] == sandbox.workspace_id
        assert claims["exp"] == 1893456000
        with client_of(sandbox, token) as holder:
            assert holder("GET", "/rest/apiKeys").status_code == 200


# --- Roles


def test_only_roles_with_the_permission_see_keys():
    """On 2.21 a role needs the API-keys permission, which a test can grant and withdraw."""
    query = "{apiKeys{id}}"
    with Sandbox(None) as sandbox:
        key_id = sandbox.seed(["k"], role="Integrations")[0]
        with client_of(sandbox, sandbox.token_of(key_id)) as client:
            assert client("GET", "/rest/apiKeys").json()["code"] == "PERMISSION_DENIED"
            assert client.query(query)["errors"][0]["extensions"]["subCode"] == "PERMISSION_DENIED"
            sandbox.permit("Integrations", API_KEYS_FLAG)
            assert client.query(query)["data"]["apiKeys"] == [{"id": key_id}]
            assert client.query("{getRoles{id}}")["data"] is None
            sandbox.permit("Integrations", API_KEYS_FLAG, ROLES_FLAG)
            assert len(client.query("{getRoles{id}}")["data"]["getRoles"]) == 4
            sandbox.permit("Integrations")
            assert client.query(query)["data"] is None


def test_a_user_may_get_another_role():
    """A test of permissions can give a member the Admin role."""
    with Sandbox(None) as sandbox, client_of(sandbox, sandbox.session_token("member")) as client:
        assert client("POST", "/rest/apiKeys", body_of(sandbox)).status_code == 400
        sandbox.enrol("member", "Admin")
        assert client("POST", "/rest/apiKeys", body_of(sandbox)).status_code == 201


def test_a_role_may_be_added():
    """A new role is listed last and can be assigned to keys if it is marked so."""
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        sandbox.put_role(role("Deployer", api_keys=True))
        listed = client.query("{getRoles{label canBeAssignedToApiKeys}}")["data"]["getRoles"]
        created = create(client, sandbox)
        assigned = client.query(
            "mutation($k:UUID!,$r:UUID!){assignRoleToApiKey(apiKeyId:$k,roleId:$r)}",
            k=created["id"],
            r=sandbox.role("Deployer").id,
        )
        key = client.query("{apiKeys{role{label}}}")["data"]["apiKeys"]
    assert listed[-1] == {"label": "Deployer", "canBeAssignedToApiKeys": True}
    assert assigned == {"data": {"assignRoleToApiKey": True}}
    assert key == [{"role": {"label": "Deployer"}}]


@pytest.mark.parametrize("dialect", CORES)
def test_a_key_without_a_role_breaks_the_list_with_roles(dialect):
    """One such key fails all of `apiKeys{role{…}}` (not recorded); a list without roles works."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        key_id = sandbox.seed(["k"], role=None)[0]
        broken = client.query("{apiKeys{id role{id}}}")
        whole = client.query("{apiKeys{id} getRoles{label apiKeys{id}}}")["data"]
        repaired = client.query(
            "mutation($k:UUID!,$r:UUID!){assignRoleToApiKey(apiKeyId:$k,roleId:$r)}",
            k=key_id,
            r=sandbox.role("Admin").id,
        )
        assert broken["data"] is None
        assert broken["errors"][0]["message"] == f"API key {key_id} has no role assigned"
        assert whole["apiKeys"] == [{"id": key_id}]
        assert all(not listed["apiKeys"] for listed in whole["getRoles"])
        assert "errors" not in repaired
        assert "errors" not in client.query("{apiKeys{id role{id}}}")


# --- Lists


def test_all_pages_of_a_long_legacy_list(dialect):
    """Legacy lists 2 325 keys page by page, each key once; core lists them in one answer."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        expected = set(sandbox.seed(f"k{number}" for number in range(2325)))
        if dialect is not Dialect.LEGACY:
            listed = client("GET", "/rest/apiKeys?limit=60").json()
            assert {key["id"] for key in listed} == expected
            return
        received, cursor, sizes = [], "", []
        while cursor is not None:
            answer = client("GET", f"/rest/apiKeys?starting_after={cursor}").json()
            received += [key["id"] for key in answer["data"]["apiKeys"]]
            sizes.append(len(answer["data"]["apiKeys"]))
            more = answer["pageInfo"]["hasNextPage"]
            cursor = answer["pageInfo"]["endCursor"] if more else None
        assert sizes == [60] * 38 + [45]
        assert len(received) == 2325
        assert set(received) == expected


def test_a_legacy_list_by_another_field():
    """Cursors contain the sort field, so that pages sorted by date list each key once."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        for _ in range(3):
            sandbox.seed(["a", "b", "c"])
        for order in ("DescNullsLast", "AscNullsFirst"):
            received, cursor = [], ""
            while cursor is not None:
                answer = client(
                    "GET",
                    f"/rest/apiKeys?limit=2&order_by=createdAt[{order}]&starting_after={cursor}",
                ).json()
                received += answer["data"]["apiKeys"]
                more = answer["pageInfo"]["hasNextPage"]
                cursor = answer["pageInfo"]["endCursor"] if more else None
            dates = [key["createdAt"] for key in received]
            assert len({key["id"] for key in received}) == 9
            assert dates == sorted(dates, reverse=order.startswith("Desc"))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("filter=name[in]:[a,c]", ["a", "c"]),
        ('filter=name[eq]:"a"', ["a"]),
        ("filter=name[in]:[a,b],revokedAt[is]:NULL", ["a"]),
        ("filter=revokedAt[is]:NOT_NULL", ["b"]),
        ("filter=name[like]:a", "'filter' invalid for 'name[like]:a'. eg: price[gte]:10"),
        ("filter=name", "'filter' invalid for 'name'. eg: price[gte]:10"),
        ("order_by=nope[AscNullsFirst]", "'order_by=nope[AscNullsFirst]' parameter invalid"),
        ("limit=inf", "limit 'inf' is invalid. Should be an integer"),
        ("starting_after=eyJ4IjoxfQ==", "Invalid cursor: eyJ4IjoxfQ=="),
    ],
)
def test_a_legacy_list_is_filtered(query, expected):
    """The filters that the client uses work; an invalid one is refused."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        sandbox.seed(["a", "c"])
        sandbox.seed(["b"], revoked_at=DATE)
        answer = client("GET", f"/rest/apiKeys?{query}")
        if isinstance(expected, str):
            assert message_of(answer) == expected
        else:
            names = [key["name"] for key in answer.json()["data"]["apiKeys"]]
            assert sorted(names) == expected


def test_a_legacy_connection_goes_both_ways():
    """GraphQL pages forwards and backwards through the same keys as REST."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        sandbox.seed("abcde")
        query = "{apiKeys(%s){totalCount edges{cursor node{id}} pageInfo{hasPreviousPage}}}"
        first = client.query(query % "first:3", "/graphql")["data"]["apiKeys"]
        cursor = first["edges"][-1]["cursor"]
        rest = client.query(query % f'after:"{cursor}"', "/graphql")["data"]["apiKeys"]
        back = client.query(query % f'last:2,before:"{cursor}"', "/graphql")["data"]["apiKeys"]
        invalid = client.query(query % 'after:"zzz"', "/graphql")
    assert len(first["edges"]) == 3
    assert len(rest["edges"]) == 2
    assert rest["pageInfo"]["hasPreviousPage"]
    assert back["edges"] == first["edges"][:2]
    assert invalid["errors"][0]["message"] == "Invalid cursor: zzz"


# --- Creating


def test_creates_overlap(dialect):
    """`create_seconds` applies to each create: four creates in parallel take as long as one."""
    journal = []
    barrier = threading.Barrier(4)

    def send_create(sandbox):
        with admin_of(sandbox) as client:
            client("GET", "/healthz")
            barrier.wait()
            return create(client, sandbox)

    with Sandbox(None, dialect, create_seconds=0.4, journal=journal) as sandbox:
        with ThreadPoolExecutor(4) as pool:
            created = list(pool.map(send_create, [sandbox] * 4))
        rows = sandbox.keys()
    posts = [exchange for exchange in journal if exchange.method == "POST"]
    assert len({key["id"] for key in created}) == len(rows) == len(posts) == 4
    assert all(exchange.ended - exchange.started >= 0.4 for exchange in posts)
    assert max(exchange.started for exchange in posts) < min(exchange.ended for exchange in posts)


def test_created_at_is_the_start_of_the_transaction(dialect):
    """A key becomes visible later than its `createdAt`; the client must allow for that."""
    with Sandbox(None, dialect, create_seconds=0.2) as sandbox, admin_of(sandbox) as client:
        before = time.time()
        created = create(client, sandbox)
        after = time.time()
    created_at = time.mktime(time.strptime(created["createdAt"][:19], "%Y-%m-%dT%H:%M:%S"))
    created_at += float(created["createdAt"][19:23]) - time.timezone
    assert before - 0.01 <= created_at < after - 0.19


def test_aliased_creates_run_in_order():
    """1.x runs the aliases of a document in order, each in its own transaction."""
    with Sandbox(None, Dialect.CORE_1, create_seconds=0.05) as sandbox, admin_of(sandbox) as client:
        role_id = sandbox.role("Admin").id
        document = " ".join(
            f'a{n}:createApiKey(input:{{name:"k{n}",expiresAt:"{DATE}",roleId:"{role_id}"}}){{id}}'
            for n in range(4)
        )
        answer = client.query(f"mutation{{{document}}}")
        rows = sandbox.keys()
    assert [key["id"] for key in answer["data"].values()] == [row.id for row in rows]
    assert all(first.created_at < second.created_at for first, second in pairwise(rows))


def test_a_race_for_one_id_makes_one_row():
    """Of several legacy creates with one id, one succeeds; the others get one of two errors."""
    journal = []
    with Sandbox(None, Dialect.LEGACY, create_seconds=0.1, journal=journal) as sandbox:
        key_id = str(uuid.uuid4())
        barrier = threading.Barrier(6)

        def send_create(number):
            with admin_of(sandbox) as client:
                barrier.wait()
                if number % 2:
                    return client("POST", "/rest/apiKeys", body_of(sandbox, id=key_id))
                return client("POST", "/rest/batch/apiKeys?depth=0", [body_of(sandbox, id=key_id)])

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(send_create, range(6)))
        rows = sandbox.keys()
        with admin_of(sandbox) as client:
            late = client("POST", "/rest/apiKeys", body_of(sandbox, id=key_id))
    assert [row.id for row in rows] == [key_id]
    assert sorted(answer.status_code for answer in answers) == [201] + [400] * 5
    texts = {message_of(answer) for answer in answers if answer.status_code == 400}
    assert any("duplicate key value" in text for text in texts)
    assert message_of(late) == "Record already exists"


def test_one_bad_record_rejects_the_batch():
    """A legacy batch is one transaction: all or nothing."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        taken = sandbox.seed(["taken"])[0]
        for spoiler in ({"name": "x"}, {"name": "x", "expiresAt": DATE, "id": taken}):
            answer = client("POST", "/rest/batch/apiKeys", [body_of(sandbox), spoiler])
            assert answer.status_code == 400
        assert [row.name for row in rows_of(sandbox)] == ["taken"]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("2031-01-01T00:00:00.4179Z", "2031-01-01T00:00:00.417Z"),
        ("2031", "2031-01-01T00:00:00.000Z"),
        ("2031-02", "2031-02-01T00:00:00.000Z"),
        ("2031-01-01T12:30", "2031-01-01T12:30:00.000Z"),
        ("2031-01-01T00:00:00-0530", "2031-01-01T05:30:00.000Z"),
        ("2031-02-30", None),
        ("2031-01-01T25:00:00Z", None),
        ("0001-01-01T00:00:00+01:00", None),
    ],
)
def test_all_dialects_parse_these_dates_the_same(dialect, written, stored):
    """Dates that both JavaScript and PostgreSQL parse are stored; others are refused."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        answer = client("POST", "/rest/apiKeys", {**body_of(sandbox), "expiresAt": written})
        if stored is None:
            assert "timestamp with time zone" in message_of(answer)
        else:
            assert sandbox.keys()[0].expires_at == stored


@pytest.mark.parametrize(
    ("written", "stored"), [(True, "1970-01-01T00:00:00.001Z"), (1e300, None), ([], None)]
)
def test_dates_that_are_not_texts_are_parsed_as_in_javascript(written, stored):
    """Numbers are milliseconds; values out of range are refused."""
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        answer = client("POST", "/rest/apiKeys", {**body_of(sandbox), "expiresAt": written})
        assert answer.status_code == (400 if stored is None else 201)
        assert [row.expires_at for row in rows_of(sandbox)] == [stored] * (stored is not None)


def test_the_words_of_postgres_are_dates_on_legacy():
    """PostgreSQL's `now` and names of days are dates (only `tomorrow` is recorded)."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        for word in ("now", "yesterday", "today", "tomorrow"):
            create(client, sandbox, word, expiresAt=word)
        dates = {row.name: row.expires_at for row in rows_of(sandbox)}
    assert dates["yesterday"] < dates["today"] <= dates["now"] < dates["tomorrow"]


@pytest.mark.parametrize("name", [True, 1.5, "\ud800x"])
def test_names_are_stored_as_texts(dialect, name):
    """A name of any type is stored as a text."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        raw = json.dumps(body_of(sandbox, name)).encode()
        answer = client(
            "POST", "/rest/apiKeys", data=raw, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 201
        assert sandbox.keys()[0].name in ("true", "1.5", "\N{REPLACEMENT CHARACTER}x")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'{"name": x}', 'Unexpected token \'x\', "{"name": x}" is not valid JSON'),
        (b'{"name": "x', "Unterminated string in JSON at position 9 (line 1 column 10)"),
        (b'"text"', 'Unexpected token \'"\', ""text"" is not valid JSON'),
        (b'{"name": "\xff"}', "Unexpected token '\N{REPLACEMENT CHARACTER}' in JSON"),
    ],
)
def test_a_body_that_is_not_json_is_refused_by_the_parser(dialect, raw, text):
    """The error has the framework's form: `message`, not `messages`."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        for path in ("/rest/apiKeys", "/metadata"):
            answer = client("POST", path, data=raw, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400
            assert answer.json()["message"] == text


# --- Changing


def test_a_change_of_a_legacy_key_is_checked():
    """PATCH refuses invalid values and never changes an id."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        key_id = sandbox.seed(["k"])[0]
        path = f"/rest/apiKeys/{key_id}"
        for change, text in (
            ({"name": None}, 'null value in column "name"'),
            ({"expiresAt": None}, 'null value in column "expiresAt"'),
            ({"expiresAt": "soon"}, 'timestamp with time zone: "soon"'),
            ({"nope": 1}, 'field "nope" is missing'),
        ):
            assert text in message_of(client("PATCH", path, change))
        moved = client("PATCH", path, {"id": str(uuid.uuid4()), "createdAt": DATE})
        assert moved.json()["data"]["updateApiKey"]["id"] == key_id
        assert client("POST", path, {}).status_code == 404


@pytest.mark.parametrize("dialect", CORES)
def test_a_change_of_a_core_key_is_checked(dialect):
    """An invalid date changes nothing, in REST and in GraphQL."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        key_id = sandbox.seed(["k"])[0]
        answer = client("PATCH", f"/rest/apiKeys/{key_id}", {"expiresAt": "soon"})
        graphql_answer = client.query(
            f'mutation{{updateApiKey(input:{{id:"{key_id}",revokedAt:"soon"}}){{id}}}}'
        )
        assert "0NaN" in message_of(answer)
        assert "0NaN" in graphql_answer["errors"][0]["message"]
        assert graphql_answer["data"] == {"updateApiKey": None}
        assert sandbox.keys()[0].revoked_at is None


def test_graphql_of_legacy_refuses_what_rest_refuses():
    """GraphQL and REST make the same checks."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        deleted = sandbox.seed(["k"])[0]
        missing = str(uuid.uuid4())
        assert "errors" not in client.query(
            f'mutation{{deleteApiKey(id:"{deleted}"){{id}}}}', "/graphql"
        )
        for mutation, text in (
            (
                f'createApiKey(data:{{id:"{deleted}",expiresAt:"{DATE}"}})',
                "Created record not found",
            ),
            ('createApiKey(data:{expiresAt:"soon"})', "timestamp with time zone"),
            (f'updateApiKey(id:"{missing}",data:{{name:"x"}})', "Could not find any entity"),
            (f'deleteApiKey(id:"{missing}")', "Could not find any entity"),
        ):
            answer = client.query(f"mutation{{{mutation}{{id}}}}", "/graphql")
            assert text in answer["errors"][0]["message"]
        many = client.query(
            "mutation($d:[ApiKeyCreateInput!]!){createApiKeys(data:$d){name}}",
            "/graphql",
            d=[{"id": deleted, "expiresAt": DATE}, {"name": "x", "expiresAt": DATE}],
        )
        assert many["data"]["createApiKeys"] == [None, {"name": "x"}]


@pytest.mark.parametrize("dialect", CORES)
def test_revoked_and_expired_keys_get_no_token(dialect):
    """Core mints no tokens for revoked or expired keys, for any caller."""
    query = 'mutation{generateApiKeyToken(apiKeyId:"%s",expiresAt:"2031-01-01"){token}}'
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        (revoked,) = sandbox.seed(["r"], revoked_at=DATE)
        (expired,) = sandbox.seed(["e"], expires_at="2020-01-01T00:00:00.000Z")
        for key_id, text in ((revoked, "is revoked"), (expired, "has expired")):
            answer = client.query(query % key_id)
            assert text in answer["errors"][0]["message"]
            assert answer["data"] is None


# --- GraphQL


@pytest.mark.parametrize(
    ("variables", "texts"),
    [
        ({}, ['Variable "$i" of required type "CreateApiKeyInput!" was not provided.']),
        ({"i": None}, ['Expected non-nullable type "CreateApiKeyInput!" not to be null.']),
        ({"i": "x"}, ['Expected type "CreateApiKeyInput" to be an object.']),
        (
            {"i": {"name": 1, "expiresAt": DATE, "roleId": 1, "revokedAt": None}},
            ["String cannot represent a non string value: 1", "Invalid UUID: '1'"],
        ),
    ],
)
def test_variables_are_checked_before_anything_runs(variables, texts):
    """Invalid variables are answered with HTTP 400 and graphql-js's texts, without their prefix."""
    document = "mutation($i:CreateApiKeyInput!,$j:Int){createApiKey(input:$i){id}}"
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        body = {"query": document.replace(",$j:Int", ""), "variables": variables}
        answer = client("POST", "/metadata", body)
        assert sandbox.keys() == ()
    assert answer.status_code == 400
    messages = [error["message"] for error in answer.json()["errors"]]
    assert sorted(messages) == sorted(texts)


def test_numbers_and_lists_are_checked_too():
    """A page size must be an integer; a single record is accepted as a list of one."""
    create_many = "mutation($d:[ApiKeyCreateInput!]!){createApiKeys(data:$d){name}}"
    page_query = "query($n:Int=1){apiKeys(first:$n){totalCount}}"
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        single = client.query(create_many, "/graphql", d={"name": "a", "expiresAt": DATE})
        invalid = client.query(create_many, "/graphql", d=[{"name": "a"}])
        size = client.query(page_query, "/graphql", n="x")
        default = client.query(page_query, "/graphql")
    assert single["data"]["createApiKeys"] == [{"name": "a"}]
    assert "expiresAt" in invalid["errors"][0]["message"]
    assert size["errors"][0]["message"] == "Int cannot represent non-integer value: x"
    assert default["data"]["apiKeys"]["totalCount"] == 1


def test_a_request_without_a_document_is_refused(dialect):
    """The error names the missing document (not recorded)."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        answer = client("POST", "/metadata", {"variables": {}})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"] == "Must provide query string."


def test_an_operation_is_chosen_by_its_name():
    """If a document has several operations, the named one runs."""
    with Sandbox(None, Dialect.CORE_1) as sandbox, admin_of(sandbox) as client:
        body = {"query": "query A{apiKeys{id}} query B{__typename}", "operationName": "B"}
        assert client("POST", "/metadata", body).json() == {"data": {"__typename": "Query"}}


# --- The server


def test_a_connection_carries_many_requests():
    """One connection serves several requests; each answer has a `Date`."""
    with Sandbox(None) as sandbox:
        connection = HTTPConnection("127.0.0.1", int(sandbox.url.rpartition(":")[2]), timeout=30)
        for _ in range(3):
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert answer.read()
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} .* GMT", answer.headers["Date"])
            assert connection.sock is not None
        connection.close()


def test_a_body_without_a_length_is_refused():
    """A chunked body is answered with 411 instead of waiting for its end."""
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        assert client("POST", "/metadata", data=iter([b"{}"])).status_code == 411


def test_a_stop_finishes_requests_in_progress(file, monkeypatch):
    """A create in progress is answered and stored; idle connections are closed."""
    started, finish = threading.Event(), threading.Event()

    def wait_for_create(_store):
        started.set()
        assert finish.wait(30)

    monkeypatch.setattr("sandbox_control.SlowStore.wait_for_create", wait_for_create)
    sandbox = Sandbox(file).start()
    with client_of(sandbox) as idle, admin_of(sandbox) as client, ThreadPoolExecutor(2) as pool:
        idle("GET", "/healthz")
        sent = pool.submit(client, "POST", "/rest/apiKeys", body_of(sandbox))
        started.wait(30)
        stopped = pool.submit(sandbox.stop)
        with pytest.raises(requests.ConnectionError):
            list(iter(lambda: idle("GET", "/healthz"), None))
        assert not stopped.done()
        finish.set()
        assert sent.result().status_code == 201
        stopped.result()
    with Sandbox(file) as second:
        assert len(second.keys()) == 1


def test_a_stop_does_not_wait_forever(file, monkeypatch):
    """A create that does not finish in time does not keep the file open."""
    started, finish, ended = threading.Event(), threading.Event(), threading.Event()

    def wait_for_create(store):
        started.set()
        assert finish.wait(30)
        store.count(LISTED)
        ended.set()

    monkeypatch.setattr("sandbox_control.SlowStore.wait_for_create", wait_for_create)
    monkeypatch.setattr("provisioner.sandbox.server.STOP_SECONDS", 0.0)
    sandbox = Sandbox(file).start()
    with admin_of(sandbox) as client, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(client, "POST", "/rest/apiKeys", body_of(sandbox))
        started.wait(30)
        sandbox.stop()
        finish.set()
        assert ended.wait(30)
        assert sent.result().status_code == 201
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "development"]


def test_a_client_that_disconnects_is_not_logged(caplog, monkeypatch):
    """A client that disconnects before the answer causes no log message."""
    disconnected = threading.Event()
    monkeypatch.setattr(
        "sandbox_control.SlowStore.wait_for_create",
        lambda _: disconnected.wait(30) and None,
    )
    with Sandbox(None) as sandbox:
        connection = HTTPConnection("127.0.0.1", int(sandbox.url.rpartition(":")[2]), timeout=30)
        body = json.dumps({**body_of(sandbox), "name": "k" * 10_000_000})
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {sandbox.session_token()}",
        }
        connection.request("POST", "/rest/apiKeys", body, headers)
        connection.close()
        disconnected.set()
    assert caplog.records == []


def test_a_bug_in_the_sandbox_is_logged(caplog, monkeypatch):
    """A bug closes the connection, and the log has it."""

    def broken(_store):
        raise ZeroDivisionError

    monkeypatch.setattr("sandbox_control.SlowStore.wait_for_create", broken)
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        with pytest.raises(requests.ConnectionError):
            client("POST", "/rest/apiKeys", body_of(sandbox))
        assert sandbox.keys() == ()
    assert [record.message for record in caplog.records] == ["the sandbox failed to answer"]


@pytest.mark.parametrize("dialect", CORES)
def test_a_bug_inside_graphql_is_an_internal_error(dialect, monkeypatch):
    """GraphQL answers an unexpected exception with the code INTERNAL_SERVER_ERROR."""

    def broken(_store):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("sandbox_control.SlowStore.wait_for_create", broken)
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        answer = client.query(
            "mutation($i:CreateApiKeyInput!){createApiKey(input:$i){id}}", i=body_of(sandbox)
        )
    assert answer["errors"][0]["message"] == "oh"
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"


def test_the_journal_has_every_exchange():
    """The journal has the request, the status and the times of each exchange, in order."""
    journal = []
    with Sandbox(None, journal=journal) as sandbox, admin_of(sandbox) as client:
        client("GET", "/rest/apiKeys?limit=60")
        client("POST", "/rest/apiKeys", {})
    first, second = journal
    assert (first.method, first.path, first.body, first.status) == (
        "GET",
        "/rest/apiKeys?limit=60",
        b"",
        200,
    )
    assert (second.method, second.body, second.status) == ("POST", b"{}", 400)
    assert first.started <= first.ended <= second.started <= second.ended


# --- Helpers for tests


def test_rows_can_be_added_and_deleted():
    """Tests can add, replace and delete rows."""
    with Sandbox(None) as sandbox:
        key = ApiKey(
            id=str(uuid.uuid4()), name="a", expires_at=DATE, created_at=DATE, updated_at=DATE
        )
        sandbox.put(key)
        changed = dataclasses.replace(key, name="b", revoked_at=DATE)
        sandbox.put(changed)
        sandbox.seed(["c", "d"])
        assert sandbox.keys()[0] == changed
        assert sandbox.forget([key.id, str(uuid.uuid4())]) == 1
        assert sandbox.forget() == 2
        assert sandbox.keys() == ()


def test_api_token_creates_a_new_key_if_the_old_one_is_revoked(dialect):
    """`api_token` always returns a valid token."""
    with Sandbox(None, dialect) as sandbox:
        sandbox.seed(["provision"], revoked_at=DATE)
        with client_of(sandbox, sandbox.api_token()) as client:
            assert client("GET", "/rest/apiKeys").status_code == 200
        assert len(sandbox.keys()) == 2


def test_large_lists_are_fast():
    """The sandbox seeds and lists 10 000 keys fast, so that benchmarks measure the client."""
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        started = time.monotonic()
        sandbox.seed(f"k{number}" for number in range(10_000))
        listed = client("GET", "/rest/apiKeys").json()
        assert len(listed) == 10_000
        assert time.monotonic() - started < 5


def test_a_locked_file_is_not_reported_as_broken(tmp_path: Path) -> None:
    """The error for a locked file says to wait, not to move the file away."""
    file = tmp_path / "workspace.sqlite3"
    with Sandbox(file):
        pass
    holder = sqlite3.connect(file, isolation_level=None)
    try:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(WorkspaceError) as raised:
            Sandbox(file, lock_wait=0.05).start()
    finally:
        holder.close()
    failure = raised.value.failure
    assert failure.code == "sandbox_unusable"
    assert "is locked by another program" in failure.text
    assert "wait until it finishes" in failure.text


def test_tokens_of_the_embedded_twenty_are_read(tmp_path) -> None:
    """The claims of a key's token name the key; those of a user's session name none."""
    with Sandbox(tmp_path / "state.sqlite3") as sandbox:
        [key_id] = sandbox.seed(["a"])
        of_key = claims_of(Secret(sandbox.token_of(key_id)))
        of_user = claims_of(Secret(sandbox.session_token()))
        workspace = sandbox.workspace_id
    assert of_key is not None
    assert of_user is not None
    assert (of_key.key, of_key.workspace, of_key.kind) == (key_id, workspace, "API_KEY")
    assert (of_user.key, of_user.workspace, of_user.kind) == (None, workspace, "ACCESS")
