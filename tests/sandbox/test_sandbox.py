"""The embedded Twenty as a program: its state, its tokens, its limits, its speed."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import requests

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import failure_of
from provisioner.model.token_claims import claims_of
from provisioner.sandbox import (
    API_KEYS_FLAG,
    ROLES_FLAG,
    ApiKey,
    Dialect,
    Sandbox,
    dialect_of,
    role,
)
from provisioner.sandbox.keys_core import LISTED
from provisioner.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path

DATE = "2031-01-01T00:00:00.417Z"
CORES = [Dialect.CORE, Dialect.CORE_1]


class Client:
    """As much of a client as the tests need."""

    def __init__(self, sandbox, token=None):
        self.url = sandbox.url
        self.session = requests.Session()
        self.session.trust_env = False
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, method, path, body=None, **more):
        return self.session.request(method, self.url + path, json=body, timeout=30, **more)

    def ask(self, query, path="/metadata", **variables):
        answer = self("POST", path, {"query": query, "variables": variables})
        return answer.json()


@contextmanager
def client_of(sandbox, token=None):
    client = Client(sandbox, token)
    with client.session:
        yield client


@contextmanager
def admin_of(sandbox):
    with client_of(sandbox, sandbox.session_token()) as client:
        yield client


@pytest.fixture(params=list(Dialect))
def dialect(request):
    return request.param


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "development"


def body_of(sandbox, name="k", **more):
    body = {"name": name, "expiresAt": DATE, **more}
    if sandbox.dialect is not Dialect.LEGACY:
        body["roleId"] = sandbox.role("Admin").id
    return body


def create(client, sandbox, name="k", **more):
    answer = client("POST", "/rest/apiKeys", body_of(sandbox, name, **more))
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return made["data"]["createApiKey"] if "data" in made else made


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
        ("sandbox:legacy", Dialect.LEGACY),
    ],
)
def test_a_url_names_a_dialect(url, expected):
    """`sandbox:` alone is the newest server."""
    assert dialect_of(url) is expected


@pytest.mark.parametrize("url", ["sandbox:nope", "https://crm.example.com", ""])
def test_a_wrong_url_says_what_to_write(url):
    """A typing error is answered with the choices."""
    with pytest.raises(ValueError, match=r"write sandbox: or one of .*sandbox:legacy"):
        dialect_of(url)


def test_a_fresh_workspace_holds_no_key(dialect):
    """Nothing in it is unmanaged when a user meets it."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        listed = client("GET", "/rest/apiKeys").json()
        assert sandbox.keys() == ()
        assert listed == [] or listed["data"]["apiKeys"] == []


def test_state_survives_a_stop(file, dialect):
    """Keys, users, secrets and tokens of one run are good in the next."""
    with Sandbox(file, dialect) as first, admin_of(first) as client:
        made = create(client, first, "survivor")
        before = (first.workspace_id, first.email, first.password, first.roles(), first.keys())
        token, own = first.session_token(), first.api_token()
    with Sandbox(file, dialect) as second:
        rows = second.keys()
        assert (second.workspace_id, second.email, second.password, second.roles()) == before[:4]
        assert [row.name for row in rows] == ["survivor", "provision"]
        assert rows[0].id == made["id"]
        assert rows[0].expires_at == DATE
        for kept in (token, own):
            with client_of(second, kept) as client:
                assert client("GET", "/rest/apiKeys").status_code == 200
        assert second.api_token()
        assert len(second.keys()) == 2


def test_two_servers_share_one_file(file, dialect):
    """Two runs at once see each other's keys."""
    with Sandbox(file, dialect) as one, Sandbox(file, dialect) as other:
        assert one.workspace_id == other.workspace_id
        with admin_of(one) as client:
            made = create(client, one)
        assert [row.id for row in rows_of(other)] == [made["id"]]


def test_many_servers_that_start_together_agree(file):
    """Of several first starts at once one makes the workspace, and nothing else is left over."""
    with ThreadPoolExecutor(8) as pool:
        sandboxes = list(pool.map(lambda _: Sandbox(file).start(), range(8)))
    assert len({sandbox.workspace_id for sandbox in sandboxes}) == 1
    for sandbox in sandboxes:
        sandbox.stop()
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "development"]


