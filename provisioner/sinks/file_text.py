"""The texts of the sink `file`: find the value of a variable, and replace it.

Everything else in a text is kept unchanged. A text that cannot hold the variable, or could not
return it, raises an `InvalidTextError` and is left unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.sinks import dotenv, json_file
from provisioner.sinks.file_entry import Entry, InvalidTextError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.secret import Secret


FileFormat = Literal["dotenv", "json", "bare"]
"""The format of a file. A bare file is one value, of a variable without a name."""


Entries = Mapping[str, tuple[Entry, ...]]


def check_name(variable: str, file_format: FileFormat) -> None:
    """Check that a format allows the name of a variable.

    Raises:
        InvalidTextError: no text of this format can have the variable.
    """
    if file_format == "dotenv" and not dotenv.NAME.fullmatch(variable):
        raise InvalidTextError(
            "has a variable name that is not valid in a dotenv file",
            "Use only letters, digits and underscores.",
        )


def entries_of(text: str, file_format: FileFormat) -> Entries:
    """Return the entries of each variable, in their order."""
    pairs: Iterable[tuple[str, Entry]]
    match file_format:
        case "dotenv":
            dotenv.check_dotenv(text)
            pairs = dotenv.assignments(text)
        case "bare":
            pairs = (("", Entry(text.strip(), 0, len(text))),)
        case "json":
            pairs = ((member.name, member.entry) for member in json_file.members(text))
        case _:
            assert_never(file_format)
    found: dict[str, tuple[Entry, ...]] = {}
    for name, entry in pairs:
        found[name] = (*found.get(name, ()), entry)
    return found


def effective_entry(entries: tuple[Entry, ...], file_format: FileFormat) -> Entry | None:
    """Return the entry of a variable that its readers use; None if there is none.

    Raises:
        InvalidTextError: the entry is ambiguous, or not a text.
    """
    if file_format == "json" and len(entries) > 1:
        raise InvalidTextError("appears twice in its JSON object", "Remove one of the two members.")
    if not entries:
        return None
    if entries[-1].nested:
        raise InvalidTextError("contains an object or an array", "Choose another variable.")
    return entries[-1]


def with_value(text: str, variable: str, value: Secret, file_format: FileFormat) -> str:
    """Return the text with a new value for a variable and everything else unchanged.

    Raises:
        InvalidTextError: the text cannot hold the variable, or another value would change.
    """
    before = entries_of(text, file_format)
    entry = effective_entry(before.get(variable, ()), file_format)
    match file_format:
        case "dotenv":
            written, append = dotenv.quote_value(value.reveal()), dotenv.append_line
        case "bare":
            return value.reveal()
        case "json":
            written, append = json.dumps(value.reveal()), json_file.append_member
        case _:
            assert_never(file_format)
    if entry is None:
        new = append(text, variable, written)
    else:
        new = text[: entry.start] + written + text[entry.end :]
    expected = values_of(before)
    expected.setdefault(variable, [])[-1:] = [value.reveal()]
    # For example, a quote that is never closed may swallow the lines after it.
    if values_of(entries_of(new, file_format)) != expected:
        raise InvalidTextError(
            "cannot be added: its file has an unclosed quote", "Close the quotes in the file."
        )
    return new


def values_of(entries: Entries) -> dict[str, list[str]]:
    """Return the values of each variable, without their positions."""
    return {name: [entry.value for entry in found] for name, found in entries.items()}
