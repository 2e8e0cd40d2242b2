"""Output files of a command, opened before it does anything, and streams that fail later."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO, TextIO

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WrongUsageError
from provisioner.runtime.atomic_write import write_atomically

_STREAM = re.compile(r"/dev/(?:fd/(\d+)|stdout|stderr)")


def is_stream(file: str) -> bool:
    """Return whether a path is a stream of this process, which a CI runner may read."""
    return _STREAM.fullmatch(file) is not None


def open_output(file: str, option: str) -> BinaryIO:
    """Open a file for writing and empty it; a stream of this process is not emptied.

    Args:
        file: the path as it was typed; may be a pipe, or `/dev/stderr`.
        option: the option that named it.

    Raises:
        WrongUsageError: if it cannot be written.
    """
    stream = _STREAM.fullmatch(file)
    try:
        if stream is None:
            return open(file, "wb", buffering=0)  # noqa: PTH123 - as it was typed
        # Opening a stream by name would truncate the file that a shell redirects it to.
        number = int(stream[1]) if stream[1] else 1 + (file == "/dev/stderr")
        return os.fdopen(os.dup(number), "wb", buffering=0)
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WrongUsageError(
            Code.REPORT_UNWRITABLE,
            f"{file!r} cannot be written: {reason}.",
            remedy=f"Use {option} with a file in an existing folder. Nothing was changed.",
        ) from None


def replace_file(file: Path, text: str, option: str) -> None:
    """Write a file that others may read while it is written: they find the old text or the new one.

    Args:
        file: the path as it was typed; its folder is created.
        text: its new content, without secrets.
        option: the option that named it.

    Raises:
        WrongUsageError: if it cannot be written; an existing file is unchanged.
    """
    path = Path(os.path.realpath(file))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode(), mode=0o666, secret=False)
    except OSError as error:
        raise WrongUsageError(
            Code.NOT_WRITABLE,
            f"{file.as_posix()} cannot be written: {error.strerror}.",
            remedy=f"Use {option} with a file that you can write to.",
        ) from None


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Write all data, also to a pipe, which may accept only a part at a time.

    Raises:
        OSError: if it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) or 0 :]


def discard_output(stream: TextIO) -> None:
    """Discard what a stream has buffered and everything that is written to it later."""
    with open(os.devnull, "w", encoding="utf-8") as devnull:  # noqa: PTH123 - not a path of ours
        os.dup2(devnull.fileno(), stream.fileno())
