"""What a change of manifests newly reaches: servers that get credentials, sinks, and programs.

`environments.yaml` says which server gets a credential, `deliver` and `check` what is opened and
run. Where a pull request changes one of them, nobody may have reviewed it before it is planned.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provisioner.manifests import document, text
from provisioner.manifests.load import ENVIRONMENTS, load
from provisioner.model.sink_address import CommandAddress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from provisioner.model.key import DesiredKey

_SUFFIXES = frozenset({".yaml", ".yml"})


def newly_reached(manifests: Path, base: Path, environments: Path | None = None) -> str | None:
    """Return what manifests reach that those of the base do not; None where that is nothing.

    Args:
        manifests: a directory of manifests without a problem.
        base: the same directory of the branch that a change goes to; one that is not there holds
            no manifest.
        environments: read in place of the environments.yaml of both; those are compared all the
            same.
    """
    ours, theirs = _contents(manifests), _contents(base)
    if ours.get(ENVIRONMENTS) != theirs.get(ENVIRONMENTS):
        return f"it changes `{ENVIRONMENTS}`, which says where credentials are sent"
    if ours == theirs:
        return None
    if not _deliveries(manifests) <= _deliveries(base):
        return "it changes a `deliver` or a `check`"
    loaded = (load(one, environments=environments).desired for one in (manifests, base))
    head, known = map(_commands, loaded)
    if not head <= known:
        return "it changes what a `command` of `deliver` is run with"
    return None


def _files(folder: Path) -> Iterator[Path]:
    """The YAML files below a folder."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in _SUFFIXES and file.is_file():
            yield file


def _contents(folder: Path) -> dict[str, bytes]:
    """What they hold, by their paths in it."""
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in _files(folder)}


def _deliveries(folder: Path) -> frozenset[str]:
    """Every `deliver` as it is written; of a file that cannot be read none.

    A run's own reader reads it: where two readers took a line for the end of another one, a
    manifest could show each of them something else.
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
    """Every program of a sink with its arguments, its placeholders filled in."""
    sinks = (address for keys in desired.values() for key in keys for address in key.deliver)
    return frozenset((one.argv, one.check) for one in sinks if isinstance(one, CommandAddress))