def test_two_processes_write_at_once(file):
    """Writers of different processes wait for each other and lose nothing."""
    script = (
        "import sys, requests\n"
        "from pathlib import Path\n"
        "from provisioner.sandbox import Sandbox\n"
        "with Sandbox(Path(sys.argv[1])) as s, requests.Session() as http:\n"
        "    http.trust_env = False\n"
        "    http.headers['Authorization'] = 'Bearer ' + s.session_token()\n"
        "    body = {'name': sys.argv[2], 'expiresAt': '2031-01-01',"
        " 'roleId': s.role('Admin').id}\n"
        "    for _ in range(40):\n"
        "        assert http.post(s.url + '/rest/apiKeys', json=body).status_code == 201\n"
    )
    runs = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", script, str(file), name])
        for name in ("a", "b")
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    with Sandbox(file) as sandbox:
        names = [row.name for row in rows_of(sandbox)]
    assert sorted(names) == ["a"] * 40 + ["b"] * 40


def test_the_file_is_private(file):
    """It holds a signing secret and a password: only its owner reads it, and git never."""
    with Sandbox(file) as sandbox, admin_of(sandbox) as client:
        create(client, sandbox)
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
        ignored = (file.parent / ".gitignore").read_text(encoding="ascii")
    assert {mode for name, mode in modes.items() if name != ".gitignore"} == {0o600}
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert ignored == "*\n"


def test_a_directory_of_the_user_is_left_alone(tmp_path):
    """Only a directory that the sandbox made gets a `.gitignore`."""
    with Sandbox(tmp_path / "development"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["development"]


def test_a_clean_stop_leaves_one_file(file):
    """SQLite's log is folded into the file; a second stop does nothing."""
    sandbox = Sandbox(file).start()
    with admin_of(sandbox) as client:
        create(client, sandbox)
    sandbox.stop()
    sandbox.stop()
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "development"]


def test_without_a_file_nothing_is_left(tmp_path, monkeypatch):
    """A sandbox for one test leaves no trace."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Sandbox(None) as sandbox:
        sandbox.seed(["a"])
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_dialect_is_refused(file):
    """A workspace keeps the roles of the dialect that it was made with."""
    with Sandbox(file, Dialect.LEGACY):
        pass
    with pytest.raises(WorkspaceError, match="sandbox:legacy, not of sandbox:core"):
        Sandbox(file, Dialect.CORE).start()


def test_a_foreign_file_is_refused(file):
    """A file that is something else is neither read nor overwritten."""
    file.parent.mkdir()
    file.write_text("not a database, but long enough to look at" * 99, encoding="ascii")
    with pytest.raises(WorkspaceError, match="not a workspace of the embedded Twenty"):
        Sandbox(file).start()
    assert file.read_text(encoding="ascii").startswith("not a database")


def test_a_port_that_is_taken_is_reported(file):
    """The state is closed again when the server cannot start."""
    with Sandbox(None) as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            Sandbox(file, port=port).start()
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "development"]


def test_before_the_start_there_is_nothing_to_ask():
    """A forgotten start is said, not guessed around."""
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
def test_a_token_that_opens_nothing_is_refused(dialect, mint, status, text):
    """Expired, revoked, deleted, forged and garbage tokens are told apart."""
    with Sandbox(None, dialect) as sandbox:
        token = mint(sandbox).encode().decode("latin-1")
        garbage = "Token invalid." if dialect is Dialect.CORE else "No payload"
        with client_of(sandbox, token) as client:
            answer = client("GET", "/rest/apiKeys")
            asked = client.ask("{__typename}")
    assert (answer.status_code, message_of(answer)) == (status, text or garbage)
    assert asked["errors"][0]["message"] == (text or garbage)


def test_a_revoked_token_dies_at_once(dialect):
    """Revoking a key closes every door to its tokens with the next request."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as admin:
        key_id = sandbox.seed(["k"])[0]
        with client_of(sandbox, sandbox.token_of(key_id)) as client:
            assert client("GET", "/rest/apiKeys").status_code == 200
            admin("PATCH", f"/rest/apiKeys/{key_id}", {"revokedAt": "2026-01-01"})
            assert client("GET", "/rest/apiKeys").status_code == 403


@pytest.mark.parametrize("kind", ["loginToken", "refreshToken"])
def test_a_token_of_the_sign_in_is_no_access_token(kind):
    """Only the access token opens anything."""
    with Sandbox(None) as sandbox, client_of(sandbox) as client:
        login, tokens = sign_in(client, sandbox)
        token = login if kind == "loginToken" else tokens[kind]["token"]
        with client_of(sandbox, token) as other:
            assert other("GET", "/rest/apiKeys").status_code == 401


