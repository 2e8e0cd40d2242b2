"""The paths of files in addresses, and whether two of them lead to the same place of one file."""

from __future__ import annotations

import os
import posixpath
import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from provisioner.sinks.kind import CLEAN, NO_DOTS, Allowed
from provisioner.sinks.sink import SinkFailure, unsuitable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


FILE_PATH = Allowed(
    re.compile(rf"(?:{CLEAN}*/)?{NO_DOTS}(?:(?!/){CLEAN})+"),
    "the path of a file, without control characters",
)
"""The paths that files of sinks may have."""


def normalized(path: str) -> str:
    """Return a path without dots and doubled slashes; links and the root are not resolved."""
    normal = posixpath.normpath(path)
    # POSIX lets each system decide on two leading slashes; here they count as one.
    return f"/{normal.lstrip('/')}" if normal.startswith("/") else normal


def real_name(path: str, root: Path) -> tuple[str, ...]:
    """Return the path of a file in the root after resolving symbolic links, if it differs."""
    if "\0" in path:
        return ()
    root = Path(os.path.realpath(root))
    absolute = Path(os.path.normpath(root / normalized(path)))
    real = Path(os.path.realpath(absolute))
    if real == absolute or not absolute.is_relative_to(root):
        return ()
    return ((real.relative_to(root) if real.is_relative_to(root) else real).as_posix(),)


class PlaceInFile(Protocol):
    """The address of a place in a file.

    Attributes:
        file: the normalized path; a relative one starts at the root of the run.
        place: the kind of the sink and the file, then the identity of the place in that file.
    """

    @property
    def file(self) -> str:
        """Return the path of the file."""
        ...

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place."""
        ...


P = TypeVar("P", bound=PlaceInFile)

_Part = tuple[str, ...]
"""The identity of a place in its file."""


class FileLocations(Generic[P]):
    """The files that the addresses of one kind of sink lead to.

    Args:
        root: the folder that relative paths start from, absolute.
        declared: every address that this run or another one may deliver a token to.
    """

    def __init__(self, root: Path, declared: Iterable[P]) -> None:
        self._locations = _locations(root, declared)

    def collision(self, address: P, path: Path) -> SinkFailure | None:
        """Return the failure if another declared address leads to the same place; None otherwise.

        An address that is declared itself must not be inside another one, or contain it, either.

        Args:
            address: an address.
            path: its file, without symbolic links.
        """
        at_location = self._locations.get((str(path), _part(address)), ())
        other = next((one for one in at_location if one.place != address.place), None)
        how = "through a symbolic link"
        if not at_location:
            other, how = self._same_file(path, _part(address)), "under another name"
        elif (nested := self._nested(str(path), _part(address))) is not None:
            return overlap(nested)
        if other is None:
            return None
        reason = f"leads to the same place as {other} {how}"
        return unsuitable(reason, "Give each key its own file or variable.")

    def _nested(self, path: str, part: _Part) -> P | None:
        """Return the first declared address that contains a place or is inside it."""
        above = (self._locations.get((path, one)) for one in _containers(part))
        around = next(filter(None, above), None)
        return self._inside.get((path, part)) if around is None else around[0]

    @cached_property
    def _inside(self) -> Mapping[tuple[str, _Part], P]:
        """The first address inside each place that contains another one."""
        found: dict[tuple[str, _Part], P] = {}
        for (path, part), addresses in self._locations.items():
            for container in _containers(part):
                found.setdefault((path, container), addresses[0])
        return found

    @cached_property
    def _by_part(self) -> Mapping[_Part, Mapping[str, P]]:
        """The first address of each real path, by the identity in the file."""
        found: dict[_Part, dict[str, P]] = {}
        for (path, part), addresses in self._locations.items():
            found.setdefault(part, {})[path] = addresses[0]
        return found

    def _same_file(self, path: Path, part: _Part) -> P | None:
        """Return the declared address that leads to the file under another name; None without one.

        A file system may ignore case, or be mounted twice.
        """
        for other, address in self._by_part.get(part, {}).items():
            with suppress(OSError):
                if path.samefile(other):
                    return address
        return None


def overlap(other: PlaceInFile) -> SinkFailure:
    """Return the failure of a place that is a part of another one of its file, or contains it."""
    reason = f"contains the place of {other} or is inside it, so one token would replace the other"
    return unsuitable(reason, "Give each key its own place.")


def _containers(part: _Part) -> Iterator[_Part]:
    return (part[:end] for end in range(1, len(part)))


def _part(address: PlaceInFile) -> _Part:
    return address.place[2:]


def _locations(root: Path, declared: Iterable[P]) -> dict[tuple[str, _Part], tuple[P, ...]]:
    """Return the addresses of each place by real path: several if there are symbolic links."""
    found: dict[tuple[str, _Part], tuple[P, ...]] = {}
    folders: dict[str, str] = {}
    for address in declared:
        folder, name = os.path.split(os.path.join(root, address.file))  # noqa: PTH118 - for many
        try:
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            real = os.path.join(folders[folder], name)  # noqa: PTH118 - as above
            if os.path.islink(real):  # noqa: PTH114 - as above
                real = os.path.realpath(real)
        except ValueError:  # not a valid path, which opening its sink reports
            continue
        at = (real, _part(address))
        others = found.setdefault(at, (address,))
        if others[0] is not address and others[0].place != address.place:
            found[at] = (*others, address)
    return found
