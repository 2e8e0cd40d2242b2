"""Writes the files of the sink `file` to the disk: replaced completely, or else written in place.

Everything that a write needs is tried before a token is minted: the lock of the folder, a file of
the same size beside the old one, and that new files belong to the user of this run.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.codes import Code
from provisioner.runtime.atomic_write import (
    PREFIX,
    SUFFIX,
    ForeignOwnerError,
    sync_folder,
    temporary_file,
    write_atomically,
)
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sinks.sink import SinkFailure, UnusableError, unsuitable

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import Address


_LOG = logging.getLogger(__name__)

_EXTRA_SIZE = 8192
"""Bytes that a file may grow by when a token is added to it; a generous bound."""

_LEFTOVERS = f"{PREFIX}????????{SUFFIX}"
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")

_IRREPLACEABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV})
"""Errors after which an existing file may still be writable in place."""

_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV})


class LockWait(NamedTuple):
    """The time to wait for a lock that another process has.

    Attributes:
        first: seconds, once a run for each lock.
        after_timeout: seconds for a lock that timed out before and has been free since.
    """

    first: float = 10.0
    after_timeout: float = 0.5


_LOCK_WAIT = LockWait()

_LOCKED = SinkFailure(
    Code.SINK_UNAVAILABLE,
    "is in a folder that another process has locked",
    "Wait until that process has finished, then run the command again.",
)
_OTHER_OWNER = unsuitable(
    "belongs to another user and cannot be replaced",
    "Make the current user its owner with `chown`, or choose another path.",
)
_NOT_OWNED = unsuitable(
    "is on a file system that assigns new files to another user",
    "Choose a folder on a local disk.",
)

_DENIED = frozenset({errno.EACCES, errno.EPERM})
_UNSUITABLE = frozenset({errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
_REMEDIES = {
    errno.EACCES: "Give the current user write access to the file and its folder.",
    errno.EPERM: "Remove the attribute that protects the file or its folder; `lsattr` shows it.",
    errno.EROFS: "Choose a path on a writable file system.",
    errno.ENOSPC: "Free disk space there, or choose a path on another disk.",
    errno.EDQUOT: "Free space in the user's quota, or raise the quota.",
    errno.EFBIG: "Raise the limit on the size of files (`ulimit -f`).",
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`).",
    errno.ENFILE: "Raise the machine's limit on open files (`fs.file-max`).",
}


def file_failure(error: OSError) -> SinkFailure:
    """Return the failure for an error of the operating system, with its remedy."""
    if isinstance(error, ForeignOwnerError):
        return _NOT_OWNED
    reason, number = f"cannot be used: {error.strerror}", error.errno or 0
    if number in _UNSUITABLE:
        remedy = _REMEDIES.get(number, "Choose a path where a file can be created.")
        return SinkFailure(Code.SINK_UNSUITABLE, reason, remedy)
    remedy = _REMEDIES.get(number, "Check the file system of the path, and run the command again.")
    return SinkFailure(Code.SINK_DENIED if number in _DENIED else Code.SINK_FAILED, reason, remedy)


@contextmanager
def as_sink_errors(address: Address) -> Iterator[None]:
    """Turn the errors of a file into errors of one of its sinks."""
    try:
        yield
    except (UnusableError, OSError, UnicodeEncodeError) as error:
        raise file_error(address, error) from None


def file_error(address: Address, error: Exception) -> SinkError:
    """Return an error of a file as the error of one of its sinks."""
    match error:
        case UnusableError(failure=failure):
            return failure.error(address)
        case OSError():
            return file_failure(error).error(address)
        case _:
            reason, remedy = "has a path or a value that cannot be encoded", "Choose another path."
            return unsuitable(reason, remedy).error(ascii(str(address)))


@dataclass(eq=False)
class Folders:
    """The folders of one run, each with what was found out about it.

    Attributes:
        lock_wait: the time to wait for the locks in them.
        mounts: a file that lists the mounts, in the format of Linux.
    """

    lock_wait: LockWait = _LOCK_WAIT
    mounts: Path = _MOUNTS
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _folders: dict[Path, Folder] = field(default_factory=dict, init=False)

    def at(self, path: Path) -> Folder:
        """Return the folder of a path without symbolic links; the folder need not exist yet."""
        with self._lock:
            return self._folders.setdefault(path, Folder(path, self))

    @cached_property
    def mount_points(self) -> frozenset[str]:
        """Return the paths where something is mounted, including single files; empty if unknown."""
        try:
            lines = self.mounts.read_bytes().splitlines()
        except OSError:
            return frozenset()
        points = (line.split(b" ")[4] for line in lines)
        return frozenset(
            os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), point))
            for point in points
        )


class Folder:
    """A folder that has, or will have, files of this run."""

    def __init__(self, path: Path, folders: Folders) -> None:
        self.path = path
        self._folders = folders
        self._lock = _Lock(folders.lock_wait)
        self._cleaned = False
        self._probe_lock = threading.Lock()
        self._probed_size = 0
        self._probe_error: OSError | None = None

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Keep other threads and other processes of this machine from writing in the folder.

        What killed processes left behind is removed once a run: only now is it certainly unused.

        Args:
            wait: False to raise at once if another process has the lock.
        """
        import shutil  # noqa: PLC0415 - `validate` writes nothing

        with ExitStack() as stack:
            if sys.platform == "win32":
                stack.enter_context(self._lock.mutex)
            else:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                stack.enter_context(self._lock.acquired(descriptor, wait=wait))
            if not self._cleaned:
                for path in self.path.glob(_LEFTOVERS):
                    shutil.rmtree(path, ignore_errors=True)
                self._cleaned = True  # listing a large folder for each file would take long
            yield

    def probe(self, size: int, *, for_new: bool = False) -> None:
        """Try, once a run, what replacing a file of this size in the folder needs.

        Args:
            size: in bytes.
            for_new: True for a file in a new folder, which will be created in this one.

        Raises:
            OSError: the operating system refuses it.
            UnusableError: the folder cannot be locked, or its new files belong to another user.
        """
        if not os.path.lexists(self.path):
            above = next(parent for parent in self.path.parents if os.path.lexists(parent))
            self._folders.at(above).probe(size, for_new=True)
            return
        with self._probe_lock:
            if self._probe_error is not None:
                raise self._probe_error
            if size <= self._probed_size:
                return
            try:
                with self.locked(wait=not for_new), temporary_file(self.path, os.urandom(size)):
                    self._probed_size = size
            except UnusableError as error:
                if not (for_new and error.failure is _LOCKED):
                    raise
                # Creating a folder in here needs no lock, whose owner may remove the probe.
                with suppress(FileNotFoundError), temporary_file(self.path, os.urandom(size)):
                    pass
            except OSError as error:
                self._probe_error = error
                raise


