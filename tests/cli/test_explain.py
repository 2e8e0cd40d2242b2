"""`provision explain`: the texts of docs/errors.md, offline, from a checkout and from a wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from provisioner.errors import explanations

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
CODES = tuple(explanations.load())


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.fast
@pytest.mark.parametrize("code", CODES)
def test_the_explanation_of_a_code_is_the_text_of_the_page(code, run) -> None:
    """It has every word of the page, without links and escapes, in ASCII and within 80 columns."""
    code_, out, err = run("explain", code)
    title, separator, *lines = out.splitlines()
    assert (code_, err, title.removeprefix("exit code "), separator) == (0, "", code, "")
    assert max(map(len, lines)) <= 80
    assert out.isascii()
    if code.isdigit():
        [text] = re.findall(rf"^\| {code} \| (.*) \|$", PAGE, re.MULTILINE)
    else:
        [text] = re.findall(rf"^### `{code}`\n((?:(?!#).*\n)*)", PAGE, re.MULTILINE)
    words = re.sub(r"\[([^]]+)\]\(\S+?\)", r"\1", text).replace("…", "...").split()
    assert " ".join(lines).split() == words


@pytest.mark.fast
def test_the_items_of_a_list_stay_apart(run) -> None:
    """Each item starts a line, and its other lines are indented."""
    lines = run("explain", "sandbox_unusable")[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("- "))
    assert all(line.startswith(("- ", "  ")) for line in lines[start:])
    assert sum(line.startswith("- ") for line in lines) == 5


@pytest.mark.fast
def test_without_a_code_all_are_listed(run) -> None:
    """Each code has one line, in the order of the page, with the start of its text."""
    code, out, err = run("explain")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert tuple(line.split()[0] for line in lines) == CODES
    assert all(len(line) <= 80 and len(line.split()) > 1 for line in lines)
    assert "credential_missing        The server received no credential." in lines


@pytest.mark.fast
def test_several_codes_are_explained_in_one_go(run) -> None:
    """Each is explained once, even if it is pasted with punctuation."""
    both = run("explain", "dead", "drift")[1]
    assert both == f"{run('explain', 'dead')[1]}\n{run('explain', 'drift')[1]}"
    assert run("explain", "DEAD:", "`drift`", "dead") == (0, both, "")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("plan_stal", "No such code 'plan_stal'. Did you mean 'plan_stale'?"),
        ("dead zzz", "No such code 'zzz'. `provision explain` lists all codes."),
        ("7", "No such code '7'."),
    ],
)
def test_an_unknown_code_is_wrong_usage(words, answer, run) -> None:
    """The exit code is 64, the closest code is suggested, and nothing is printed on stdout."""
    code, out, err = run("explain", *words.split())
    assert (code, out, answer in err) == (64, "", True)


def explained(site: Path, tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provisioner", "explain", "url_credentials"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)} | variables,
    )


def test_a_wheel_explains_too(tmp_path) -> None:
    """The page is found where pyproject.toml puts it in a wheel, in a narrow locale too."""
    site = tmp_path / "site"
    shutil.copytree(
        ROOT / "provisioner", site / "provisioner", ignore=shutil.ignore_patterns("__pycache__")
    )
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
    for source, place in wheel["targets"]["wheel"]["force-include"].items():
        (site / place).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, site / place)
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = explained(site, tmp_path, **narrow)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("url_credentials\n\nA URL contains a user name or a password.")
    (site / "provisioner" / "_docs" / "errors.md").unlink()
    assert explained(site, tmp_path).returncode == 1