def test_the_session_of_a_lost_user_is_refused(file):
    """A session whose user is gone opens nothing."""
    with Sandbox(file) as sandbox, admin_of(sandbox) as client:
        with sqlite3.connect(file) as database:
            database.execute("DELETE FROM user WHERE name = 'admin'")
        database.close()
        assert client("GET", "/rest/apiKeys").status_code == 401


def sign_in(client, sandbox):
    login = client.ask(
        "mutation($e:String!,$p:String!){getLoginTokenFromCredentials(email:$e,password:$p,"
        'origin:"x"){loginToken{token expiresAt}}}',
        e=sandbox.email,
        p=sandbox.password,
    )["data"]["getLoginTokenFromCredentials"]["loginToken"]["token"]
    legacy = sandbox.dialect is Dialect.LEGACY
    access = "accessToken" if legacy else "accessOrWorkspaceAgnosticToken"
    tokens = client.ask(
        "mutation($t:String!){getAuthTokensFromLoginToken(loginToken:$t,"
        f'origin:"x"){{tokens{{{access}{{token expiresAt}} refreshToken{{token expiresAt}}}}}}}}',
        t=login,
    )["data"]["getAuthTokensFromLoginToken"]["tokens"]
    return login, {**tokens, "access": tokens[access]}


def test_a_sign_in_lasts_as_long_as_asked(dialect):
    """`session_seconds` is the life of the access token, and the token is a real one."""
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
        second_use = client.ask(
            f'mutation{{getAuthTokensFromLoginToken(loginToken:"{access}",origin:"x")'
            "{tokens{refreshToken{token}}}}"
        )
        assert second_use["errors"][0]["message"] == "Token invalid."


@pytest.mark.parametrize("dialect", CORES)
def test_a_sign_in_without_a_password_lists_what_is_wrong(dialect):
    """The constraint texts come together, and only those that apply."""
    with Sandbox(None, dialect) as sandbox, client_of(sandbox) as client:
        answer = client.ask(
            'mutation{getLoginTokenFromCredentials(email:"a@b.test",password:"",origin:"x")'
            "{loginToken{token}}}"
        )
    assert answer["errors"][0]["message"] == "password should not be empty"


def test_a_minted_token_carries_the_date_of_the_request(dialect):
    """`exp` is the argument's, `jti` the key's, and the token works."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        made = create(client, sandbox)
        token = client.ask(
            f'mutation{{generateApiKeyToken(apiKeyId:"{made["id"]}",'
            'expiresAt:"2030-01-01T00:00:00Z"){token}}'
        )["data"]["generateApiKeyToken"]["token"]
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        assert claims["jti"] == made["id"]
        assert claims["type"] == "API_KEY"
        assert claims["sub"] == claims["workspaceId"] == sandbox.workspace_id
        assert claims["exp"] == 1893456000
        with client_of(sandbox, token) as holder:
            assert holder("GET", "/rest/apiKeys").status_code == 200


# --- Roles


def test_only_roles_with_the_permission_see_keys():
    """Of 2.21 a role needs the API-keys permission; it can be given and taken on the fly."""
    query = "{apiKeys{id}}"
    with Sandbox(None) as sandbox:
        key_id = sandbox.seed(["k"], role="Integrations")[0]
        with client_of(sandbox, sandbox.token_of(key_id)) as client:
            assert client("GET", "/rest/apiKeys").json()["code"] == "PERMISSION_DENIED"
            assert client.ask(query)["errors"][0]["extensions"]["subCode"] == "PERMISSION_DENIED"
            sandbox.permit("Integrations", API_KEYS_FLAG)
            assert client.ask(query)["data"]["apiKeys"] == [{"id": key_id}]
            assert client.ask("{getRoles{id}}")["data"] is None
            sandbox.permit("Integrations", API_KEYS_FLAG, ROLES_FLAG)
            assert len(client.ask("{getRoles{id}}")["data"]["getRoles"]) == 4
            sandbox.permit("Integrations")
            assert client.ask(query)["data"] is None


def test_a_user_may_get_another_role():
    """Members become administrators, for tests of permissions."""
    with Sandbox(None) as sandbox, client_of(sandbox, sandbox.session_token("member")) as client:
        assert client("POST", "/rest/apiKeys", body_of(sandbox)).status_code == 400
        sandbox.enrol("member", "Admin")
        assert client("POST", "/rest/apiKeys", body_of(sandbox)).status_code == 201


def test_a_role_may_be_added():
    """A new role is listed last and may be given to keys when it says so."""
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        sandbox.put_role(role("Deployer", api_keys=True))
        listed = client.ask("{getRoles{label canBeAssignedToApiKeys}}")["data"]["getRoles"]
        made = create(client, sandbox)
        assigned = client.ask(
            "mutation($k:UUID!,$r:UUID!){assignRoleToApiKey(apiKeyId:$k,roleId:$r)}",
            k=made["id"],
            r=sandbox.role("Deployer").id,
        )
        key = client.ask("{apiKeys{role{label}}}")["data"]["apiKeys"]
    assert listed[-1] == {"label": "Deployer", "canBeAssignedToApiKeys": True}
    assert assigned == {"data": {"assignRoleToApiKey": True}}
    assert key == [{"role": {"label": "Deployer"}}]


@pytest.mark.parametrize("dialect", CORES)
def test_a_key_without_a_role_breaks_the_list_with_roles(dialect):
    """One such key fails `apiKeys{role{…}}` as a whole (not recorded); without roles it lists."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        key_id = sandbox.seed(["k"], role=None)[0]
        broken = client.ask("{apiKeys{id role{id}}}")
        whole = client.ask("{apiKeys{id} getRoles{label apiKeys{id}}}")["data"]
        repaired = client.ask(
            "mutation($k:UUID!,$r:UUID!){assignRoleToApiKey(apiKeyId:$k,roleId:$r)}",
            k=key_id,
            r=sandbox.role("Admin").id,
        )
        assert broken["data"] is None
        assert broken["errors"][0]["message"] == f"API key {key_id} has no role assigned"
        assert whole["apiKeys"] == [{"id": key_id}]
        assert all(not listed["apiKeys"] for listed in whole["getRoles"])
        assert "errors" not in repaired
        assert "errors" not in client.ask("{apiKeys{id role{id}}}")


