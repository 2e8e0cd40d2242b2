"""The pipeline file that `init` writes for the host that the git remote names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from provisioner.render.text import visible
from provisioner.runtime.git import find_git, is_work_tree, run_git
from provisioner.runtime.source import (
    PLACEHOLDER,
    PLACEHOLDER_REVISION,
    PLACEHOLDER_TAG,
    Commit,
    Repository,
    installed_source,
    parse_repository,
)

_TEMPLATES = Path(__file__).with_name("starter")

_GITHUB_FILE = ".github/workflows/provision.yml"
_GITLAB_FILE = ".gitlab-ci.yml"

_VERSION = "The version of provision that wrote this file."
_TO_REPLACE = "Replace this repository and commit with your copy of provision (docs/adopting.md)."


class PipelineFile(NamedTuple):
    """A pipeline file for the host of a repository.

    Attributes:
        path: its path, as the user would type it.
        text: its content.
        include: the part to add to an existing file; None if the host reads every file.
        to_replace: the reference that the user has to replace; None if the source of this tool
            is known and on the same host.
    """

    path: Path
    text: str
    include: str | None
    to_replace: str | None


class NoPipelineFile(NamedTuple):
    """No pipeline file, and why: the rest of a sentence after `because`."""

    reason: str


def pipeline_file(manifests: Path) -> PipelineFile | NoPipelineFile:
    """Return the pipeline file for a manifests directory, which need not exist yet."""
    absolute = Path(os.path.abspath(manifests))  # noqa: PTH100 - `..` must go too
    tree = next(filter(is_work_tree, (absolute, *absolute.parents)), None)
    if tree is None:
        return NoPipelineFile("this is not a git repository")
    program = find_git()
    if program is None:
        return NoPipelineFile("git is not installed")
    remote = _remote(program, tree)
    if remote is None:
        return NoPipelineFile("this repository has no remote on a server")
    if "github" in remote.host or remote.host.endswith(".ghe.com"):
        name = _GITHUB_FILE
    elif "gitlab" in remote.host:
        name = _GITLAB_FILE
    else:
        return NoPipelineFile(f"{visible(remote.host)} is neither GitHub nor GitLab")
    source = installed_source()
    commit = source and source.commit
    known = commit is not None and commit.repository.host == remote.host
    if commit is None or not known:
        placeholder = Repository(remote.host, PLACEHOLDER)
        commit = Commit(placeholder, PLACEHOLDER_REVISION, PLACEHOLDER_TAG)
    file = tree / name
    text = _filled(name, commit, os.path.relpath(absolute, tree), known=known)
    return PipelineFile(
        file if manifests.is_absolute() else Path(os.path.relpath(file)),
        text,
        None if name == _GITHUB_FILE else text[text.index("include:") :],
        None if known else f"{commit.repository.path}@{commit.revision}",
    )


def _remote(program: str, tree: Path) -> Repository | None:
    """Return the repository of the remote `origin`, or else of the first remote on a server."""
    ceiling = {"GIT_CEILING_DIRECTORIES": str(tree.parent)}  # git must not search above the tree
    answer = run_git(program, tree, "remote", "--verbose", variables=ceiling)
    lines = [] if answer is None else answer.output.decode(errors="replace").splitlines()
    remotes: dict[str, Repository] = {}
    for line in lines:
        name, _, rest = line.partition("\t")
        repository = parse_repository(rest.rpartition(" (")[0])
        if repository is not None:
            remotes.setdefault(name, repository)
    return remotes.get("origin") or next(iter(remotes.values()), None)


def _filled(name: str, commit: Commit, manifests: str, *, known: bool) -> str:
    """Return the text of a template with its placeholders filled in."""
    template = "github.yml" if name == _GITHUB_FILE else "gitlab.yml"
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    values = {
        "{host}": commit.repository.host,
        "{repository}": commit.repository.path,
        "{revision}": commit.revision,
        "{tag}": f"  # {commit.tag}" if commit.tag else "",
        "{hint}": _VERSION if known else _TO_REPLACE,
        # A JSON string is a YAML string too, whatever characters are in it.
        "{manifests}": json.dumps(Path(manifests).as_posix(), ensure_ascii=False),
    }
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
