"""A file that a command writes beside its two streams, opened before anything is done."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from provisioner.errors.exceptions import WrongUsageError

_STREAM = re.compile(r"/dev/(?:fd/(\d+)|stdout|stderr)")


def is_stream(file: str) -> bool:
    """Whether it is a stream of this process, which a runner may read along."""
    return _STREAM.fullmatch(file) is not None


def open_output(file: str, option: str) -> BinaryIO:
    """The file, empty and open for writing; a stream of this process keeps what it has.

    Args:
        file: as it was typed; may be a pipe, or `/dev/stderr`.
        option: which asked for it.

    Raises:
        WrongUsageError: when it cannot be written.
    """
    stream = _STREAM.fullmatch(file)
    try:
        if stream is None:
            return open(file, "wb", buffering=0)  # noqa: PTH123 - as it was typed
        # To open a stream by its name would cut the file that a shell lets it append to.
        number = int(stream[1]) if stream[1] else 1 + (file == "/dev/stderr")
        return os.fdopen(os.dup(number), "wb", buffering=0)
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WrongUsageError(
            "report_unwritable",
            f"{file!r} cannot be written: {reason}.",
            remedy=f"Give {option} a file in a folder that exists. Nothing was done.",
        ) from None


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Writes all of it: a pipe may take less than it is given.

    Raises:
        OSError: when it takes no more.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) or 0 :]