# --- Lists


def test_all_pages_of_a_long_legacy_list(dialect):
    """2 325 keys come page by page, each once; core gives them at once."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        wanted = set(sandbox.seed(f"k{number}" for number in range(2325)))
        if dialect is not Dialect.LEGACY:
            listed = client("GET", "/rest/apiKeys?limit=60").json()
            assert {key["id"] for key in listed} == wanted
            return
        seen, cursor, sizes = [], "", []
        while cursor is not None:
            answer = client("GET", f"/rest/apiKeys?starting_after={cursor}").json()
            seen += [key["id"] for key in answer["data"]["apiKeys"]]
            sizes.append(len(answer["data"]["apiKeys"]))
            more = answer["pageInfo"]["hasNextPage"]
            cursor = answer["pageInfo"]["endCursor"] if more else None
        assert sizes == [60] * 38 + [45]
        assert len(seen) == 2325
        assert set(seen) == wanted


def test_the_paged_core_list():
    """About 2.4x pages one route and marks the other as old (not recorded)."""
    with Sandbox(None, page_core_list=True) as sandbox, admin_of(sandbox) as client:
        empty = client("GET", "/rest/metadata/apiKeys").json()
        assert empty == {
            "data": [],
            "pageInfo": {
                "hasNextPage": False,
                "hasPreviousPage": False,
                "startCursor": None,
                "endCursor": None,
            },
            "totalCount": 0,
        }
        wanted = set(sandbox.seed(f"k{number}" for number in range(450)))
        seen, cursor, sizes = [], "", []
        while cursor is not None:
            path = f"/rest/metadata/apiKeys?limit=1000&starting_after={cursor}"
            answer = client("GET", path).json()
            ids = [key["id"] for key in answer["data"]]
            info = answer["pageInfo"]
            assert answer["totalCount"] == 450
            assert (info["startCursor"], info["endCursor"]) == (ids[0], ids[-1])
            assert info["hasPreviousPage"] is bool(seen)
            seen += ids
            sizes.append(len(ids))
            cursor = info["endCursor"] if info["hasNextPage"] else None
        assert sizes == [200, 200, 50]
        assert set(seen) == wanted
        assert len(client("GET", "/rest/metadata/apiKeys").json()["data"]) == 60
        old = client("GET", "/rest/apiKeys")
        assert len(old.json()) == 450
        assert old.headers["Deprecation"]
        assert 'rel="successor-version"' in old.headers["Link"]


def test_a_legacy_list_by_another_field():
    """Cursors hold the ordering field, so pages by date meet no key twice."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        for _ in range(3):
            sandbox.seed(["a", "b", "c"])
        for order, before in (("DescNullsLast", "after"), ("AscNullsFirst", "after")):
            seen, cursor = [], ""
            while cursor is not None:
                answer = client(
                    "GET",
                    f"/rest/apiKeys?limit=2&order_by=createdAt[{order}]&starting_{before}={cursor}",
                ).json()
                seen += answer["data"]["apiKeys"]
                more = answer["pageInfo"]["hasNextPage"]
                cursor = answer["pageInfo"]["endCursor"] if more else None
            dates = [key["createdAt"] for key in seen]
            assert len({key["id"] for key in seen}) == 9
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
    """The filters that the client uses work, and a mistake in one is refused."""
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
    """GraphQL pages forwards and backwards over the same keys as REST."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        sandbox.seed("abcde")
        query = "{apiKeys(%s){totalCount edges{cursor node{id}} pageInfo{hasPreviousPage}}}"
        first = client.ask(query % "first:3", "/graphql")["data"]["apiKeys"]
        cursor = first["edges"][-1]["cursor"]
        rest = client.ask(query % f'after:"{cursor}"', "/graphql")["data"]["apiKeys"]
        back = client.ask(query % f'last:2,before:"{cursor}"', "/graphql")["data"]["apiKeys"]
        wrong = client.ask(query % 'after:"zzz"', "/graphql")
    assert len(first["edges"]) == 3
    assert len(rest["edges"]) == 2
    assert rest["pageInfo"]["hasPreviousPage"]
    assert back["edges"] == first["edges"][:2]
    assert wrong["errors"][0]["message"] == "Invalid cursor: zzz"


# --- Creating


def test_creates_take_their_time_side_by_side(dialect):
    """`create_seconds` is per create, not per server: four at once take as long as one."""
    journal = []
    together = threading.Barrier(4)

    def one(sandbox):
        with admin_of(sandbox) as client:
            client("GET", "/healthz")
            together.wait()
            return create(client, sandbox)

    with Sandbox(None, dialect, create_seconds=0.4, journal=journal) as sandbox:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(one, [sandbox] * 4))
        rows = sandbox.keys()
    posts = [exchange for exchange in journal if exchange.method == "POST"]
    assert len({key["id"] for key in made}) == len(rows) == len(posts) == 4
    assert all(exchange.ended - exchange.started >= 0.4 for exchange in posts)
    assert max(exchange.started for exchange in posts) < min(exchange.ended for exchange in posts)


def test_created_at_is_the_start_of_the_transaction(dialect):
    """A key becomes visible later than it says it was made: the client must allow for that."""
    with Sandbox(None, dialect, create_seconds=0.2) as sandbox, admin_of(sandbox) as client:
        before = time.time()
        made = create(client, sandbox)
        after = time.time()
    stamp = time.mktime(time.strptime(made["createdAt"][:19], "%Y-%m-%dT%H:%M:%S"))
    stamp += float(made["createdAt"][19:23]) - time.timezone
    assert before - 0.01 <= stamp < after - 0.19


def test_aliased_creates_take_their_time_one_after_the_other():
    """1.x runs the aliases of a document in order, each in a transaction of its own."""
    with Sandbox(None, Dialect.CORE_1, create_seconds=0.05) as sandbox, admin_of(sandbox) as client:
        role_id = sandbox.role("Admin").id
        document = " ".join(
            f'a{n}:createApiKey(input:{{name:"k{n}",expiresAt:"{DATE}",roleId:"{role_id}"}}){{id}}'
            for n in range(4)
        )
        answer = client.ask(f"mutation{{{document}}}")
        rows = sandbox.keys()
    assert [key["id"] for key in answer["data"].values()] == [row.id for row in rows]
    assert all(one.created_at < other.created_at for one, other in pairwise(rows))


def test_a_race_for_one_id_makes_one_row():
    """Of equal legacy creates at once one wins; the others say which of the two texts."""
    journal = []
    with Sandbox(None, Dialect.LEGACY, create_seconds=0.1, journal=journal) as sandbox:
        key_id = str(uuid.uuid4())
        together = threading.Barrier(6)

        def one(number):
            with admin_of(sandbox) as client:
                together.wait()
                if number % 2:
                    return client("POST", "/rest/apiKeys", body_of(sandbox, id=key_id))
                return client("POST", "/rest/batch/apiKeys?depth=0", [body_of(sandbox, id=key_id)])

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(one, range(6)))
        rows = sandbox.keys()
        with admin_of(sandbox) as client:
            late = client("POST", "/rest/apiKeys", body_of(sandbox, id=key_id))
    assert [row.id for row in rows] == [key_id]
    assert sorted(answer.status_code for answer in answers) == [201] + [400] * 5
    texts = {message_of(answer) for answer in answers if answer.status_code == 400}
    assert any("duplicate key value" in text for text in texts)
    assert message_of(late) == "Record already exists"


def test_a_bad_record_spoils_its_batch():
    """A legacy batch is one transaction: all or nothing."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        taken = sandbox.seed(["taken"])[0]
        for spoiler in ({"name": "x"}, {"name": "x", "expiresAt": DATE, "id": taken}):
            answer = client("POST", "/rest/batch/apiKeys", [body_of(sandbox), spoiler])
            assert answer.status_code == 400
        assert [row.name for row in rows_of(sandbox)] == ["taken"]


