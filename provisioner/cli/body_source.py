"""The body of `create`, from a file or standard input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import InvalidInputError
from provisioner.errors.problem import Place, Problem
from provisioner.operations.request_body import RequestBody, read_body

if TYPE_CHECKING:
    from typing import TextIO


def read_source(name: str, stdin: TextIO | None) -> RequestBody:
    """Return the records of a file, or of standard input for `-`.

    Raises:
        InvalidInputError: if it cannot be read or is not a valid body.
    """
    try:
        text = _bytes_of(name, stdin).decode("utf-8-sig")
    except OSError as error:
        reason = f"The body cannot be read: {error.strerror}."
    except UnicodeDecodeError:
        reason = "The body is not UTF-8."
    else:
        return read_body(text, name)
    raise InvalidInputError((Problem(Place(name), Code.BODY_INVALID, reason),))


def _bytes_of(name: str, stdin: TextIO | None) -> bytes:
    if name != "-":
        return Path(name).read_bytes()
    return stdin.buffer.read() if stdin else b""
