"""Commands and options of other programs: each is answered with the command to use here."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click
import pytest

from provisioner.cli import provision
from provisioner.cli.group import COMMANDS
from provisioner.cli.suggestions import FAMILIAR

KEYS = "version: 1\nenvironment: dev\ndefaults: {expires: 90d, role: Admin}\nkeys: [{name: a}]\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory whose manifest declares one key that does not exist yet."""
    (tmp_path / "manifests").mkdir()
    environments = "version: 1\nenvironments: {dev: {url: 'sandbox:'}}\n"
    (tmp_path / "manifests" / "environments.yaml").write_text(environments)
    (tmp_path / "manifests" / "keys.yaml").write_text(KEYS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.fast
@pytest.mark.parametrize(
    ("names", "commands"),
    [
        ("destroy delete remove rm", {"revoke", "apply --prune"}),
        ("diff", {"plan"}),
        ("status show", {"plan", "list", "report"}),
        ("login auth", {"doctor"}),
        ("check", {"validate", "doctor"}),
        ("import", {"export"}),
        ("new add", {"init", "apply"}),
        ("ls", {"list"}),
        ("get", {"token", "list"}),
        ("run deploy up sync", {"apply"}),
        ("version", {"--version"}),
    ],
)
def test_a_familiar_command_is_answered_with_ours(names, commands, run, project) -> None:
    """The exit code is 64 whatever follows, and nothing else happens."""
    for name in names.split():
        for words in ((name,), (name, "svc-billing", "--force"), (name.upper(),)):
            code, out, err = run(*words)
            assert (code, out) == (64, "")
            assert f"No such command {words[0]!r}." in err
            assert set(re.findall("`provision ([^`]+)`", err)) == commands
    assert [path.name for path in project.iterdir()] == ["manifests"]


@pytest.mark.fast
def test_a_familiar_command_is_none_of_ours_and_names_only_ours() -> None:
    """No answer hides a command, and every command that an answer names exists."""
    assert not set(FAMILIAR) & set(COMMANDS)
    for answer in FAMILIAR.values():
        for line in re.findall("`provision ([^`]+)`", answer):
            name, *options = line.split()
            command = provision.get_command(click.Context(provision), name) or provision
            assert set(options) <= {opt for one in command.params for opt in one.opts}


@pytest.mark.fast
@pytest.mark.parametrize("option", ["--dry-run", "--check", "--what-if"])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("{}", "provision plan"),
        ("-e dev {} --yes --prune", "provision plan -e dev --prune"),
        ("-qe dev {}", "provision plan -q -e dev"),
        ("{}=true -m 'my keys' -edev", "provision plan -m 'my keys' -edev"),
        ("plan.json --digest sha256:0 --only='a*' {}", "provision plan '--only=a*'"),
        ("--format json -q --max-revoke 3 {}", "provision plan --format json -q --max-revoke 3"),
    ],
)
def test_apply_without_changes_is_plan_with_the_same_arguments(
    option, words, line, run, project
) -> None:
    """The answer can be pasted: options that `plan` takes are kept, others are left out."""
    code, out, err = run("apply", *shlex.split(words.format(option)))
    assert (code, out) == (64, "")
    assert err.endswith(f"Error: No such option '{option}'. Use `{line}` instead.\n")
    assert [path.name for path in project.iterdir()] == ["manifests"]
    command = provision.get_command(click.Context(provision), "plan")
    command.make_context("plan", shlex.split(line)[2:])


@pytest.mark.fast
def test_another_unknown_option_is_still_unknown(run) -> None:
    """Only options of other programs get this answer, and only at `apply`."""
    for words in (("apply", "--nope"), ("plan", "--dry-run"), ("--dry-run", "apply")):
        code, out, err = run(*words)
        assert (code, out, "No such option" in err, "instead" in err) == (
            64,
            "",
            True,
            False,
        )


@pytest.mark.parametrize("words", ["apply --dry-run", "destroy", "help lst"])
def test_the_answer_of_a_process(words, project) -> None:
    """It is on stderr, the exit code is 64, and nothing is changed."""
    done = subprocess.run(
        [sys.executable, "-m", "provisioner", *words.split()],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (64, "", False)
    assert [path.name for path in project.iterdir()] == ["manifests"]
