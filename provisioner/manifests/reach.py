"""Finds servers, sinks and programs that a change of manifests adds.

Environments files decide which servers get credentials and who is told about a run, `deliver` and
`check` decide which sinks are opened and which programs run. A plan for a pull request may run
before anyone has reviewed its changes to them.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from provisioner.manifests import document, text
from provisioner.manifests.load import environments_files, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from provisioner.model.key import DesiredKey

_SUFFIXES = frozenset({".yaml", ".yml"})


def newly_reached(manifests: Path, base: Path, environments: Path | None = None) -> str | None:
    """Return the reason why manifests reach more than those of the base; None if they do not.

    Args:
        manifests: a directory of manifests without problems.
        base: the same directory in the branch that a change is for; if it does not exist, it has
            no manifests.
        environments: the file to read instead of environments.yaml of both directories, which are
            compared nevertheless.
    """
    declaring = sorted(_environments(manifests).items() ^ _environments(base).items())
    if declaring:
        return f"it changes `{declaring[0][0]}`, which determines where credentials are sent"
    head_files, base_files = _contents(manifests), _contents(base)
    if head_files == base_files:
        return None
    if not _deliveries(manifests) <= _deliveries(base):
        return "it changes a `deliver` or a `check`"
    loaded = (load(one, environments=environments).desired for one in (manifests, base))
    head_commands, base_commands = map(_commands, loaded)
    if not head_commands <= base_commands:
        return "it changes the arguments of a `command` in `deliver`"
    return None


def _environments(folder: Path) -> dict[str, bytes]:
    """Return the contents of the environments files and of the lists that they name."""
    paths = environments_files(folder)
    return {os.path.relpath(one, folder): one.read_bytes() for one in paths if one.is_file()}


def _files(folder: Path) -> Iterator[Path]:
    """Yield the YAML files below a directory."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in _SUFFIXES and file.is_file():
            yield file


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of the YAML files, by their paths in the directory."""
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in _files(folder)}


def _deliveries(folder: Path) -> frozenset[str]:
    """Return every `deliver` as written, without those of files that cannot be read.

    The reader of a run is used. Two readers could disagree about where a line ends, so that one
    manifest could have different contents for each.
    """

    def found(node: object) -> Iterator[str]:
        if isinstance(node, document.Mapping):
            if "deliver" in node:
                yield json.dumps(node["deliver"], sort_keys=True, default=str)
            for part in node.values():
                yield from found(part)
        elif isinstance(node, document.Sequence):
            for part in node:
                yield from found(part)

    def root(file: Path) -> object:
        content = text.read(file, file.name)
        read = document.read(content, file.name)[0] if isinstance(content, str) else None
        return read and read.root

    return frozenset(one for file in _files(folder) for one in found(root(file)))


def _commands(desired: Mapping[str, tuple[DesiredKey, ...]]) -> frozenset[object]:
    """Return the programs of all sinks with their arguments, their placeholders replaced."""
    sinks = (address for keys in desired.values() for key in keys for address in key.deliver)
    return frozenset(one.programs for one in sinks if one.programs)