class DiskFile:
    """One file on the disk, as bytes.

    Args:
        path: its path without symbolic links.
        folders: the folders of the run.
        keeps_mode: True if an existing file keeps its permissions, as far as the umask allows.
            Otherwise only its owner may read it.
    """

    def __init__(self, path: Path, folders: Folders, *, keeps_mode: bool = False) -> None:
        self.path = path
        self._keeps_mode = keeps_mode
        self._folders = folders
        self._folder = folders.at(path.parent)
        self._lock = _Lock(folders.lock_wait)
        self._warned = False

    def probe(self) -> None:
        """Try what a write needs, without leaving anything behind.

        Raises:
            OSError: the operating system refuses it.
            UnusableError: the file or its folder is not suitable.
        """
        exists = os.path.lexists(self.path)
        size = _EXTRA_SIZE + (self.path.stat().st_size if exists else 0)
        try:
            if exists:
                self._check_replaceable()
            self._folder.probe(size)
        except OSError as error:
            if sys.platform != "win32" and self._allows_write_in_place(error):
                self._probe_in_place(size)
            else:
                raise

    def rewrite(self, new_content: Callable[[], bytes]) -> None:
        """Replace the content of the file completely or not at all, in place if necessary.

        Args:
            new_content: reads the file and returns its new content, while nobody else writes it.

        Raises:
            OSError: the operating system refuses it.
            UnusableError: the file or its folder is not suitable.
        """
        _make_folders(self._folder.path)
        try:
            self._check_not_mounted()
            with self._folder.locked():
                write_atomically(self.path, new_content(), mode=self._mode())
        except OSError as error:
            if sys.platform != "win32" and self._allows_write_in_place(error):
                with self._open_in_place() as descriptor:
                    _overwrite(descriptor, new_content(), self._mode())
            else:
                raise

    def _mode(self) -> int:
        """Return the permissions of the file after a write."""
        return stat.S_IMODE(self.path.stat().st_mode) if self._keeps_mode else 0o600

    def _check_not_mounted(self) -> None:
        if os.path.ismount(self.path) or str(self.path) in self._folders.mount_points:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _check_replaceable(self) -> None:
        """Raise if a rename could not replace the file, as far as that can be seen."""
        self._check_not_mounted()
        if sys.platform != "win32":
            folder, user = self.path.parent.stat(), os.geteuid()
            is_sticky = folder.st_mode & stat.S_ISVTX and user not in (0, folder.st_uid)
            if is_sticky and user != self.path.stat().st_uid:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            if not os.access(self.path, os.W_OK, effective_ids=True):
                try:
                    os.close(os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW))
                except OSError as error:
                    # The mode of a file that is replaced does not matter; its attributes do.
                    if error.errno == errno.EPERM:
                        raise

    if sys.platform != "win32":

        def _allows_write_in_place(self, error: OSError) -> bool:
            irreplaceable = error.errno in _IRREPLACEABLE
            return irreplaceable and os.path.isfile(self.path)  # noqa: PTH113 - False where denied

        def _probe_in_place(self, size: int) -> None:
            with self._open_in_place() as descriptor:
                disk, status = os.fstatvfs(descriptor), os.fstat(descriptor)
                free = disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)
                if size - status.st_blocks * 512 > free:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        @contextmanager
        def _open_in_place(self) -> Iterator[int]:
            """Open and lock the file itself, and its folder if possible; warn once."""
            with ExitStack() as stack:
                with suppress(PermissionError):
                    stack.enter_context(self._folder.locked())
                descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
                stack.enter_context(self._lock.acquired(descriptor))
                if os.fstat(descriptor).st_uid != os.geteuid():
                    raise UnusableError(_OTHER_OWNER)
                if not self._warned:
                    self._warned = True
                    _LOG.warning(
                        "%s cannot be replaced and is written in place: a reader may see a "
                        "half-written file",
                        self.path,
                    )
                yield descriptor