@pytest.mark.parametrize(
    ("written", "kept"),
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
def test_dates_are_read_alike(dialect, written, kept):
    """What both JavaScript and PostgreSQL read is read; what neither reads is refused."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        answer = client("POST", "/rest/apiKeys", {**body_of(sandbox), "expiresAt": written})
        if kept is None:
            assert "timestamp with time zone" in message_of(answer)
        else:
            assert sandbox.keys()[0].expires_at == kept


@pytest.mark.parametrize(
    ("written", "kept"), [(True, "1970-01-01T00:00:00.001Z"), (1e300, None), ([], None)]
)
def test_dates_that_are_no_text_are_read_as_javascript_does(written, kept):
    """Numbers are milliseconds; what is out of range is no date."""
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        answer = client("POST", "/rest/apiKeys", {**body_of(sandbox), "expiresAt": written})
        assert answer.status_code == (400 if kept is None else 201)
        assert [row.expires_at for row in rows_of(sandbox)] == [kept] * (kept is not None)


def test_the_words_of_postgres_are_dates_on_legacy():
    """`now` and the names of days are PostgreSQL's own (not recorded but for `tomorrow`)."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        for word in ("now", "yesterday", "today", "tomorrow"):
            create(client, sandbox, word, expiresAt=word)
        dates = {row.name: row.expires_at for row in rows_of(sandbox)}
    assert dates["yesterday"] < dates["today"] <= dates["now"] < dates["tomorrow"]


@pytest.mark.parametrize("name", [True, 1.5, "\ud800x"])
def test_names_that_are_no_text_become_one(dialect, name):
    """Whatever is sent as a name, the stored one is a text."""
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
def test_a_body_that_is_no_json_is_refused_by_the_parser(dialect, raw, text):
    """The shape is the framework's: `message`, not `messages`."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        for path in ("/rest/apiKeys", "/metadata"):
            answer = client("POST", path, data=raw, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400
            assert answer.json()["message"] == text


# --- Changing


def test_a_change_of_a_legacy_key_is_checked():
    """PATCH refuses what the table refuses, and never moves an id."""
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
    """A date that cannot be read changes nothing, by REST and by GraphQL."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        key_id = sandbox.seed(["k"])[0]
        answer = client("PATCH", f"/rest/apiKeys/{key_id}", {"expiresAt": "soon"})
        asked = client.ask(
            f'mutation{{updateApiKey(input:{{id:"{key_id}",revokedAt:"soon"}}){{id}}}}'
        )
        assert "0NaN" in message_of(answer)
        assert "0NaN" in asked["errors"][0]["message"]
        assert asked["data"] == {"updateApiKey": None}
        assert sandbox.keys()[0].revoked_at is None


def test_graphql_of_legacy_refuses_what_rest_refuses():
    """The same checks stand behind both."""
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        buried = sandbox.seed(["k"])[0]
        gone = str(uuid.uuid4())
        assert "errors" not in client.ask(
            f'mutation{{deleteApiKey(id:"{buried}"){{id}}}}', "/graphql"
        )
        for mutation, text in (
            (
                f'createApiKey(data:{{id:"{buried}",expiresAt:"{DATE}"}})',
                "Created record not found",
            ),
            ('createApiKey(data:{expiresAt:"soon"})', "timestamp with time zone"),
            (f'updateApiKey(id:"{gone}",data:{{name:"x"}})', "Could not find any entity"),
            (f'deleteApiKey(id:"{gone}")', "Could not find any entity"),
        ):
            answer = client.ask(f"mutation{{{mutation}{{id}}}}", "/graphql")
            assert text in answer["errors"][0]["message"]
        many = client.ask(
            "mutation($d:[ApiKeyCreateInput!]!){createApiKeys(data:$d){name}}",
            "/graphql",
            d=[{"id": buried, "expiresAt": DATE}, {"name": "x", "expiresAt": DATE}],
        )
        assert many["data"]["createApiKeys"] == [None, {"name": "x"}]


@pytest.mark.parametrize("dialect", CORES)
def test_dead_keys_get_no_token(dialect):
    """Core mints neither for revoked nor for expired keys, whoever asks."""
    query = 'mutation{generateApiKeyToken(apiKeyId:"%s",expiresAt:"2031-01-01"){token}}'
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        (revoked,) = sandbox.seed(["r"], revoked_at=DATE)
        (expired,) = sandbox.seed(["e"], expires_at="2020-01-01T00:00:00.000Z")
        for key_id, text in ((revoked, "is revoked"), (expired, "has expired")):
            answer = client.ask(query % key_id)
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
    """The texts are those of graphql-js, without its prefix, with HTTP 400."""
    query = "mutation($i:CreateApiKeyInput!,$j:Int){createApiKey(input:$i){id}}"
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        body = {"query": query.replace(",$j:Int", ""), "variables": variables}
        answer = client("POST", "/metadata", body)
        assert sandbox.keys() == ()
    assert answer.status_code == 400
    messages = [error["message"] for error in answer.json()["errors"]]
    assert sorted(messages) == sorted(texts)


def test_numbers_and_lists_are_checked_too():
    """A size is a whole number, and one record may stand for a list of one."""
    create_many = "mutation($d:[ApiKeyCreateInput!]!){createApiKeys(data:$d){name}}"
    page = "query($n:Int=1){apiKeys(first:$n){totalCount}}"
    with Sandbox(None, Dialect.LEGACY) as sandbox, admin_of(sandbox) as client:
        one = client.ask(create_many, "/graphql", d={"name": "a", "expiresAt": DATE})
        wrong = client.ask(create_many, "/graphql", d=[{"name": "a"}])
        size = client.ask(page, "/graphql", n="x")
        default = client.ask(page, "/graphql")
    assert one["data"]["createApiKeys"] == [{"name": "a"}]
    assert "expiresAt" in wrong["errors"][0]["message"]
    assert size["errors"][0]["message"] == "Int cannot represent non-integer value: x"
    assert default["data"]["apiKeys"]["totalCount"] == 1


def test_a_request_without_a_document_is_refused(dialect):
    """Not recorded; the sandbox says what is missing."""
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        answer = client("POST", "/metadata", {"variables": {}})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"] == "Must provide query string."


def test_an_operation_is_chosen_by_its_name():
    """Of several operations the named one runs."""
    with Sandbox(None, Dialect.CORE_1) as sandbox, admin_of(sandbox) as client:
        body = {"query": "query A{apiKeys{id}} query B{__typename}", "operationName": "B"}
        assert client("POST", "/metadata", body).json() == {"data": {"__typename": "Query"}}


# --- The server


def test_a_connection_carries_many_requests():
    """Keep-alive: one connection, any number of exchanges, each with a `Date`."""
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
    """A chunked body is answered, not hung on."""
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        assert client("POST", "/metadata", data=iter([b"{}"])).status_code == 411


def test_a_stop_finishes_what_is_under_way(file, monkeypatch):
    """A create that the server has begun is answered and kept; idle connections end."""
    begun, finish = threading.Event(), threading.Event()

    def work(_workspace):
        begun.set()
        assert finish.wait(30)

    monkeypatch.setattr("provisioner.sandbox.workspace.SandboxWorkspace.work", work)
    sandbox = Sandbox(file).start()
    with client_of(sandbox) as idle, admin_of(sandbox) as client, ThreadPoolExecutor(2) as pool:
        idle("GET", "/healthz")
        sent = pool.submit(client, "POST", "/rest/apiKeys", body_of(sandbox))
        begun.wait(30)
        stopped = pool.submit(sandbox.stop)
        with pytest.raises(requests.ConnectionError):
            list(iter(lambda: idle("GET", "/healthz"), None))
        assert not stopped.done()
        finish.set()
        assert sent.result().status_code == 201
        stopped.result()
    with Sandbox(file) as again:
        assert len(again.keys()) == 1


def test_a_stop_does_not_wait_for_ever(file, monkeypatch):
    """A create that never ends does not keep the state open."""
    begun, finish, ended = threading.Event(), threading.Event(), threading.Event()

    def work(workspace):
        begun.set()
        assert finish.wait(30)
        workspace.store.count(LISTED)
        ended.set()

    monkeypatch.setattr("provisioner.sandbox.workspace.SandboxWorkspace.work", work)
    sandbox = Sandbox(file, stop_seconds=0.0).start()
    with admin_of(sandbox) as client, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(client, "POST", "/rest/apiKeys", body_of(sandbox))
        begun.wait(30)
        sandbox.stop()
        finish.set()
        assert ended.wait(30)
        assert sent.result().status_code == 201
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "development"]


