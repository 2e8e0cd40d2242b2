"""Compares the manifests of a pull request with those of the base branch.

`environments.yaml` says which server gets a credential, `deliver` and `check` what is opened and
run. Where a pull request changes one of them, nobody may have reviewed it before it is planned.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from comment import GitHub, NotWrittenError

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTED = 1000
"""Entries of a folder that GitHub lists."""

ENVIRONMENTS = "environments.yaml"


def why_not_planned(event: dict[str, Any], manifests: Path) -> str | None:
    """Return why a pull request gets no credential; None where it is planned with one."""
    base = (event.get("pull_request") or {}).get("base") or {}
    ref = base.get("ref")
    if not ref or ref != (event.get("repository") or {}).get("default_branch"):
        return "its base is not the default branch"
    place = os.path.relpath(manifests, os.environ["GITHUB_WORKSPACE"])
    if place == os.pardir or place.startswith(os.pardir + os.sep):
        return "the manifests are not in the checkout"
    ours = dict(read(manifests))
    try:
        theirs = dict(fetched(GitHub(), Path(place).as_posix(), ref, ours))
    except NotWrittenError as error:
        text = str(error).rstrip(".")
        return (
            f"the manifests of {ref} could not be read, for which the job needs "
            f"`permissions: {{contents: read}}` ({text})"
        )
    if ours.get(ENVIRONMENTS) != theirs.get(ENVIRONMENTS):
        return f"it changes `{ENVIRONMENTS}`, which says where credentials are sent"
    if ours == theirs:
        return None
    return compared(manifests, theirs)


def read(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The YAML files below a folder, by their paths in it."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in {".yaml", ".yml"} and file.is_file():
            yield file.relative_to(folder).as_posix(), file.read_bytes()


def fetched(
    github: GitHub, place: str, ref: str, ours: dict[str, bytes], folder: str = ""
) -> Iterator[tuple[str, bytes]]:
    """The same of the base branch; what is equal here is not fetched."""
    path = quote(os.path.normpath(f"{place}/{folder}").removeprefix("./"))
    listed = github.ask("GET", f"/contents/{path}?ref={quote(ref, safe='')}")
    if not isinstance(listed, list) or len(listed) >= LISTED:
        raise NotWrittenError("there is no folder of them, or it has too many files")
    for one in listed:
        path = f"{folder}{one['name']}"
        if one["type"] == "dir":
            yield from fetched(github, place, ref, ours, f"{path}/")
        elif one["type"] == "file" and path.endswith((".yaml", ".yml")):
            if path in ours and one["sha"] == blob(ours[path]):
                yield path, ours[path]
            else:
                content = github.ask("GET", f"/git/blobs/{one['sha']}")["content"]
                yield path, base64.b64decode(content)


def blob(content: bytes) -> str:
    """The name that git gives to the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def compared(manifests: Path, theirs: dict[str, bytes]) -> str | None:
    """Return why manifests that differ are not planned."""
    # Only for manifests that differ.
    from provisioner.manifests import load, newly_reached  # noqa: PLC0415

    protected = os.environ.get("PROVISION_ENVIRONMENTS")
    environments = Path(protected) if protected else None
    if load(manifests, environments=environments).problems:
        if "--environments" in os.environ.get("INPUT_ARGUMENTS", ""):
            return "they have problems without the file of `--environments` in `arguments`"
        return None  # such a plan ends before anything is sent
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside, manifests.name)
        for path, content in theirs.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return newly_reached(manifests, folder, environments)


def explanation(why: str) -> str:
    """What the pull request is told, as Markdown."""
    return (
        "### API keys: only validated\n\n"
        f"This pull request is not planned with credentials, because {why}. "
        "Nothing was sent to any server, and no program of it was run.\n\n"
        "To approve: review these changes, then start this workflow by hand on the branch of the "
        "pull request (`workflow_dispatch`), which plans it, or merge it.\n"
    )
