"""The sink `file`: a variable of a dotenv file, a member of a JSON object, or a whole file.

A file is replaced as a whole or not at all, under a lock that writers in other processes wait
for, and belongs to its owner alone (mode 0600). On Windows there is neither that lock nor that
mode: there one process at a time may write a file, and its folder must be closed to others.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.secret import Secret
from provisioner.sinks.file_text import (
    Entries,
    Form,
    UnfitTextError,
    demand_name,
    entries_of,
    only_entry,
    with_value,
)
from provisioner.sinks.sink import Content, Holds, Nothing, failed
from provisioner.threads import Threads

if sys.platform == "win32":
    _NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_BINARY
else:
    import fcntl

    _NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from provisioner.address import FileAddress
    from provisioner.sinks.sink import SinkCode

_PATIENCE = 10.0
"""Seconds to wait for another process that writes the file, and for an answer of git."""

_TICK = 100_000_000
"""Nanoseconds within which a file may change twice under one time stamp, generously."""

_STREAM = re.compile(r"/dev/(?:std(?:in|out|err)|fd/.*)|/proc/.*")
_LEFT_BEHIND = ".provision-????????.tmp"


class Files:
    """The files of one run: addresses that lead to one file share what is known of it.

    Args:
        root: where relative paths stand; `~` is a name like any other.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._lock = threading.Lock()
        self._files: dict[tuple[Path, Form], _File] = {}
        self._folders: dict[Path, threading.Lock] = {}

    def sink(self, address: FileAddress) -> FileSink:
        """The sink of an address; symbolic links are followed now.

        Raises:
            SinkError: when no file can have such a path, or no dotenv file such a variable.
        """
        with _told(address):
            if "\0" in address.path:
                raise _FileError("sink_unsuitable", "has a NUL in its path", "Choose another path.")
            demand_name(address.variable, address.format)
            path = self._root / address.file
            real = Path(os.path.realpath(path))
        with self._lock:
            # The threads of a run wait here for their turn, and only one of them for others' locks.
            turn = self._folders.setdefault(real.parent, threading.Lock())
            new = _File(path, real, address.format, turn)
            file = self._files.setdefault((real, address.format), new)
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

    def prepare(self) -> None:
        """Looks whether the file can be replaced, has its form, and is not for git to publish.

        Raises:
            SinkError: when it certainly cannot hold a token, or not safely.
        """
        with _told(self._address):
            self._file.prepare()
            self._file.value(self._address.variable)

    def read(self) -> Content:
        """What the variable holds; Nothing without the file or the variable, or where it is empty.

        Raises:
            SinkError: when the file could not be read, or is none that can hold the variable.
        """
        with _told(self._address):
            value = self._file.value(self._address.variable)
        return Holds(Secret.found(value)) if value else Nothing()

    def write(self, token: Secret) -> None:
        """Replaces the file by one that holds the token; folders that are missing are made.

        Raises:
            SinkError: when it was not written, or may be lost in a power failure.
        """
        with _told(self._address):
            self._file.put(self._address.variable, token)


class _FileError(Exception):
    """Why a file cannot be used.

    Attributes:
        what: the rest of a sentence that begins with the address.
    """

    def __init__(self, code: SinkCode, what: str, remedy: str) -> None:
        super().__init__(what)
        self.code: SinkCode = code
        self.what = what
        self.remedy = remedy


@contextmanager
def _told(address: FileAddress) -> Iterator[None]:
    """Makes what goes wrong with a file the error of one of its sinks."""
    try:
        yield
    except _FileError as error:
        raise failed(error.code, f"{address} {error.what}.", error.remedy) from None
    except UnfitTextError as error:
        raise failed("sink_unsuitable", f"{address} {error.what}.", error.remedy) from None
    except OSError as error:
        code, remedy = _of_system(error)
        raise failed(code, f"{address} cannot be used: {error.strerror}.", remedy) from None
    except UnicodeEncodeError:
        message = f"{str(address)!a} has a path or a value that is no Unicode."
        raise failed("sink_unsuitable", message, "Choose another path.") from None


def _of_system(error: OSError) -> tuple[SinkCode, str]:
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "sink_denied", "Let the user of this run write the file and its folder."
        case errno.ENOTDIR | errno.EISDIR | errno.ELOOP | errno.ENAMETOOLONG:
            return "sink_unsuitable", "Choose a path at which a file can stand."
        case _:
            return "sink_failed", "Mend that, for instance with free space, and run again."


