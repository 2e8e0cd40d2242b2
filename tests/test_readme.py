"""The commands of the README print the output that it shows."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
from pathlib import Path

import pytest

from provisioner.cli import main

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    return [found[3] for found in FENCE.finditer(text(page)) if found[2] == language]


def mask(output):
    return UUID.sub("<id>", TIMESTAMP.sub("<time>", output))


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
def test_sample_output_of_the_readme_is_real(capsys):
    """In a fresh clone, the commands print the lines that the README shows."""
    samples = re.split(r"^\$ (.+)\n", "".join(blocks("README.md", "console")), flags=re.MULTILINE)
    assert samples[0] == ""
    assert len(samples) >= 7
    for command, output in zip(samples[1::2], samples[2::2], strict=True):
        program, *arguments = shlex.split(command)
        assert program == "provision"
        assert main([*arguments, "-m", "manifests"]) == 0
        printed = capsys.readouterr()
        assert mask(printed.out) == mask(output)
        assert printed.err == ""
