"""A copy of the project that a test changes as docs/extending.md says, and programs run from it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_project(to: Path, *folders: str) -> Path:
    """Copy folders of the project, without bytecode."""
    for folder in folders:
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return to


def example_in(section: str) -> str:
    """Return the first Python example in a section of a page."""
    found = re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def run(copy: Path, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `provision` from the copy, in a folder with manifests."""
    return subprocess.run(
        [sys.executable, "-m", "provisioner", *arguments],
        cwd=project,
        env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
