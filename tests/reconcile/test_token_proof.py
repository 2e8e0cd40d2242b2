"""Tokens in sinks that the server no longer accepts, although their keys are live."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from builders import observation_with, observed_key
from sandbox_control import Dialect

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.token_claims import TokenClaims, claims_of
from provisioner.reconcile.token_proof import TokenProof
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox_control import Exchange


@pytest.fixture
def delivered(
    serve, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, Path]]:
    """Return a function that applies keys with file sinks: the server, and the manifests."""

    def apply(dialect: Dialect, count: int, **options: Any) -> tuple[Any, Path]:
        served = serve(dialect, **options)
        monkeypatch.setenv("EMAIL", served.sandbox.email)
        monkeypatch.setenv("PASSWORD", served.sandbox.password)
        folder = tmp_path / "manifests"
        folder.mkdir()
        shop = {
            "url": served.sandbox.url,
            "auth": {"email": "${EMAIL}", "password": "${PASSWORD}"},
            "role": "Admin",
        }
        keys = {
            "version": 1,
            "environment": "shop",
            "defaults": {"expires": "90d", "deliver": [{"file": "s/{name}.env"}]},
            "keys": [{"name": f"svc-{n}"} for n in range(count)],
        }
        environments = {"version": 1, "environments": {"shop": shop}}
        (folder / "environments.yaml").write_text(json.dumps(environments))
        (folder / "keys.yaml").write_text(json.dumps(keys))
        assert run("apply", "--yes", "-m", folder)[0] == 0
        return served, folder

    return apply


def proofs(journal: list[Exchange]) -> int:
    """Return how many tokens were proven."""
    return sum(b"currentWorkspace" in one.body for one in journal)


def actions(run: Any, folder: Path) -> list[tuple[str, str, str]]:
    """Return the action, name and reason of each action of the plan."""
    code, out, _ = run("plan", "-m", folder, "--format", "json")
    assert code == 0
    [part] = json.loads(out)["environments"]
    return [(one["action"], one["name"], one["reason"]) for one in part["actions"]]


def delivery(run: Any, folder: Path) -> set[str]:
    """Return what the report says of the delivery of the keys."""
    code, out, _ = run("report", "-m", folder, "--format", "json")
    assert code == 0
    [part] = json.loads(out)["environments"]
    return {key["delivered"] for key in part["keys"]}


def test_a_revoked_signing_key_is_found_and_healed(run, delivered) -> None:
    """The rows are live and the tokens dead: plan, report and doctor say so, apply mints again."""
    served, folder = delivered(Dialect.CORE_NEWEST, 3)
    assert (actions(run, folder), delivery(run, folder)) == ([], {"yes"})
    served.sandbox.revoke_signing_key()
    expected = [("deliver", f"svc-{n}", "token_dead") for n in range(3)]
    assert actions(run, folder) == expected
    assert delivery(run, folder) == {"no"}
    code, out, _ = run("doctor", "-m", folder)
    assert code == 4
    assert "token_refused" in out
    ids = [key.id for key in served.sandbox.keys()]
    assert run("apply", "--yes", "-m", folder)[0] == 0
    assert [key.id for key in served.sandbox.keys()] == ids
    assert (actions(run, folder), delivery(run, folder)) == ([], {"yes"})
    assert run("doctor", "-m", folder)[0] == 0


def test_a_plan_sends_no_proof_for_the_signing_key_of_its_session(run, delivered) -> None:
    """The server has just accepted that key; after a revocation each old token counts."""
    served, folder = delivered(Dialect.CORE_NEWEST, 4)
    served.journal.clear()
    actions(run, folder)
    assert proofs(served.journal) == 0
    served.sandbox.revoke_signing_key()
    served.journal.clear()
    assert len(actions(run, folder)) == 4
    assert proofs(served.journal) == 4


class Judge:
    """The part of a workspace that proves tokens; refuses some of them.

    Args:
        errors: the code of the error for each token.
    """

    def __init__(self, errors: dict[str, str]) -> None:
        self.proven: list[str] = []
        self._errors = errors

    def verify_token(self, token: Secret) -> None:
        self.proven.append(token.reveal())
        if (code := self._errors.get(token.reveal())) is not None:
            raise WorkspaceError(Code(code), "No.", remedy="")


def judged(judge: Any, tokens: dict[str, str | None], *, every: bool = False) -> list[str]:
    """Return the tokens that a proof says do not work; the values are their signing keys."""
    key = observed_key("svc")
    proof = TokenProof(judge, observation_with(key, signing_key="own"), every)
    claims = {
        token: TokenClaims(None, key.id, "API_KEY", None, None, signing_key)
        for token, signing_key in tokens.items()
    }
    return [token for token, one in claims.items() if proof(Secret(token), one) is not None]


def test_one_token_stands_for_all_with_its_signing_key() -> None:
    """Unless it is refused: then it may be the only bad one, and each is proven."""
    tokens = {"a": "own", "b": None, "c": "old", "d": "old", "e": "older", "f": "older"}
    judge = Judge({"e": "token_refused"})
    assert judged(judge, tokens) == ["e"]
    assert judge.proven == ["c", "e", "f"]


def test_a_server_that_fails_refuses_no_token() -> None:
    """A plan goes by the claims then; a report of every token does not."""
    judge = Judge({"a": "server_error"})
    assert judged(judge, {"a": "old", "b": "old"}) == []
    assert judged(judge, {"a": None, "b": None}, every=True) == ["a"]


@pytest.mark.parametrize("dialect", Dialect)
def test_the_report_proves_every_token(run, delivered, tmp_path, dialect) -> None:
    """A token with a wrong signature is not delivered, whatever its claims say."""
    served, folder = delivered(dialect, 2)
    served.journal.clear()
    assert delivery(run, folder) == {"yes"}
    assert proofs(served.journal) == 2
    file = tmp_path / "s" / "svc-0.env"
    text = file.read_text()
    found = re.search(r"eyJ[\w.-]+", text)
    assert found is not None
    forged = found[0][:-6] + ("AAAAAA" if found[0][-6:-1] != "AAAAA" else "BBBBBB")
    assert claims_of(Secret(forged)) is not None
    file.write_text(text.replace(found[0], forged))
    assert delivery(run, folder) == {"yes", "no"}
