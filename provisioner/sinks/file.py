"""The sink `file`: a variable of a dotenv file, a member of a JSON object, or a whole file.

A file is replaced as a whole or not at all, under a lock that writers in other processes wait
for, and belongs to its owner alone (mode 0600); where it can be written and not replaced it is
written in place. On Windows there is neither that lock nor that mode: there one process at a time
may write a file, and its folder must be closed to others.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.secret import Secret
from provisioner.sinks.file_entry import UnfitTextError
from provisioner.sinks.file_text import (
    Entries,
    FileFormat,
    demand_name,
    entries_of,
    only_entry,
    with_value,
)
from provisioner.sinks.file_write import DiskFile, FileError, FileTrouble, Folders, trouble_of
from provisioner.sinks.git import Git
from provisioner.sinks.sink import Content, Empty, StoredValue, failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import FileAddress

_TICK = 100_000_000
"""Generously, for any file system."""

_STREAM = re.compile(r"/dev/(?:std(?:in|out|err)|fd/.*)|/proc/.*")

_NUL = FileTrouble("sink_unsuitable", "has a NUL in its path", "Choose another path.")
_NO_FILE = FileTrouble("sink_unsuitable", "is no regular file", "Choose the path of a file.")


class Files:
    """The files of one run: addresses that lead to one file share what is known of it.

    Args:
        root: where relative paths stand; `~` is a name like any other.
        declared: every address that a token may be delivered to, of this run or another one.
        folders: those that the files stand in.
        tick: nanoseconds within which a file may change twice under one time stamp.
    """

    def __init__(
        self,
        root: Path,
        declared: Iterable[FileAddress] = (),
        *,
        folders: Folders | None = None,
        tick: int = _TICK,
    ) -> None:
        self._root = root.absolute()
        self._twins = _twins(self._root, declared)
        self._lock = threading.Lock()
        self._files: dict[tuple[Path, FileFormat], _File] = {}
        self._folders = folders or Folders()
        self._tick = tick
        self._git = Git(self._root)

    def sink(self, address: FileAddress) -> FileSink:
        """The sink of an address; symbolic links are followed now.

        Raises:
            SinkError: when no file can have such a path, no dotenv file such a variable, or when
                another address leads to the same variable of the same file.
        """
        with _told(address):
            if "\0" in address.path:
                raise FileError(_NUL)
            demand_name(address.variable, address.format)
            path = self._root / address.file
            real = Path(os.path.realpath(path))
            for twin in self._twins.get((str(real), address.variable), ()):
                if twin.place != address.place:
                    raise FileError(_twin_of(twin))
        with self._lock:
            file = self._files.get((real, address.format))
            if file is None:
                disk = DiskFile(real, self._folders)
                file = _File(path, real, address.format, disk, self._git, tick=self._tick)
                self._files[real, address.format] = file
        return FileSink(address, file)


class FileSink:
    """One variable of a dotenv file or one member, at the top level, of a JSON object.

    Of several lines that assign a variable the last one counts, as to every reader: bash,
    python-dotenv ("File format"), Node's dotenv ("FAQ"), Docker Compose ("Env file syntax"). All
    else in the file is kept byte for byte.
    """

    def __init__(self, address: FileAddress, file: _File) -> None:
        self._address = address
        self._file = file

    def check(self) -> None:
        """Check that the file can be written, has its format, and is not tracked by git.

        Raises:
            SinkError: when it certainly cannot hold a token, or not safely.
        """
        with _told(self._address):
            self._file.check()
            self._file.value(self._address.variable)

    def read(self) -> Content:
        """What the variable holds; Nothing without the file or the variable, or where it is empty.

        Raises:
            SinkError: when the file could not be read, or is none that can hold the variable.
        """
        with _told(self._address):
            value = self._file.value(self._address.variable)
        return StoredValue(Secret.received(value)) if value else Empty()

    def write(self, token: Secret) -> None:
        """Puts the token into the file; folders that are missing are made.

        Raises:
            SinkError: when it was not written, or may be lost in a power failure.
        """
        with _told(self._address):
            self._file.put(self._address.variable, token)


def _twins(
    root: Path, declared: Iterable[FileAddress]
) -> dict[tuple[str, str], tuple[FileAddress, ...]]:
    """The variables of files, by real path, that several addresses lead to by symbolic links."""
    first: dict[tuple[str, str], FileAddress] = {}
    several: dict[tuple[str, str], tuple[FileAddress, ...]] = {}
    folders: dict[str, str] = {}
    for address in declared:
        folder, name = os.path.split(os.path.join(root, address.file))  # noqa: PTH118 - for many
        try:
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            real = os.path.join(folders[folder], name)  # noqa: PTH118 - as above
            if os.path.islink(real):  # noqa: PTH114 - as above
                real = os.path.realpath(real)
        except ValueError:  # no file can have such a path, which is told when it is opened
            continue
        place = (real, address.variable)
        other = first.setdefault(place, address)
        if other is not address and other.place != address.place:
            several[place] = (*several.get(place, (other,)), address)
    return several


def _twin_of(other: FileAddress) -> FileTrouble:
    return FileTrouble(
        "sink_unsuitable",
        f"is, by a symbolic link, the same place as {other}",
        "Give each key a file or a variable of its own.",
    )


@contextmanager
def _told(address: FileAddress) -> Iterator[None]:
    """Makes what goes wrong with a file the error of one of its sinks."""
    try:
        yield
    except FileError as error:
        raise _failed(address, error.trouble) from None
    except UnfitTextError as error:
        raise failed("sink_unsuitable", f"{address} {error.what}.", error.remedy) from None
    except OSError as error:
        raise _failed(address, trouble_of(error)) from None
    except UnicodeEncodeError:
        message = f"{str(address)!a} has a path or a value that is no Unicode."
        raise failed("sink_unsuitable", message, "Choose another path.") from None


def _failed(address: FileAddress, trouble: FileTrouble) -> SinkError:
    return failed(trouble.code, f"{address} {trouble.what}.", trouble.remedy)


class _File:
    """One file, whichever of its variables are asked for, in whichever threads.

    Args:
        written: its path as a manifest writes it, absolute.
        path: the same without symbolic links, so that a link stays and its target is replaced.
        file_format: of its text.
        disk: the same file as it stands on the disk.
        git: says what git would publish.
        tick: nanoseconds within which it may change twice under one time stamp.
    """

    def __init__(  # noqa: PLR0913 - what all its variables share
        self,
        written: Path,
        path: Path,
        file_format: FileFormat,
        disk: DiskFile,
        git: Git,
        *,
        tick: int,
    ) -> None:
        self._written = written
        self._path = path
        self._format = file_format
        self._disk = disk
        self._git = git
        self._tick = tick
        self._probing = threading.Lock()
        self._probed = False
        self._trouble: FileTrouble | None = None
        self._looking = threading.Lock()
        self._seen: _Seen | None = None

    def check(self) -> None:
        """Tries, once a run, what a write will do; nothing is left behind."""
        self._keep_from_git()
        self._status()
        with self._probing:
            if not self._probed:
                self._trouble = self._probe()
                self._probed = True
        if self._trouble is not None:
            raise FileError(self._trouble)

    def _probe(self) -> FileTrouble | None:
        try:
            self._disk.probe()
        except FileError as error:
            return error.trouble
        except OSError as error:
            return trouble_of(error)
        return None

    def value(self, variable: str) -> str:
        """Return the value of a variable, empty without it; an unchanged file is parsed once."""
        entry = only_entry(self.entries_of().get(variable, ()), self._format)
        return "" if entry is None else entry.value

    def put(self, variable: str, value: Secret) -> None:
        """Gives a variable its value, in place of the one that it has."""
        self._keep_from_git()
        self._status()

        def changed() -> bytes:
            text = with_value(self._text(), variable, value, self._format)
            return text.encode("utf-8", "surrogateescape")

        self._disk.rewrite(changed)

    @cached_property
    def _published(self) -> FileTrouble | None:
        return self._git.publishes(self._path)

    def _keep_from_git(self) -> None:
        if self._published is not None:
            raise FileError(self._published)

    def _status(self) -> os.stat_result | None:
        """The status of the file, None where there is none yet."""
        try:
            status = self._written.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode) or _STREAM.fullmatch(os.path.normpath(self._written)):
            raise FileError(_NO_FILE)
        return status

    def entries_of(self) -> Entries:
        """The values of each variable of the file as it is now."""
        with self._looking:
            status = self._status()
            if status is None:
                return {}
            times = (status.st_mtime_ns, status.st_ctime_ns)
            mark = (status.st_dev, status.st_ino, status.st_size, *times)
            if self._seen is None or self._seen.mark != mark:
                seen = _Seen(mark, entries_of(self._text(), self._format))
                settled = abs(time.time_ns() - status.st_ctime_ns) > self._tick
                self._seen = seen if settled else None
                return seen.entries
            return self._seen.entries

    def _text(self) -> str:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ""
        # A write in place that was killed may leave NULs at the end.
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a file had, and the marks of a file that has it still."""

    mark: tuple[int, ...]
    entries: Entries
