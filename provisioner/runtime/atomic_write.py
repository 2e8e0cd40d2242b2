"""Writes files completely or not at all, also if the process is killed or the power fails."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX, SUFFIX = ".provision-", ".tmp"
"""The start and the end of the names of temporary folders, which a killed process leaves behind."""

_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class ForeignOwnerError(OSError):
    """A new file belongs to another user: its file system assigns files to somebody else."""


def write_atomically(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o600,
    replace: bool = True,
    secret: bool = True,
) -> None:
    """Write a file whose folder exists.

    Args:
        path: the file; a symbolic link is replaced, not followed.
        data: its new content.
        mode: its permissions, less those that the umask removes.
        replace: False to raise if the file exists.
        secret: False to write also where new files belong to another user.

    Raises:
        FileExistsError: the file exists and is not to be replaced.
        OSError: the file was not written; an existing one is unchanged.
    """
    with temporary_file(path.parent, data, mode=mode, secret=secret) as new:
        if replace:
            new.replace(path)
        else:
            os.link(new, path)
        sync_folder(path.parent)


@contextmanager
def temporary_file(
    folder: Path, data: bytes, *, mode: int = 0o600, secret: bool = True
) -> Iterator[Path]:
    """Create a file in a temporary folder inside this one, and remove the folder afterwards.

    Raises:
        ForeignOwnerError: the file would belong to another user; the data was not written.
        OSError: the file could not be written.
    """
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - `validate` writes nothing

    with TemporaryDirectory(
        prefix=PREFIX, suffix=SUFFIX, dir=folder, ignore_cleanup_errors=True
    ) as name:
        # Git must never add what a killed process leaves behind.
        Path(name, ".gitignore").write_text("*\n", encoding="ascii")
        new = Path(name, "new")
        descriptor = os.open(new, _CREATE_FLAGS, mode)
        with os.fdopen(descriptor, "wb") as file:
            if secret and sys.platform != "win32" and os.fstat(descriptor).st_uid != os.geteuid():
                raise ForeignOwnerError(None, "new files there belong to another user")
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield new


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