@dataclass(eq=False, slots=True)
class _Lock:
    """A lock between threads and processes, which waits for its full time only once.

    Attributes:
        mutex: held by the thread that has the lock or waits for it.
        abandoned: a wait that timed out, in its thread.
    """

    lock_wait: LockWait
    mutex: threading.Lock = field(default_factory=threading.Lock)
    abandoned: Future[None] | None = None

    if sys.platform != "win32":

        @contextmanager
        def acquired(self, descriptor: int, *, wait: bool = True) -> Iterator[None]:
            """Lock an open file or folder, and close it afterwards.

            Args:
                descriptor: its file descriptor.
                wait: False to raise at once if another process has the lock.

            Raises:
                UnusableError: another process does not release the lock in time, or nothing can be
                    locked here.
            """
            waiting: Future[None] | None = None
            try:
                with self.mutex:
                    abandoned, wait_time = self.abandoned, self.lock_wait
                    if abandoned is not None and not abandoned.done():
                        raise UnusableError(_LOCKED)
                    if not _try_lock(descriptor):
                        if not wait:
                            raise UnusableError(_LOCKED)
                        # flock(2) has no timeout, so a thread waits in it and may be abandoned
                        # there.
                        threads = ThreadExecutor(1)
                        waiting = threads.submit(fcntl.flock, descriptor, fcntl.LOCK_EX)
                        threads.shutdown(wait=False)
                        try:
                            waiting.result(
                                wait_time.after_timeout if abandoned else wait_time.first
                            )
                        except TimeoutError:
                            self.abandoned = waiting
                            raise UnusableError(_LOCKED) from None
                    yield
            finally:
                if waiting is None:
                    os.close(descriptor)
                else:
                    waiting.add_done_callback(lambda _: os.close(descriptor))


if sys.platform != "win32":

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            reason = f"is in a folder that cannot be locked ({error.strerror})"
            raise UnusableError(unsuitable(reason, "Choose a folder on a local disk.")) from None
        return True

    def _overwrite(descriptor: int, data: bytes, mode: int) -> None:
        """Write over the current content; a kill leaves at worst blank lines or NULs at the end."""
        os.fchmod(descriptor, mode)
        size = os.fstat(descriptor).st_size
        # Let a full disk fail before anything is changed, if the system supports that.
        if len(data) > size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(descriptor, 0, len(data))
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    os.ftruncate(descriptor, size)
                    raise
        padded = data.ljust(size, b"\n")
        written = 0
        while written < len(padded):
            written += os.pwrite(descriptor, padded[written:], written)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)


def _make_folders(folder: Path) -> None:
    """Create the missing folders, accessible only to the user of this run."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)
