"""Compares the manifests of a pull request with those of the base branch.

`environments.yaml` decides which servers get credentials, `deliver` and `check` decide which sinks
are opened and which programs run. If a pull request changes one of them, the plan would use it
before anyone has reviewed it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from comment import GitHub, GitHubError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ENTRIES = 1000
"""The maximum number of entries that GitHub lists for a folder."""

ENVIRONMENTS = "environments.yaml"


def reason_not_to_plan(event: dict[str, Any], manifests: Path) -> str | None:
    """Return why a pull request must not get credentials; None if it may be planned with them."""
    base = (event.get("pull_request") or {}).get("base") or {}
    ref = base.get("ref")
    if not ref or ref != (event.get("repository") or {}).get("default_branch"):
        return "its base is not the default branch"
    path = os.path.relpath(manifests, os.environ["GITHUB_WORKSPACE"])
    if path == os.pardir or path.startswith(os.pardir + os.sep):
        return "the manifests are not in the checkout"
    head_files = dict(read_files(manifests))
    try:
        base_files = dict(fetch_files(GitHub(), Path(path).as_posix(), ref, head_files))
    except GitHubError as error:
        text = str(error).rstrip(".")
        return (
            f"the manifests of {ref} could not be read ({text}; the job needs "
            "`permissions: {contents: read}`)"
        )
    if head_files.get(ENVIRONMENTS) != base_files.get(ENVIRONMENTS):
        return f"it changes `{ENVIRONMENTS}`, which decides where credentials are sent"
    if head_files == base_files:
        return None
    return compare(manifests, base_files)


def read_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every YAML file in a folder and its subfolders, with its relative path."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in {".yaml", ".yml"} and file.is_file():
            yield file.relative_to(folder).as_posix(), file.read_bytes()


def fetch_files(
    github: GitHub, root: str, ref: str, head_files: dict[str, bytes], folder: str = ""
) -> Iterator[tuple[str, bytes]]:
    """Yield the YAML files on the base branch; fetch only those that differ from the head."""
    path = quote(os.path.normpath(f"{root}/{folder}").removeprefix("./"))
    entries = github.request("GET", f"/contents/{path}?ref={quote(ref, safe='')}")
    if not isinstance(entries, list) or len(entries) >= MAX_ENTRIES:
        raise GitHubError("the folder does not exist on that branch, or it has too many files")
    for entry in entries:
        path = f"{folder}{entry['name']}"
        if entry["type"] == "dir":
            yield from fetch_files(github, root, ref, head_files, f"{path}/")
        elif entry["type"] == "file" and path.endswith((".yaml", ".yml")):
            if path in head_files and entry["sha"] == blob_id(head_files[path]):
                yield path, head_files[path]
            else:
                content = github.request("GET", f"/git/blobs/{entry['sha']}")["content"]
                yield path, base64.b64decode(content)


def blob_id(content: bytes) -> str:
    """Return the id that git gives to the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def compare(manifests: Path, base_files: dict[str, bytes]) -> str | None:
    """Return why manifests that differ from the base must not be planned; None if they may be."""
    # Only pull requests that change manifests need this slow import.
    from provisioner.manifests import load, newly_reached  # noqa: PLC0415

    protected = os.environ.get("PROVISION_ENVIRONMENTS")
    environments = Path(protected) if protected else None
    if load(manifests, environments=environments).problems:
        if "--environments" in os.environ.get("INPUT_ARGUMENTS", ""):
            return "the manifests have problems without the file of `--environments` in `arguments`"
        return None  # the plan reports the problems before it sends anything
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, manifests.name)
        for path, content in base_files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return newly_reached(manifests, folder, environments)


def explanation(reason: str) -> str:
    """Return the comment for a pull request that is only validated, as Markdown."""
    return (
        "### API keys: only validated\n\n"
        f"This pull request was not planned with credentials, because {reason}. "
        "No request was sent to any server, and no program of the pull request was run.\n\n"
        "To approve it, review these changes. Then start this workflow by hand "
        "(`workflow_dispatch`) on the branch of the pull request to plan it, or merge it.\n"
    )
