"""The rules of git's ignore files, compared with git itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.sinks.gitignore import IgnoreFiles

if TYPE_CHECKING:
    from pathlib import Path

PATHS = (
    "x.env",
    "y.env",
    "a/x.env",
    "a/b/x.env",
    "a/b/c/y.env",
    "b/a/x.env",
    "b/x.env",
    "ab/x y.env",
    "#x",
    "!x",
    "a/*",
)

NAMES = st.sampled_from(
    ["a", "b", "c", "ab", "x.env", "y.env", "*", "*.env", "?.env", "**", "a*", "**b", "[ab]"]
    + ["[!a]", "[]-]", "[b-a]", "\\*", "x y.env", "\\#x", "#x", "!x", "x.env\\ ", "", "\\", "."]
)
RULES = st.builds(
    lambda negated, anchored, names, folder, spaces: (
        f"{negated}{anchored}{'/'.join(names)}{folder}{spaces}"
    ),
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/", "**/"]),
    st.lists(NAMES, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", "/**", "/*", "/**/"]),
    st.sampled_from(["", "", " ", "\r", "\t"]),
)
AMBIGUOUS = re.compile(r"\t|\[b-a\]|(?<!\\)\\(?:$|[ /\r])")
"""Rules that pathspec and git understand differently. No file counts as ignored because of them."""

FILES = st.dictionaries(
    st.sampled_from([".gitignore", "a/.gitignore", "a/b/.gitignore", ".git/info/exclude"]),
    st.lists(RULES, max_size=4),
    min_size=1,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    tree = tmp_path_factory.mktemp("tree")
    subprocess.run(["git", "init", "--quiet", tree], check=True)
    for path in PATHS:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
    return tree


def ignored_by_git(tree: Path) -> set[str]:
    result = subprocess.run(
        ["git", "-C", tree, "check-ignore", "--stdin", "-z"],
        input="".join(f"./{path}\0" for path in PATHS),
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "HOME": "/nowhere"},
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    assert result.returncode in (0, 1)
    return {path.removeprefix("./") for path in result.stdout.split("\0") if path}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(files=FILES, byte_order_mark=st.booleans())
def test_the_same_files_are_ignored_as_by_git(tree: Path, files, byte_order_mark) -> None:
    """In any mix of files and rules, no file that git would publish counts as ignored."""
    for name in (".gitignore", "a/.gitignore", "a/b/.gitignore", ".git/info/exclude"):
        (tree / name).unlink(missing_ok=True)
    for name, rules in files.items():
        text = ("\ufeff" if byte_order_mark else "") + "".join(f"{rule}\n" for rule in rules)
        (tree / name).write_bytes(text.encode())
    rules = IgnoreFiles()
    found = {path for path in PATHS if rules.ignores(tree / path, tree)}
    expected = ignored_by_git(tree)
    assert found <= expected
    if not any(AMBIGUOUS.search(rule) for one in files.values() for rule in one):
        assert found == expected
