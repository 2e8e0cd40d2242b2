"""The last line after errors on stderr: it names the command that explains their codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

KEYS = "version: 1\nenvironment: dev\ndefaults: {expires: 90d, role: Admin}\nkeys: [{name: a}]\n"
LINE = 'Run "provision explain {}" to learn more.'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory whose manifest declares one key that does not exist yet."""
    (tmp_path / "manifests").mkdir()
    environments = "version: 1\nenvironments: {dev: {url: 'sandbox:'}}\n"
    (tmp_path / "manifests" / "environments.yaml").write_text(environments)
    (tmp_path / "manifests" / "keys.yaml").write_text(KEYS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        ("plan -e zz", 64, "environment_unknown"),
        ("plan -m zz", 3, "manifests_missing"),
        ("revoke zz yy", 4, "key_missing"),
        ("token zz --to t", 4, "key_missing"),
        ("export", 4, "key_missing"),
        ("init", 64, "file_exists"),
        ("list --only zz", 0, "nothing_selected"),
        ("apply --only zz --prune", 5, "nothing_selected"),
        ("apply manifests/keys.yaml", 6, "plan_invalid"),
    ],
)
def test_errors_as_text_end_with_the_line(run, project, words, exit_code, code) -> None:
    """The line is printed once, for every kind of error."""
    found, _, err = run(*words.split())
    assert found == exit_code
    assert err.splitlines()[-1] == LINE.format(code)
    assert err.count("provision explain") == 1
    assert run("explain", code)[0] == 0


def test_problems_of_several_codes_share_the_line(run, project) -> None:
    """The line names up to three codes, each once and in their order."""
    (project / "manifests" / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\nkeys:\n  - {name: a, nam: b}\n"
        "  - {name: '', expires: soon}\n  - {name: d, depth: 9}\n  - {name: 7, expires: later}\n"
    )
    code, out, err = run("plan")
    assert (code, out) == (3, "")
    codes = dict.fromkeys(line.split(": ")[1] for line in err.splitlines()[:-2])
    assert len(codes) > 3
    assert err.splitlines()[-1] == LINE.format(" ".join([*codes][:3]))
    assert run("explain", *[*codes][:3])[0] == 0


@pytest.mark.parametrize("form", ["json", "github", "gitlab", "junit", "sarif", "markdown"])
def test_data_on_stdout_has_no_such_line(run, project, form) -> None:
    """Formats for programs and for pages do not contain it."""
    (project / "manifests" / "keys.yaml").write_text("version: 2\n")
    code, out, _ = run("validate", "--format", form, "--report", f"{form}=report")
    assert (code, "provision explain" in out) == (3, False)
    assert "provision explain" not in (project / "report").read_text()


@pytest.mark.parametrize("words", ["plan -m zz", "revoke zz", "list -e zz"])
def test_a_json_log_has_no_such_line(run, project, words) -> None:
    """Every line of a JSON log is an object."""
    _, _, err = run(*words.split(), "--log-format", "json")
    assert [json.loads(line) for line in err.splitlines()]
    assert "provision explain" not in err


@pytest.mark.parametrize("words", ["validate", "plan --nope", "nope", "plan --only a"])
def test_without_a_code_there_is_no_such_line(run, project, words) -> None:
    """Success and wrong options have no code."""
    assert "provision explain" not in run(*words.split())[2]


def test_a_bug_has_no_such_line(run, project, monkeypatch, capsys) -> None:
    """The message of a bug already says what to do."""
    from provisioner.cli import check_manifests, main

    monkeypatch.setattr(check_manifests, "load", None)
    assert main(["validate"]) == 1
    assert "provision explain" not in capsys.readouterr().err


def test_the_line_is_the_last_of_a_process(project) -> None:
    """It follows the failure of an environment too."""
    (project / "manifests" / "environments.yaml").write_text(
        "version: 1\nenvironments: {dev: {url: 'http://127.0.0.1:9', auth: {token: '${T}'}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "provisioner", "list"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"T": "t.o.k", "PATH": ""},
    )
    assert done.returncode == 4
    failure, last = done.stderr.splitlines()
    assert failure.startswith("dev: unreachable: ")
    assert last == LINE.format("unreachable")


def test_a_command_does_not_print_the_codes_of_an_earlier_one(run, project) -> None:
    """Each command starts without codes, also in one process."""
    run("plan", "-e", "zz")
    err = run("list", "--only", "zz")[2]
    assert err.splitlines()[-1] == LINE.format("nothing_selected")
    assert "provision explain" not in run("list")[2]
