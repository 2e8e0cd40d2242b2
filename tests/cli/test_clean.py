"""Tokens are removed from old sinks and from those of revoked keys, and nothing else ever is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.model.token_claims import claims_of
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRONMENTS = "version: 1\nenvironments: {dev: {url: 'sandbox:', role: Admin, owns: ['svc-*']}}\n"
HEAD = "version: 1\nenvironment: dev\ndefaults: {expires: 2035-01-01}\nkeys:\n"
FOREIGN = "# about this file\nOTHER='x y' # kept\nSVC_A_2=eyJ\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that commits the keys of a manifest to a repository in this folder."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    Path(".gitignore").write_text("secrets/\n.provision/\n")
    Path("manifests").mkdir()
    Path("manifests/environments.yaml").write_text(ENVIRONMENTS)

    def commit(*keys: str) -> None:
        Path("manifests/keys.yaml").write_text(HEAD + "".join(f"  - {one}\n" for one in keys))
        git("add", ".")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "keys")

    return commit


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def key(name: str, file: str, *, clean: bool = False) -> str:
    sink = f"file: 'secrets/{file}'" + (", clean: true" if clean else "")
    return f"{{name: {name}, deliver: [{{{sink}}}]}}"


def environment(out: str) -> Any:
    return json.loads(out)["environments"][0]


def planned(run: Any, *arguments: str) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return the actions, with their reasons, and the findings of a plan."""
    code, out, err = run("plan", "--format", "json", *arguments)
    assert code == 0, err
    found = environment(out)
    return (
        [(one["action"], one["name"], one["reason"]) for one in found["actions"]],
        [(one["finding"], one["name"]) for one in found["findings"]],
    )


def applied(run: Any, command: str, *arguments: str) -> dict[str, int]:
    """Run a command that must succeed, and return the counts that are not zero."""
    code, out, err = run(command, "--format", "json", *arguments)
    assert code == 0, out + err
    return {name: count for name, count in environment(out)["summary"].items() if count}


def test_a_moved_sink_is_cleaned_and_its_neighbours_stay(run, repository) -> None:
    """The token goes from the old file to the new one; the rest of the old file stays."""
    repository(key("svc-a", "old.env"), key("svc-b", "old.env"))
    assert applied(run, "apply") == {"created": 2}
    old = Path("secrets/old.env")
    old.write_text(FOREIGN + old.read_text() + "# the end\n")
    repository(key("svc-a", "new.env", clean=True), key("svc-b", "old.env"))
    actions, findings = planned(run, "--previous", "HEAD~1")
    assert actions == [("deliver", "svc-a", "token_missing"), ("clean", "svc-a", "moved")]
    assert findings == []
    assert applied(run, "apply", "--previous", "HEAD~1") == {
        "delivered": 1,
        "cleaned": 1,
        "kept": 1,
    }
    text = old.read_text()
    assert text.startswith(FOREIGN)
    assert text.endswith("# the end\n")
    assert "SVC_A=" not in text
    assert "SVC_B=" in text
    assert "SVC_A=" in Path("secrets/new.env").read_text()
    assert planned(run, "--previous", "HEAD~1") == ([], [])
    assert git("status", "--porcelain") == ""


def test_an_old_sink_is_only_named_without_the_option(run, repository) -> None:
    """The finding names the sink and the key; nothing is removed, with or without --prune."""
    repository(key("svc-a", "old.env"))
    applied(run, "apply")
    before = Path("secrets/old.env").read_text()
    repository(key("svc-b", "new.env"))
    code, out, _ = run("plan", "--format", "json", "--previous", "HEAD~1")
    assert code == 0
    left, unmanaged = (
        next(one for one in environment(out)["findings"] if one["finding"] == kind)
        for kind in ("left_behind", "unmanaged")
    )
    assert left["ids"] == unmanaged["ids"]
    assert left["message"].startswith("file secrets/old.env SVC_A still holds its token")
    assert "--clean" in left["message"]
    summary = applied(run, "apply", "--previous", "HEAD~1", "--prune", "--max-revoke", "1")
    assert summary == {"created": 1, "revoked": 1}
    assert Path("secrets/old.env").read_text() == before
    assert planned(run) == ([], [])


def test_the_sink_of_a_pruned_key_is_cleaned_after_the_revocation(run, repository) -> None:
    """The dead token is found by the previous manifests, also by a later run."""
    repository(key("svc-a", "old.env", clean=True), key("svc-b", "b.env"))
    applied(run, "apply")
    repository(key("svc-b", "b.env"))
    summary = applied(run, "apply", "--prune", "--max-revoke", "1")
    assert summary == {"revoked": 1, "kept": 1}
    assert planned(run, "--previous", "HEAD~1")[0] == [("clean", "svc-a", "undeclared")]
    assert applied(run, "apply", "--previous", "HEAD~1") == {"cleaned": 1, "kept": 1}
    assert Path("secrets/old.env").read_text() == ""


def test_a_refused_revocation_keeps_the_token(run, repository) -> None:
    """A guard that refuses the run also keeps what is in the sinks."""
    repository(key("svc-a", "old.env", clean=True), key("svc-b", "b.env"))
    applied(run, "apply")
    before = Path("secrets/old.env").read_text()
    repository(key("svc-b", "b.env"))
    code, _, err = run("apply", "--prune", "--max-revoke", "0", "--previous", "HEAD~1")
    assert (code, "too_many_revocations" in err) == (5, True)
    assert Path("secrets/old.env").read_text() == before


