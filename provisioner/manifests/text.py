"""Reading of files: regular files of limited size, in UTF-8."""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.problem import Place, Problem

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 16 * 2**20
"""The size limit of a manifest, enough for about 60 000 keys."""

if sys.platform == "win32":
    _FLAGS = os.O_RDONLY | os.O_BINARY
else:
    # Without O_NONBLOCK, opening a FIFO that nobody writes to would block forever.
    _FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_LONE_RETURN = re.compile("\r(?!\n)")
"""A line break for YAML but not for git, so no line number would be right for both."""


def read(path: Path, file: str) -> str | Problem:
    """Return the text of a file without its byte order mark, or the problem with it.

    Args:
        path: the path to open.
        file: the path in the problem.
    """
    start = Place(file)
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        return Problem(start, Code.FILE_UNREADABLE, f"the file cannot be read: {reason(error)}")
    if data is None:
        message = (
            f"the file is larger than {MAX_BYTES // 2**20} MiB: split it into several files in "
            "the manifests directory"
        )
        return Problem(start, Code.FILE_TOO_LARGE, message)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Problem(start, Code.FILE_ENCODING, "the file is in UTF-16: save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        message = f"the byte 0x{data[error.start]:02X} is not UTF-8: save the file as UTF-8"
        return Problem(place_at(before, len(before), file), Code.FILE_ENCODING, message)
    if "\r" in text and (found := _LONE_RETURN.search(text)):
        message = (
            "this line ends in a carriage return (U+000D) without a line feed: save the file with "
            "LF or CRLF line endings"
        )
        return Problem(place_at(text, found.start(), file), Code.FILE_LINE_ENDS, message)
    return text


def read_bytes(path: Path, limit: int) -> bytes | None:
    """Return the bytes of a regular file, or None if there are more than `limit`.

    Raises:
        OSError: The file cannot be read or is not a regular file; `reason` explains it.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError:
        raise OSError(0, "its name contains a NUL character") from None
    with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123 - a descriptor has no Path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is not a regular file")
        data = bytearray()
        while len(data) <= limit and (chunk := stream.read(limit + 1 - len(data))):
            data += chunk
    return bytes(data) if len(data) <= limit else None


def reason(error: OSError) -> str:
    """Return why a file cannot be used, in a few words and without its name."""
    return (error.strerror or type(error).__name__).lower()


def place_at(text: str, index: int, file: str) -> Place:
    """Return the place of a character, or of the end of the text."""
    return Place(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))
