"""`clean: true` and `receipt` on a sink, and the manifests as they were before."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from builders import file_sink, github_sink, vault_sink

from provisioner.manifests import load, load_previous
from provisioner.sinks.github import GithubAddress

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENTS = "version: 1\nenvironments: {a: {url: 'sandbox:'}}\n"
HEAD = "version: 1\nenvironment: a\ndefaults: {expires: 90d}\n"
SINKS = "[{file: x.env, variable: X, clean: true}, {vault: secret/x, clean: false}]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a manifests directory with one environment."""
    found = tmp_path / "manifests"
    found.mkdir()
    (found / "environments.yaml").write_text(ENVIRONMENTS)
    return found


def write(folder: Path, keys: str) -> None:
    (folder / "keys.yaml").write_text(f"{HEAD}{keys}\n")


def git(folder: Path, *arguments: str) -> None:
    user = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *user, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def test_each_sink_says_whether_it_is_cleaned(folder: Path) -> None:
    """The addresses are the same with and without it, so nothing else changes."""
    write(folder, f"keys: [{{name: x, deliver: {SINKS}}}]")
    [key] = load(folder).desired["a"]
    assert key.clean == (file_sink("x.env", "X"),)
    assert key.deliver == (file_sink("x.env", "X"), vault_sink("x"))


def test_the_defaults_may_say_it_for_every_key(folder: Path) -> None:
    """Each key has an address of its own."""
    write(folder, "keys: [{name: x}, {name: z}]")
    text = (folder / "keys.yaml").read_text()
    sink = "deliver: [{file: '{name}.env', clean: true}]"
    (folder / "keys.yaml").write_text(text.replace("90d", f"90d, {sink}"))
    keys = load(folder).desired["a"]
    assert [key.clean for key in keys] == [(file_sink("x.env", "X"),), (file_sink("z.env", "Z"),)]


@pytest.mark.parametrize("value", ["yes", "'true'", "1"])
def test_only_true_and_false_are_accepted(folder: Path, value: str) -> None:
    """Anything else is one problem, which says what to write."""
    write(folder, f"keys: [{{name: x, deliver: [{{file: x.env, clean: {value}}}]}}]")
    [problem] = load(folder).problems
    assert "`clean`" in problem.message
    assert "write true or false, without quotes" in problem.message


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("", "A_RECEIPT"),
        (", receipt: true", "A_RECEIPT"),
        (", receipt: B", "B"),
        (", receipt: false", ""),
    ],
)
def test_a_receipt_has_a_name_of_its_own_or_none(folder: Path, written: str, name: str) -> None:
    """By default it follows the name of the secret."""
    write(folder, f"keys: [{{name: a, deliver: [{{github: acme/billing{written}}}]}}]")
    result = load(folder)
    assert result.problems == ()
    [address] = result.desired["a"][0].deliver
    assert address.place == github_sink().place
    assert isinstance(address, GithubAddress)
    assert (address.receipt_name, address.removes) == (name, bool(name))


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("1", "write text"),
        ("[B]", "write text"),
        ("''", "write text"),
        ("GITHUB_B", "letters, digits and _"),
        ("'{name}-b'", "letters, digits and _"),
    ],
)
def test_any_other_receipt_is_one_problem(folder: Path, written: str, advice: str) -> None:
    """It says what to write."""
    sink = f"{{github: acme/billing, receipt: {written}}}"
    write(folder, f"keys: [{{name: a, deliver: [{sink}]}}]")
    [problem] = load(folder).problems
    assert "`receipt`" in problem.message
    assert advice in problem.message


def test_two_secrets_cannot_share_a_receipt(folder: Path) -> None:
    """Each would make the other's void in every run; case is no difference."""
    sink = "{github: acme/billing, secret: '{name}', receipt: B}"
    write(folder, f"keys: [{{name: a, deliver: [{sink}]}}, {{name: c, deliver: [{sink}]}}]")
    [problem] = load(folder).problems
    assert problem.code == "sink_collision"
    assert "receipt" in problem.message
    write(
        folder,
        f"keys: [{{name: a, deliver: [{sink}, {sink.replace('B', 'b_').replace('{name}', 'd')}]}}]",
    )
    assert load(folder).problems == ()


def test_a_revision_is_read_without_links_and_without_the_work_tree(
    folder: Path, tmp_path: Path
) -> None:
    """Folders and lists of values are part of it; a link might lead anywhere."""
    (folder / "more").mkdir()
    write(folder, "keys: [{name: x}]")
    (folder / "keys.yaml").rename(folder / "more" / "keys.yaml")
    (folder / "list.yaml").write_text("[b, c]")
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments: {'{one}': {matrix: {one: {file: list.yaml}}, url: 'sandbox:'}}\n"
    )
    (folder / "more" / "keys.yaml").write_text(
        HEAD.replace(": a", ": '*'") + "keys: [{name: x, deliver: [{file: '{environment}.env'}]}]\n"
    )
    (tmp_path / "secret.yaml").write_text("password")
    (folder / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "manifests")
    git(tmp_path, "commit", "-q", "-m", "one")
    (folder / "more" / "keys.yaml").unlink()
    before = sorted(tmp_path.rglob("*"))
    previous = load_previous("HEAD", folder)
    assert previous.reason == ""
    assert [key.deliver for keys in previous.desired.values() for key in keys] == [
        (file_sink("b.env", "X"),),
        (file_sink("c.env", "X"),),
    ]
    assert len(previous.source) == 40
    assert sorted(tmp_path.rglob("*")) == before


def test_a_repository_cannot_name_a_program_for_git(folder: Path, tmp_path: Path) -> None:
    """Its configuration may come from a stranger."""
    write(folder, "keys: [{name: x}]")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    canary = tmp_path / "canary"
    git(tmp_path, "config", "core.fsmonitor", f"touch {canary}")
    git(tmp_path, "config", "core.pager", f"touch {canary}")
    assert load_previous("HEAD", folder).reason == ""
    assert not canary.exists()


def test_previous_manifests_reach_no_further_than_the_reviewed_ones(
    folder: Path, tmp_path: Path
) -> None:
    """A pull request could otherwise have any sink read by way of its own first commit."""
    write(folder, "keys: [{name: x, deliver: [{file: x.env}]}]")
    base = tmp_path / "base"
    base.mkdir()
    (base / "environments.yaml").write_text(ENVIRONMENTS)
    previous = load_previous(str(folder), folder, against=base)
    assert "reach more than" in previous.reason
    assert previous.desired == {}
    assert load_previous(str(folder), folder, against=folder).reason == ""


def test_manifests_outside_a_repository_have_no_revisions(folder: Path) -> None:
    """The reason says what was looked for."""
    assert "git finds no repository around" in load_previous("HEAD~1", folder).reason


def test_without_git_the_reason_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory needs no git."""
    write(folder, "keys: [{name: x}]")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert load_previous("HEAD", folder).reason.startswith("git is not installed")
    assert load_previous(str(folder), folder).reason == ""
