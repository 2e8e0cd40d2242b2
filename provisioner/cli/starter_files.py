"""The files that `init` writes: a working example with comments."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner import schemas
from provisioner.cli.pipeline_file import PipelineFile
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WrongUsageError
from provisioner.manifests import ENVIRONMENTS

if TYPE_CHECKING:
    from provisioner.cli.pipeline_file import NoPipelineFile

_TEMPLATES = Path(__file__).with_name("starter")

_IGNORED = """\
# Written by provision: the state of the embedded Twenty, and delivered tokens.
/.provision/
/secrets/
"""

_ALL_IGNORED = "# Written by provision: delivered tokens.\n*\n"
"""The .gitignore of the folder of tokens, used if the project has its own .gitignore."""


def schemas_of(manifests: Path) -> Path:
    """Return the folder of the schemas that the files of a manifests directory name."""
    return manifests.parent / "schemas"


def schema_address(manifests: Path, folder: Path) -> str:
    """Return the path of the schemas relative to a folder: editors start at the manifest."""
    return Path(os.path.relpath(schemas_of(manifests), folder)).as_posix()


def write_first_files(manifests: Path, pipeline: PipelineFile | NoPipelineFile) -> tuple[Path, ...]:
    """Write the example, the schemas that its comments name, and what else does not exist yet.

    Args:
        manifests: the manifests directory; schemas go to `schemas/` next to it, or in it if it is
            the working directory.
        pipeline: the pipeline file; an existing one is kept.

    Returns:
        The paths of the written files.

    Raises:
        WrongUsageError: if one of the files already exists, another program's schema has the
            same name, or a file cannot be written.
    """
    new_files = _example(manifests, pipeline)
    if not os.path.lexists(ignored := manifests.parent / ".gitignore"):
        new_files[ignored] = _IGNORED
    elif not os.path.lexists(ignored := manifests.parent / "secrets" / ".gitignore"):
        new_files[ignored] = _ALL_IGNORED
    new_files |= _schemas(schemas_of(manifests))
    try:
        for path, text in new_files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())  # the same bytes on every system
    except OSError as error:
        raise WrongUsageError(
            Code.NOT_WRITABLE,
            f"{error.filename} cannot be written: {error.strerror}.",
            remedy="Use -m with a directory that you can write to.",
        ) from None
    return tuple(new_files)


def _example(manifests: Path, pipeline: PipelineFile | NoPipelineFile) -> dict[Path, str]:
    """Return the files of the example, and the pipeline file if there is none yet."""
    address = schema_address(manifests, manifests)
    files = {
        manifests / one.name: one.read_text(encoding="utf-8").replace("{schemas}", address)
        for one in (_TEMPLATES / ENVIRONMENTS, _TEMPLATES / "keys.yaml")
    }
    existing = [path for path in files if os.path.lexists(path)]
    if isinstance(pipeline, PipelineFile):
        if not os.path.lexists(pipeline.path):
            files[pipeline.path] = pipeline.text
        elif existing:
            existing.append(pipeline.path)
    if existing:
        shown = ", ".join(path.as_posix() for path in existing)
        raise WrongUsageError(
            Code.FILE_EXISTS,
            f"init never overwrites a file, and these already exist: {shown}.",
            remedy="Choose another directory with -m.",
        )
    return files


def _schemas(folder: Path) -> dict[Path, str]:
    """Return the schemas that do not exist yet in a folder."""
    files = {}
    for name in ("environments", "manifest"):
        path = folder / f"{name}.schema.json"
        if not os.path.lexists(path):
            files[path] = schemas.text(name)
        elif not _is_own_schema(path, name):
            raise WrongUsageError(
                Code.FILE_EXISTS,
                f"{path.as_posix()} already exists and is not a schema that provision wrote.",
                remedy="Use -m with a directory elsewhere, such as keys/manifests.",
            )
    return files


def _is_own_schema(path: Path, name: str) -> bool:
    """Return whether a file is this schema, in any version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    schema_id = schemas.load(name)["$id"].rpartition(":")[0]
    return isinstance(content, dict) and str(content.get("$id")).rpartition(":")[0] == schema_id