class _File:
    """One file, whichever of its variables are asked for, in whichever threads.

    Args:
        written: its path as a manifest writes it, absolute.
        path: the same without symbolic links, so that a link stays and its target is replaced.
        turn: held while a file of its folder is written.
    """

    def __init__(self, written: Path, path: Path, form: Form, turn: threading.Lock) -> None:
        self._written = written
        self._path = path
        self._form = form
        self._turn = turn
        self._looking = threading.Lock()
        self._seen: _Seen | None = None

    def prepare(self) -> None:
        """Looks, without a change, whether the file can be replaced."""
        self._keep_from_git()
        if self._status() is not None:
            _demand(self._path, os.R_OK)
        folder = next(parent for parent in self._path.parents if os.path.lexists(parent))
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _demand(folder, os.R_OK | os.W_OK | os.X_OK)

    def value(self, variable: str) -> str:
        """What a variable has, empty without it; an unchanged file is parsed once."""
        entry = only_entry(self.entries_of().get(variable, ()), self._form)
        return "" if entry is None else entry.value

    def put(self, variable: str, value: Secret) -> None:
        """Gives a variable its value, in place of the one that it has."""
        with self._turn:
            self._keep_from_git()
            self._status()
            folder = self._path.parent
            _make_folders(folder)
            with _alone(folder):
                for left in folder.glob(_LEFT_BEHIND):
                    shutil.rmtree(left, ignore_errors=True)
                text = with_value(self._text(), variable, value, self._form)
                self._replace(text.encode("utf-8", "surrogateescape"))

    @cached_property
    def _published(self) -> tuple[str, str] | None:
        return _published(self._path)

    def _keep_from_git(self) -> None:
        if self._published is not None:
            raise _FileError("sink_unsuitable", *self._published)

    def _status(self) -> os.stat_result | None:
        """The status of the file, None where there is none yet."""
        try:
            status = self._written.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode) or _STREAM.fullmatch(os.path.normpath(self._written)):
            raise _FileError("sink_unsuitable", "is no regular file", "Choose the path of a file.")
        return status

    def entries_of(self) -> Entries:
        with self._looking:
            status = self._status()
            if status is None:
                return {}
            times = (status.st_mtime_ns, status.st_ctime_ns)
            mark = (status.st_dev, status.st_ino, status.st_size, *times)
            if self._seen is None or self._seen.mark != mark:
                seen = _Seen(mark, entries_of(self._text(), self._form))
                settled = abs(time.time_ns() - status.st_ctime_ns) > _TICK
                self._seen = seen if settled else None
                return seen.entries
            return self._seen.entries

    def _text(self) -> str:
        try:
            return self._path.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""

    def _replace(self, data: bytes) -> None:
        folder = self._path.parent
        with tempfile.TemporaryDirectory(
            prefix=".provision-", suffix=".tmp", dir=folder, ignore_cleanup_errors=True
        ) as aside:
            # What a killed process leaves behind is invisible to git, whatever else it ignores.
            Path(aside, ".gitignore").write_text("*\n", encoding="ascii")
            new = Path(aside, "new")
            descriptor = os.open(new, _NEW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                self._keep_owner(descriptor)
                os.fsync(descriptor)
            new.replace(self._path)
            _sync(folder)

    def _keep_owner(self, descriptor: int) -> None:
        """Leaves a file to the user whose it was, where this run may do that."""
        if sys.platform != "win32" and (status := self._status()) is not None:
            with suppress(PermissionError):
                os.fchown(descriptor, status.st_uid, status.st_gid)


def _demand(path: Path, mode: int) -> None:
    if not os.access(path, mode, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _make_folders(folder: Path) -> None:
    """Makes the folders that are missing, each for the user of this run alone."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Has the names in a folder outlive a power failure."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine from writing files of a folder meanwhile."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    # flock(2) knows no time limit, so a thread waits in it and may be left there.
    waiting = Threads(1)
    locked = waiting.submit(fcntl.flock, descriptor, fcntl.LOCK_EX)
    waiting.shutdown(wait=False)
    try:
        _await(locked)
        yield
    finally:
        locked.add_done_callback(lambda _: os.close(descriptor))


def _await(locked: Future[None]) -> None:
    try:
        locked.result(_PATIENCE)
    except TimeoutError:
        raise _FileError(
            "sink_unavailable",
            "stands in a folder that another process keeps locked",
            "Let that process end and run again.",
        ) from None
    except OSError as error:
        raise _FileError(
            "sink_unsuitable",
            f"stands in a folder that cannot be locked ({error.strerror})",
            "Choose a folder on a local disk.",
        ) from None


def _published(path: Path) -> tuple[str, str] | None:
    """What is wrong with a file that git publishes, and a remedy; None where it does not.

    A file that is tracked is never ignored: git-check-ignore(1), "DESCRIPTION".
    """
    if ".git" in path.parts:
        return "stands in a .git folder", "Choose a path outside of it."
    if not any(os.path.lexists(parent / ".git") for parent in path.parents):
        return None
    match _git(path, "check-ignore", "--quiet"):
        case 0:
            return None
        case 1 if _git(path, "--literal-pathspecs", "ls-files", "--error-unmatch") == 0:
            return (
                "is tracked by git",
                "Take it out of git with `git rm --cached`, and add it to .gitignore.",
            )
        case 1:
            return (
                "stands in a git work tree that does not ignore it",
                "Add it to .gitignore, or choose a path outside the work tree.",
            )
        case _:
            return (
                "stands below a .git, and git (missing, or not trusting its owner?) tells no more",
                "Have `git check-ignore` answer for it, or choose a path outside the work tree.",
            )


def _git(path: Path, *command: str) -> int | None:
    """The exit code of a git command about one path; None where git does not run, or not end."""
    program = shutil.which("git")
    if program is None:
        return None
    folder = next(parent for parent in path.parents if parent.is_dir())
    # A hook, among others, has variables that lead to one repository wherever git is run.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_")
        or (name.startswith("GIT_CONFIG_") and name != "GIT_CONFIG_PARAMETERS")
    }
    # With the dot before it a path has no magic, and check-ignore takes no other way to say so.
    try:
        return subprocess.run(  # noqa: S603 - a list, and a path after the dashes is no option
            [program, "-C", str(folder), *command, "--", f"./{path.relative_to(folder)}"],
            env=environment | {"GIT_DISCOVERY_ACROSS_FILESYSTEM": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a file had, and the marks of a file that has it still."""

    mark: tuple[int, ...]
    entries: Entries
