"""What a change of manifests newly reaches: servers that get credentials, sinks, and programs.

`environments.yaml` says which server gets a credential, `deliver` and `check` what is opened and
run. Where a pull request changes one of them, nobody may have reviewed it before it is planned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from yaml import CBaseLoader, YAMLError
from yaml import load as parsed

from provisioner.address import CommandAddress
from provisioner.manifests.load import ENVIRONMENTS, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from provisioner.desired import DesiredKey

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
    ours, theirs = dict(_files(manifests)), dict(_files(base))
    if ours.get(ENVIRONMENTS) != theirs.get(ENVIRONMENTS):
        return f"it changes `{ENVIRONMENTS}`, which says where credentials are sent"
    if ours == theirs:
        return None
    if not _deliveries(ours) <= _deliveries(theirs):
        return "it changes a `deliver` or a `check`"
    loaded = (load(one, environments=environments).desired for one in (manifests, base))
    head, known = map(_commands, loaded)
    if not head <= known:
        return "it changes what a `command` of `deliver` is run with"
    return None


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The YAML files below a folder, by their paths in it."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in _SUFFIXES and file.is_file():
            yield file.relative_to(folder).as_posix(), file.read_bytes()


def _deliveries(files: dict[str, bytes]) -> frozenset[str]:
    """Every `deliver` as it is written; of a file that is not YAML none."""

    def found(node: object) -> Iterator[str]:
        if isinstance(node, Mapping):
            if "deliver" in node:
                yield json.dumps(node["deliver"], sort_keys=True, default=str)
            for part in node.values():
                yield from found(part)
        elif isinstance(node, Sequence) and not isinstance(node, str):
            for part in node:
                yield from found(part)

    def document(text: bytes) -> object:
        try:
            return parsed(text, CBaseLoader)  # noqa: S506 - it makes nothing but text
        except YAMLError:
            return None

    return frozenset(one for text in files.values() for one in found(document(text)))


def _commands(desired: Mapping[str, tuple[DesiredKey, ...]]) -> frozenset[object]:
    """Every program of a sink with its arguments, its placeholders filled in."""
    sinks = (address for keys in desired.values() for key in keys for address in key.deliver)
    return frozenset((one.argv, one.check) for one in sinks if isinstance(one, CommandAddress))
