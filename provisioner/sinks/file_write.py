"""Put a file of the sink `file` on the disk: replaced as a whole, or else written in place.

Everything that a write needs is tried before a token is minted: the lock of the folder, a file
beside the old one with as many bytes, and that it belongs to the user of this run.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.runtime.executor import ThreadExecutor

if sys.platform == "win32":
    _NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_BINARY
else:
    import fcntl

    _NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from provisioner.sinks.sink import SinkCode

_LOG = logging.getLogger(__name__)

_ROOM = 8192
"""Bytes that a file may grow by when a token is put into it, generously."""

_LEFT_BEHIND = ".provision-????????.tmp"
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")

_IRREPLACEABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV})
"""Errors after which a file that is there may still be written in place."""

_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class LockWait:
    """How long to wait for another process that holds a lock.

    Attributes:
        first: seconds, once a run for each lock.
        again: the same for a lock that was waited for in vain, and has been free since then.
    """

    first: float = 10.0
    again: float = 0.5


_LOCK_WAIT = LockWait()


@dataclass(frozen=True, slots=True)
class FileTrouble:
    """The reason why a file cannot be used.

    Attributes:
        code: the kind of failure.
        what: the rest of a sentence that begins with the sink's address.
        remedy: one sentence that says what to do.
    """

    code: SinkCode
    what: str
    remedy: str


class FileError(Exception):
    """A file cannot be used, for a reason that is no `OSError`."""

    def __init__(self, trouble: FileTrouble) -> None:
        super().__init__(trouble.what)
        self.trouble = trouble


_LOCKED = FileTrouble(
    "sink_unavailable",
    "is in a folder that another process keeps locked",
    "Wait until that process has ended, then run again.",
)
_OF_ANOTHER_USER = FileTrouble(
    "sink_unsuitable",
    "belongs to another user and cannot be replaced",
    "Give the file to the user of this run with `chown`, or choose another path.",
)
_GIVEN_AWAY = FileTrouble(
    "sink_unsuitable",
    "is on a file system that gives new files to another user",
    "Choose a folder on a local disk.",
)

_NO_FILE: tuple[SinkCode, str] = ("sink_unsuitable", "Choose a path at which a file can stand.")
_REMEDIES: dict[int, tuple[SinkCode, str]] = {
    errno.EACCES: ("sink_denied", "Let the user of this run write the file and its folder."),
    errno.EPERM: (
        "sink_denied",
        "Remove the attribute that protects the file or its folder; `lsattr` shows it.",
    ),
    errno.EROFS: ("sink_unsuitable", "Choose a path on a file system that can be written."),
    errno.ENOTDIR: _NO_FILE,
    errno.EISDIR: _NO_FILE,
    errno.ELOOP: _NO_FILE,
    errno.ENAMETOOLONG: _NO_FILE,
    errno.ENOSPC: ("sink_failed", "Free disk space there, or choose a path on another disk."),
    errno.EDQUOT: ("sink_failed", "Free space within the user's quota, or have it raised."),
    errno.EFBIG: ("sink_failed", "Raise the limit on the size of files (`ulimit -f`)."),
    errno.EMFILE: ("sink_failed", "Raise the limit on open files (`ulimit -n`)."),
    errno.ENFILE: ("sink_failed", "Raise the machine's limit on open files (`fs.file-max`)."),
}
_OTHER: tuple[SinkCode, str] = ("sink_failed", "Check the file system of the path, and run again.")


def trouble_of(error: OSError) -> FileTrouble:
    """The trouble that an error of the system is, with the remedy for it."""
    code, remedy = _REMEDIES.get(error.errno or 0, _OTHER)
    return FileTrouble(code, f"cannot be used: {error.strerror}", remedy)


class Folders:
    """The folders of one run, each with what is known of it.

    Args:
        lock_wait: for the locks in them.
        mounts: a file that lists what is mounted, as Linux has it.
    """

    def __init__(self, lock_wait: LockWait = _LOCK_WAIT, mounts: Path = _MOUNTS) -> None:
        self.lock_wait = lock_wait
        self._mounts = mounts
        self._lock = threading.Lock()
        self._folders: dict[Path, Folder] = {}

    def at(self, path: Path) -> Folder:
        """The folder of a path without symbolic links, which need not be there yet."""
        with self._lock:
            return self._folders.setdefault(path, Folder(path, self))

    @cached_property
    def mount_points(self) -> frozenset[str]:
        """The paths at which something is mounted, a single file too; empty where nobody tells."""
        try:
            lines = self._mounts.read_bytes().splitlines()
        except OSError:
            return frozenset()
        points = (line.split(b" ")[4] for line in lines)
        return frozenset(
            os.fsdecode(_OCTAL.sub(lambda sign: bytes([int(sign[1], 8)]), point))
            for point in points
        )


class Folder:
    """One folder in which files of the run stand, or will."""

    def __init__(self, path: Path, folders: Folders) -> None:
        self.path = path
        self._folders = folders
        self._lock = _Lock(folders.lock_wait)
        self._probing = threading.Lock()
        self._proven = 0
        self._failed: int | None = None

    @contextmanager
    def alone(self, *, patient: bool = True) -> Iterator[None]:
        """Keeps threads and other processes of this machine from writing files of it meanwhile."""
        if sys.platform == "win32":
            with self._lock.turn:
                yield
            return
        with self._lock.held(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY), patient=patient):
            yield

    def probe(self, size: int) -> None:
        """Tries, once a run, what replacing a file of so many bytes in it needs.

        Raises:
            OSError: when the system refuses it.
            FileError: when it cannot be locked, or gives files to another user.
        """
        if not os.path.lexists(self.path):
            above = next(parent for parent in self.path.parents if os.path.lexists(parent))
            self._folders.at(above)._probe(size, for_new=True)  # noqa: SLF001 - of the same kind
        else:
            self._probe(size, for_new=False)

    def _probe(self, size: int, *, for_new: bool) -> None:
        """Tries it in this folder, or for a folder that is still to be made in it."""
        with self._probing:
            if self._failed is not None:
                raise OSError(self._failed, os.strerror(self._failed))
            if size <= self._proven:
                return
            try:
                if for_new and not self._is_free():
                    # Who holds the lock may tidy up meanwhile, which a write can only do as well.
                    with suppress(FileNotFoundError), _beside(self.path, os.urandom(size)):
                        pass
                    return
                with self.alone():
                    self.tidy()
                    with _beside(self.path, os.urandom(size)):
                        self._proven = size
            except OSError as error:
                self._failed = error.errno
                raise

    def _is_free(self) -> bool:
        """Return whether nobody holds the lock; making a folder in here does not need it."""
        try:
            with self.alone(patient=False):
                return True
        except FileError as error:
            if error.trouble is _LOCKED:
                return False
            raise

    def tidy(self) -> None:
        """Removes what killed processes left behind; only under the lock nobody needs it."""
        for left in self.path.glob(_LEFT_BEHIND):
            shutil.rmtree(left, ignore_errors=True)


class DiskFile:
    """One file, as its bytes stand on the disk.

    Args:
        path: without symbolic links.
        folders: of the run.
    """

    def __init__(self, path: Path, folders: Folders) -> None:
        self._path = path
        self._folders = folders
        self._folder = folders.at(path.parent)
        self._lock = _Lock(folders.lock_wait)
        self._told = False

    def probe(self) -> None:
        """Tries what a write needs, without leaving anything behind.

        Raises:
            OSError: when the system refuses it.
            FileError: when the file or its folder is not fit for it.
        """
        there = os.path.lexists(self._path)
        size = _ROOM + (self._path.stat().st_size if there else 0)
        try:
            if there:
                self._demand_replaceable()
            self._folder.probe(size)
        except OSError as error:
            if not self._may_be_written_after(error):
                raise
            self._probe_in_place(size)

    def rewrite(self, change: Callable[[], bytes]) -> None:
        """Gives the file other bytes, all of them or none; in place where it cannot be replaced.

        Args:
            change: reads the file and says what it shall be; called while nobody else writes.

        Raises:
            OSError: when the system refuses it.
            FileError: when the file or its folder is not fit for it.
        """
        _make_folders(self._folder.path)
        try:
            self._demand_no_mount()
            with self._folder.alone():
                self._folder.tidy()
                with _beside(self._folder.path, change()) as new:
                    new.replace(self._path)
                    _sync(self._folder.path)
        except OSError as error:
            if not self._may_be_written_after(error):
                raise
            with self._opened_in_place() as descriptor:
                _overwrite(descriptor, change())

    def _demand_no_mount(self) -> None:
        if os.path.ismount(self._path) or str(self._path) in self._folders.mount_points:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _demand_replaceable(self) -> None:
        """Refuses a file that a rename could not replace, as far as that can be seen."""
        self._demand_no_mount()
        if sys.platform == "win32":
            return
        folder, user = self._path.parent.stat(), os.geteuid()
        kept = folder.st_mode & stat.S_ISVTX and user not in (0, folder.st_uid)
        if kept and user != self._path.stat().st_uid:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        if not os.access(self._path, os.W_OK, effective_ids=True):
            try:
                os.close(os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW))
            except OSError as error:
                # Its mode does not matter, since it is to be replaced; an attribute does.
                if error.errno == errno.EPERM:
                    raise

    def _may_be_written_after(self, error: OSError) -> bool:
        irreplaceable = sys.platform != "win32" and error.errno in _IRREPLACEABLE
        return irreplaceable and os.path.isfile(self._path)  # noqa: PTH113 - False where denied

    def _probe_in_place(self, size: int) -> None:
        with self._opened_in_place() as descriptor:
            room, status = os.fstatvfs(descriptor), os.fstat(descriptor)
            free = room.f_frsize * (room.f_bavail if os.geteuid() else room.f_bfree)
            if size - status.st_blocks * 512 > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def _opened_in_place(self) -> Iterator[int]:
        """The file itself, locked, with its folder where that can be opened; says so once."""
        with ExitStack() as held:
            with suppress(PermissionError):
                held.enter_context(self._folder.alone())
            descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
            held.enter_context(self._lock.held(descriptor))
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise FileError(_OF_ANOTHER_USER)
            if not self._told:
                self._told = True
                _LOG.warning(
                    "%s cannot be replaced, so it is written in place: a reader may see half of it",
                    self._path,
                )
            yield descriptor


class _Lock:
    """One lock that threads and other processes take in turns; waited for in vain only once.

    Attributes:
        turn: held by the thread that has it or waits for it.
    """

    def __init__(self, lock_wait: LockWait) -> None:
        self._lock_wait = lock_wait
        self.turn = threading.Lock()
        self._left: Future[None] | None = None

    @contextmanager
    def held(self, descriptor: int, *, patient: bool = True) -> Iterator[None]:
        """Locks what is open, and closes it afterwards.

        Raises:
            FileError: when another process does not give it back in time, or nothing can be
                locked there.
        """
        waiting: Future[None] | None = None
        try:
            with self.turn:
                if self._left is not None and not self._left.done():
                    raise FileError(_LOCKED)
                if not _locked_at_once(descriptor):
                    if not patient:
                        raise FileError(_LOCKED)
                    # flock(2) knows no time limit, so a thread waits in it and may be left there.
                    threads = ThreadExecutor(1)
                    waiting = threads.submit(fcntl.flock, descriptor, fcntl.LOCK_EX)
                    threads.shutdown(wait=False)
                    self._await(waiting)
                yield
        finally:
            if waiting is None:
                os.close(descriptor)
            else:
                waiting.add_done_callback(lambda _: os.close(descriptor))

    def _await(self, waiting: Future[None]) -> None:
        try:
            lock_wait = self._lock_wait
            waiting.result(lock_wait.first if self._left is None else lock_wait.again)
        except TimeoutError:
            self._left = waiting
            raise FileError(_LOCKED) from None


def _locked_at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        trouble = FileTrouble(
            "sink_unsuitable",
            f"is in a folder that cannot be locked ({error.strerror})",
            "Choose a folder on a local disk.",
        )
        raise FileError(trouble) from None
    return True


@contextmanager
def _beside(folder: Path, data: bytes) -> Iterator[Path]:
    """A new file with these bytes in a folder of its own; what is left of it goes at the end."""
    with tempfile.TemporaryDirectory(
        prefix=".provision-", suffix=".tmp", dir=folder, ignore_cleanup_errors=True
    ) as aside:
        # What a killed process leaves behind is invisible to git, whatever else it ignores.
        Path(aside, ".gitignore").write_text("*\n", encoding="ascii")
        new = Path(aside, "new")
        descriptor = os.open(new, _NEW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if sys.platform != "win32" and os.fstat(descriptor).st_uid != os.geteuid():
                raise FileError(_GIVEN_AWAY)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield new


def _overwrite(descriptor: int, data: bytes) -> None:
    """Writes over what is there; a kill leaves blank lines or NULs behind it at worst."""
    os.fchmod(descriptor, 0o600)
    size = os.fstat(descriptor).st_size
    if len(data) > size:
        try:
            _reserve(descriptor, len(data))
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    padded = data.ljust(size, b"\n")
    written = 0
    while written < len(padded):
        written += os.pwrite(descriptor, padded[written:], written)
    os.ftruncate(descriptor, len(data))
    os.fsync(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    """Has a full disk say so before anything is changed, where the system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise


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