def test_a_client_that_goes_away_is_no_news(caplog, monkeypatch):
    """An answer that nobody waits for is no mistake of the server."""
    gone = threading.Event()
    monkeypatch.setattr(
        "provisioner.sandbox.workspace.SandboxWorkspace.work", lambda _: gone.wait(30) and None
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
        gone.set()
    assert caplog.records == []


def test_a_mistake_of_the_sandbox_is_logged(caplog, monkeypatch):
    """A bug is not mistaken for a lost connection: it is in the log."""

    def broken(_workspace):
        raise ZeroDivisionError

    monkeypatch.setattr("provisioner.sandbox.workspace.SandboxWorkspace.work", broken)
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        with pytest.raises(requests.ConnectionError):
            client("POST", "/rest/apiKeys", body_of(sandbox))
        assert sandbox.keys() == ()
    assert [record.message for record in caplog.records] == ["the sandbox failed to answer"]


@pytest.mark.parametrize("dialect", CORES)
def test_a_mistake_inside_graphql_is_an_internal_error(dialect, monkeypatch):
    """GraphQL answers with a code of its own for what nobody foresaw."""

    def broken(_workspace):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("provisioner.sandbox.workspace.SandboxWorkspace.work", broken)
    with Sandbox(None, dialect) as sandbox, admin_of(sandbox) as client:
        answer = client.ask(
            "mutation($i:CreateApiKeyInput!){createApiKey(input:$i){id}}", i=body_of(sandbox)
        )
    assert answer["errors"][0]["message"] == "oh"
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"


def test_the_journal_has_every_exchange():
    """Tests and benchmarks see what was asked, what was answered, and when."""
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


def test_rows_may_be_put_and_forgotten():
    """Tests arrange any state, and put it back."""
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


def test_a_new_key_is_made_for_the_token_when_the_old_one_is_dead(dialect):
    """`api_token` always gives a token that works."""
    with Sandbox(None, dialect) as sandbox:
        sandbox.seed(["provision"], revoked_at=DATE)
        with client_of(sandbox, sandbox.api_token()) as client:
            assert client("GET", "/rest/apiKeys").status_code == 200
        assert len(sandbox.keys()) == 2


def test_bulk_work_is_quick():
    """Benchmarks measure the client, not the sandbox: thousands of rows in moments."""
    with Sandbox(None) as sandbox, admin_of(sandbox) as client:
        started = time.monotonic()
        sandbox.seed(f"k{number}" for number in range(10_000))
        listed = client("GET", "/rest/apiKeys").json()
        assert len(listed) == 10_000
        assert time.monotonic() - started < 5


def test_a_file_that_another_program_holds_is_not_called_broken(tmp_path: Path) -> None:
    """A locked file is to be waited for; nobody is told to move a sound one away."""
    file = tmp_path / "workspace.sqlite3"
    with Sandbox(file):
        pass
    holder = sqlite3.connect(file, isolation_level=None)
    try:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(WorkspaceError) as told:
            Sandbox(file, lock_wait=0.05).start()
    finally:
        holder.close()
    failure = failure_of(told.value)
    assert failure.code == "sandbox_unusable"
    assert "is locked by another program" in failure.message
    assert "wait for it" in failure.message


def test_tokens_of_the_embedded_twenty_are_read(tmp_path) -> None:
    """A key's token names the key; the one of a signed-in user names none."""
    with Sandbox(tmp_path / "state.sqlite3") as sandbox:
        [key_id] = sandbox.seed(["a"])
        of_key = claims_of(Secret(sandbox.token_of(key_id)))
        of_user = claims_of(Secret(sandbox.session_token()))
        workspace = sandbox.workspace_id
    assert of_key is not None
    assert of_user is not None
    assert (of_key.key, of_key.workspace, of_key.kind) == (key_id, workspace, "API_KEY")
    assert (of_user.key, of_user.workspace, of_user.kind) == (None, workspace, "ACCESS")
