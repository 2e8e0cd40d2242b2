"""The commands of the README print the output that it shows."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
from pathlib import Path

import pytest
import time_machine

from provisioner.cli import main
from tests.terminal import terminal_as_stdout

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    return [found[3] for found in FENCE.finditer(text(page)) if found[2] == language]


@pytest.fixture
def at_root(tmp_path, monkeypatch):
    """The working directory of a fresh clone, as far as the README needs it."""
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    # Remove the log handlers that a command adds.
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.usefixtures("at_root")
def test_sample_output_of_the_readme_is_real(capsys, monkeypatch):
    """In a fresh clone, a terminal of 80 columns shows the lines that the README shows."""
    samples = re.split(r"^\$ (.+)\n", "".join(blocks("README.md", "console")), flags=re.MULTILINE)
    assert samples[0] == ""
    assert len(samples) >= 7
    for command, output in zip(samples[1::2], samples[2::2], strict=True):
        program, *arguments = shlex.split(command)
        assert program == "provision"
        # The README counts the days from its own.
        with (
            time_machine.travel("2026-11-23T16:07:31Z"),
            terminal_as_stdout(monkeypatch, 80) as terminal,
        ):
            assert main([*arguments, "-m", "manifests"]) == 0
        assert terminal.text == output
        assert capsys.readouterr().err == ""