def test_vanished_manifests_clean_nothing(run, repository) -> None:
    """With a wrong -m, every sink looks left behind."""
    repository(key("svc-a", "old.env"))
    applied(run, "apply")
    before = Path("secrets/old.env").read_text()
    Path("manifests/keys.yaml").unlink()
    code, _, err = run("apply", "--previous", "HEAD", "--clean")
    assert (code, "manifests_vanished" in err) == (5, True)
    assert Path("secrets/old.env").read_text() == before


def test_a_revoked_key_leaves_no_token_behind(run, repository) -> None:
    """`revoke` removes the token that it made dead, and that of a run that got only so far."""
    repository(key("svc-a", "a.env", clean=True), key("svc-b", "b.env"))
    applied(run, "apply")
    token = Path("secrets/a.env").read_text()
    assert applied(run, "revoke", "svc-a") == {"revoked": 1, "cleaned": 1}
    assert Path("secrets/a.env").read_text() == ""
    Path("secrets/a.env").write_text(token)  # as if the run had been killed in between
    assert applied(run, "revoke", "svc-a") == {"cleaned": 1}
    assert Path("secrets/a.env").read_text() == ""
    assert applied(run, "revoke", "svc-b") == {"revoked": 1}
    assert "SVC_B=" in Path("secrets/b.env").read_text()
    assert applied(run, "revoke", "svc-b", "--clean") == {"cleaned": 1}
    assert Path("secrets/b.env").read_text() == ""


def test_revoking_one_of_two_keys_keeps_the_token_of_the_name(run, repository) -> None:
    """A sink that the next `apply` would deliver to is left to it."""
    repository(key("svc-a", "a.env", clean=True))
    applied(run, "apply")
    text = Path("secrets/a.env").read_text()
    claims = claims_of(Secret(text.strip().partition("=")[2]))
    assert claims is not None
    code, _, err = run("create", "--body", body(name="svc-a"))
    assert code == 0, err
    assert applied(run, "revoke", str(claims.key)) == {"revoked": 1}
    assert Path("secrets/a.env").read_text() == text


def body(**fields: str) -> str:
    file = Path("body.json")
    file.write_text(json.dumps({"expiresAt": "2035-01-01T00:00:00.000Z", **fields}))
    return str(file)


def test_a_plan_file_remembers_the_commit(run, repository) -> None:
    """The plan that was reviewed is carried out, wherever the branch is by then."""
    repository(key("svc-a", "old.env"))
    applied(run, "apply")
    repository(key("svc-a", "new.env"))
    code, _, err = run("plan", "--out", "plan.json", "--previous", "main~1", "--clean", "-q")
    assert code == 0, err
    options = json.loads(Path("plan.json").read_text())["options"]
    assert (options["clean"], options["previous"]) == (True, git("rev-parse", "main~1"))
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "more")
    code, _, err = run("apply", "plan.json", "--previous", "main~1")
    assert (code, "already sets it" in err) == (64, True)
    assert applied(run, "apply", "plan.json") == {"delivered": 1, "cleaned": 1}
    assert Path("secrets/old.env").read_text() == ""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no-such-revision", "is not a directory, and the repository that contains"),
        ("--output=x", "is not a directory, and the repository that contains"),
        ("0" * 40, "no commit before the first one"),
        ("empty", "have 1 problem"),
        ("HEAD~1", "have 1 problem"),
    ],
)
def test_previous_manifests_that_cannot_be_used_are_a_warning(
    run, repository, source: str, reason: str
) -> None:
    """The run does its work; only old sinks are not known."""
    repository("{name: 7}")
    repository(key("svc-a", "a.env"))
    Path("empty").mkdir()
    code, out, err = run("apply", "--format", "json", f"--previous={source}", "--clean")
    assert code == 0, err
    assert reason in err
    assert environment(out)["summary"]["created"] == 1


def test_a_directory_holds_the_previous_manifests(run, repository, tmp_path) -> None:
    """A checkout of the branch that is deployed will do, without a repository."""
    repository(key("svc-a", "old.env"))
    applied(run, "apply")
    Path("before").mkdir()
    for name in ("environments.yaml", "keys.yaml"):
        (tmp_path / "before" / name).write_bytes((tmp_path / "manifests" / name).read_bytes())
    repository(key("svc-a", "new.env"))
    assert planned(run, "--previous", "before")[1] == [("left_behind", "svc-a")]
    assert applied(run, "apply", "--previous", "before", "--clean") == {
        "delivered": 1,
        "cleaned": 1,
    }


def test_a_sink_that_is_not_allowed_is_not_opened(run, repository) -> None:
    """The restrictions of a run also hold for old sinks, which the run can do without."""
    repository(key("svc-a", "old.env"))
    applied(run, "apply")
    before = Path("secrets/old.env").read_text()
    repository("{name: svc-a}")
    arguments = ("--previous", "HEAD~1", "--clean", "--allow-sink", "vault")
    assert applied(run, "apply", *arguments) == {"kept": 1}
    code, out, _ = run("plan", "--format", "json", *arguments)
    [finding] = environment(out)["findings"]
    assert (code, finding["finding"], finding["ids"]) == (0, "left_behind", [])
    assert Path("secrets/old.env").read_text() == before


def test_a_renamed_key_is_cleaned_under_its_new_name(run, repository) -> None:
    """A token of a key that `moved` renames belongs to the name that it has now."""
    repository(key("svc-a", "{name}.env", clean=True))
    applied(run, "apply")
    repository(key("svc-b", "{name}.env", clean=True))
    with Path("manifests/keys.yaml").open("a") as file:
        file.write("moved: [{from: svc-a, to: svc-b}]\n")
    summary = applied(run, "apply", "--previous", "HEAD~1")
    assert summary == {"renamed": 1, "delivered": 1, "cleaned": 1}
    assert Path("secrets/svc-a.env").read_text() == ""
