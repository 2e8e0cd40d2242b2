"""The rights that a credential lacks: named by the plan, found out by reads only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_control import API_KEYS_FLAG, ROLES_FLAG, Dialect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes a manifest of some keys for a server and a credential."""

    def write(served: Any, auth: str, token: str, *keys: Any) -> Path:
        monkeypatch.setenv("CREDENTIAL", token)
        folder = tmp_path / "manifests"
        folder.mkdir(exist_ok=True)
        environments = {
            "shop": {
                "url": served.sandbox.url,
                "auth": {auth: "${CREDENTIAL}"},
                "owns": ["*"],
            }
        }
        manifest = {
            "version": 1,
            "environment": "shop",
            "defaults": {"expires": "90d"},
            "keys": keys,
        }
        files = {"environments.yaml": {"version": 1, "environments": environments}}
        for name, content in {**files, "keys.yaml": manifest}.items():
            (folder / name).write_text(json.dumps(content))
        return folder

    return write


def member(served: Any, *flags: str) -> str:
    """Return the session of a user whose role has these settings permissions."""
    served.sandbox.permit("Member", *flags)
    return served.sandbox.session_token("member")


def role_id(served: Any) -> str | None:
    """Return the id of a role that keys may have; legacy ignores it."""
    return None if served.sandbox.dialect is Dialect.LEGACY else served.sandbox.role("Admin").id


def test_a_session_that_may_list_and_not_create_is_told_by_the_plan(serve, run, shop) -> None:
    """On the newest, creating needs ROLES: `plan` exits 4 and names it, `apply` sends no write."""
    served = serve(Dialect.CORE_NEWEST)
    folder = shop(
        served, "session_token", member(served, API_KEYS_FLAG), {"name": "a", "role": "Admin"}
    )
    for command in (("plan",), ("apply", "--yes")):
        code, out, err = run(*command, "-m", folder)
        assert code == 4, err
        assert "permission_denied" in out
        assert "(ROLES)" in out
    assert not served.writes()
    assert served.sandbox.keys() == ()
    folder = shop(
        served,
        "session_token",
        member(served, API_KEYS_FLAG, ROLES_FLAG),
        {"name": "a", "role": "Admin"},
    )
    assert run("apply", "--yes", "-m", folder)[0] == 0


def test_hidden_roles_do_not_keep_2_21_from_creating(serve, run, shop) -> None:
    """There creating needs only the permission for API keys, and the list shows which it is."""
    served = serve(Dialect.CORE)
    key = {"name": "a", "role": role_id(served)}
    folder = shop(served, "session_token", member(served, API_KEYS_FLAG), key)
    assert run("plan", "-m", folder)[0] == 0
    assert run("apply", "--yes", "-m", folder)[0] == 0
    assert [one.name for one in served.sandbox.keys()] == ["a"]


def test_a_role_that_may_not_assign_may_still_extend_revoke_and_deliver(
    serve, run, shop, tmp_path
) -> None:
    """Only the change of a role is blocked on the newest; the change of a date is carried out."""
    served = serve(Dialect.CORE_NEWEST)
    served.sandbox.seed(["role", "date"], role="Integrations")
    sink = {"file": str(tmp_path / "a.env")}
    folder = shop(
        served,
        "session_token",
        member(served, API_KEYS_FLAG),
        {"name": "role", "role": "Admin", "expires": "2031-01-01"},
        {"name": "date", "role": "Integrations", "expires": "2032-01-01", "deliver": [sink]},
    )
    code, out, _ = run("apply", "--yes", "-m", folder, "--format", "json")
    [part] = json.loads(out)["environments"]
    results = {
        one["name"]: (one["status"], one["error"] and one["error"]["code"])
        for one in part["results"]
    }
    assert code == 4
    assert results == {"role": ("failed", "permission_denied"), "date": ("done", None)}
    assert (tmp_path / "a.env").exists()


def test_a_key_whose_role_is_not_shown_has_an_unknown_role_and_not_none(serve, run, shop) -> None:
    """`getApiKeyRoles` omits roles that keys may have all the same: that is no drift."""
    served = serve(Dialect.CORE_NEWEST)
    served.sandbox.seed(["a"], role="Member")
    key = {"name": "a", "role": "Admin", "expires": "2031-01-01"}
    folder = shop(served, "session_token", member(served, API_KEYS_FLAG), key)
    code, out, _ = run("plan", "-m", folder, "--format", "json")
    [part] = json.loads(out)["environments"]
    assert (code, part["actions"], part["findings"]) == (0, [], [])
    folder = shop(served, "session_token", member(served, API_KEYS_FLAG, ROLES_FLAG), key)
    _, out, _ = run("plan", "-m", folder, "--format", "json")
    assert [one["action"] for one in json.loads(out)["environments"][0]["actions"]] == ["update"]


