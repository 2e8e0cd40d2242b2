"""Files to text: regular files only, of bounded size, in UTF-8."""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
from typing import TYPE_CHECKING

from provisioner.errors.problem import Place, Problem

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 16 * 2**20
"""How large a manifest may be: some 60 000 keys."""

if sys.platform == "win32":
    _FLAGS = os.O_RDONLY | os.O_BINARY
else:
    # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
    _FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_LONE_RETURN = re.compile("\r(?!\n)")
"""A line break for YAML and none for git, so that no line number would be right for both."""


def read(path: Path, file: str) -> str | Problem:
    """The text of one file, without a byte order mark.

    Args:
        path: where it is.
        file: what the problem calls it.
    """
    start = Place(file)
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        return Problem(start, "file_unreadable", f"the file cannot be read: {reason(error)}")
    if data is None:
        return Problem(
            start,
            "file_too_large",
            f"the file has more than {MAX_BYTES // 2**20} MiB: split it, every file below the "
            "manifests directory is read",
        )
    return _decode(data, start)


def read_bytes(path: Path, limit: int) -> bytes | None:
    """The bytes of a regular file, or None when there are more than `limit`.

    Raises:
        OSError: it cannot be read, or is no regular file; `reason` says why.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError:
        raise OSError(0, "its name holds a NUL character") from None
    with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123 - a descriptor has no Path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is not a regular file")
        data = bytearray()
        while len(data) <= limit and (chunk := stream.read(limit + 1 - len(data))):
            data += chunk
    return bytes(data) if len(data) <= limit else None


def reason(error: OSError) -> str:
    """Why a file could not be used, in a few words and without its name."""
    return (error.strerror or type(error).__name__).lower()


def place_at(text: str, index: int, file: str) -> Place:
    """The position of a character, or of the end of the text."""
    return Place(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _decode(data: bytes, start: Place) -> str | Problem:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Problem(start, "file_encoding", "the file is UTF-16: save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        return Problem(
            place_at(before, len(before), start.file),
            "file_encoding",
            f"the byte 0x{data[error.start]:02X} is not UTF-8: save the file as UTF-8",
        )
    if "\r" in text and (found := _LONE_RETURN.search(text)):
        return Problem(
            place_at(text, found.start(), start.file),
            "file_line_ends",
            "a carriage return (U+000D) without a line feed ends this line: save the file with "
            "LF or CRLF line ends",
        )
    return text