@pytest.mark.parametrize("dialect", [Dialect.CORE, Dialect.CORE_NEWEST])
def test_an_api_key_plans_on_2_and_does_not_apply(serve, run, shop, dialect) -> None:
    """A pull request plans with a key that reads: the plan says so, and `apply` sends no write."""
    served = serve(dialect)
    folder = shop(served, "token", served.sandbox.api_token(), {"name": "a", "role": "Admin"})
    code, out, err = run("plan", "-m", folder)
    assert code == 0, err
    assert "only a signed-in user" in out + err
    code, out, _ = run("apply", "--yes", "-m", folder)
    assert code == 4
    assert "session_required" in out
    assert not served.writes()
    # The digest is that of a session's plan, so that another job can apply what was reviewed.
    _, by_key, _ = run("plan", "-m", folder, "--format", "json")
    folder = shop(
        served, "session_token", served.sandbox.session_token(), {"name": "a", "role": "Admin"}
    )
    _, by_session, _ = run("plan", "-m", folder, "--format", "json")
    assert json.loads(by_key)["digest"] == json.loads(by_session)["digest"]


def test_an_api_key_without_the_permission_for_roles_plans_for_a_user(serve, run, shop) -> None:
    """It writes nothing on the newest, so that only the rights of the user matter."""
    served = serve(Dialect.CORE_NEWEST)
    served.sandbox.permit("Restricted", API_KEYS_FLAG)
    [reader] = served.sandbox.seed(["reader"], role="Restricted")
    folder = shop(
        served, "token", served.sandbox.token_of(reader), {"name": "a", "role": "Integrations"}
    )
    code, out, err = run("plan", "-m", folder)
    assert (code, "(ROLES)" in out + err) == (0, False)
    assert "only a signed-in user" in out + err
    code, out, _ = run("apply", "--yes", "-m", folder)
    assert (code, "session_required" in out, "(ROLES)" in out) == (4, True, False)
    assert not served.writes()


def test_an_api_key_of_1_writes(serve, run, shop) -> None:
    """1.10 lets an API key write, which the plan finds out by reads."""
    served = serve(Dialect.CORE_1)
    folder = shop(served, "token", served.sandbox.api_token(), {"name": "a", "role": "Admin"})
    code, out, err = run("plan", "-m", folder)
    assert (code, "signed-in" in out + err) == (0, False)
    assert not served.writes()
    assert run("apply", "--yes", "-m", folder)[0] == 0


def test_a_role_without_the_permission_for_keys_is_told_by_the_plan(serve, run, shop) -> None:
    """1.10 lists keys by REST for any role, and refuses to write them."""
    served = serve(Dialect.CORE_1)
    folder = shop(served, "session_token", member(served), {"name": "a", "role": role_id(served)})
    code, out, _ = run("plan", "-m", folder)
    assert code == 4
    assert "permission for API keys" in out
    assert not served.writes()


def test_a_member_of_legacy_may_create_and_not_mint(serve, run, shop, tmp_path) -> None:
    """Only keys with a sink are blocked: their tokens could never be delivered."""
    served = serve(Dialect.LEGACY)
    sink = {"file": str(tmp_path / "a.env")}
    folder = shop(
        served,
        "session_token",
        served.sandbox.session_token("member"),
        {"name": "delivered", "deliver": [sink]},
        {"name": "plain"},
    )
    code, out, _ = run("plan", "-m", folder)
    assert code == 4
    assert "minting tokens requires" in out
    assert not served.writes()
    assert run("apply", "--yes", "-m", folder)[0] == 4
    assert [key.name for key in served.sandbox.keys()] == ["plain"]
    assert not (tmp_path / "a.env").exists()


def test_a_plan_without_actions_asks_for_no_rights(serve, run, shop) -> None:
    """One read detects the generation, and one lists the keys."""
    served = serve(Dialect.CORE)
    served.sandbox.seed(["a"])
    folder = shop(
        served,
        "token",
        served.sandbox.api_token(),
        {"name": "a", "role": "Admin", "expires": "2031-01-01"},
    )
    assert run("plan", "-m", folder)[0] == 0
    assert len(served.journal) == 2
