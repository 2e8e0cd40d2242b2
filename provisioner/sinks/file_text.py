"""The texts of the sink `file`: where a variable has its value, and the same text with another.

All else in a text is kept as it is. A text that cannot have the variable, or could not have it
back, is an `UnfitTextError` and is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.sinks import dotenv, json_file
from provisioner.sinks.file_entry import Entry, UnfitTextError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.secret import Secret


FileFormat = Literal["dotenv", "json", "bare"]
"""A bare text is one value, of a variable without a name."""


Entries = Mapping[str, tuple[Entry, ...]]


def demand_name(variable: str, file_format: FileFormat) -> None:
    """Holds a name to what the form can have.

    Raises:
        UnfitTextError: when no such text can have the variable.
    """
    if file_format == "dotenv" and not dotenv.NAME.fullmatch(variable):
        raise UnfitTextError(
            "has a name that no dotenv file can have",
            "Choose one of letters, digits and underscores.",
        )


def entries_of(text: str, file_format: FileFormat) -> Entries:
    """The values of each variable, in their order."""
    pairs: Iterable[tuple[str, Entry]]
    match file_format:
        case "dotenv":
            dotenv.demand_dotenv(text)
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


def only_entry(entries: tuple[Entry, ...], file_format: FileFormat) -> Entry | None:
    """The entry of a variable that counts, None where there is none."""
    if file_format == "json" and len(entries) > 1:
        raise UnfitTextError("stands there twice", "Take one of the two out.")
    if not entries:
        return None
    if entries[-1].nested:
        raise UnfitTextError("holds an object or an array", "Choose another variable.")
    return entries[-1]


def with_value(text: str, variable: str, value: Secret, file_format: FileFormat) -> str:
    """The text in which a variable has a value, and all else is as it was."""
    before = entries_of(text, file_format)
    entry = only_entry(before.get(variable, ()), file_format)
    match file_format:
        case "dotenv":
            written, append = dotenv.quoted(value.reveal()), dotenv.append_line
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
    wanted = values_of(before)
    wanted.setdefault(variable, [])[-1:] = [value.reveal()]
    # A quote that is never closed, for one, may swallow what comes after it.
    if values_of(entries_of(new, file_format)) != wanted:
        raise UnfitTextError("cannot stand in its file as it is", "Close the quotes in the file.")
    return new


def values_of(entries: Entries) -> dict[str, list[str]]:
    """The values of each variable, without where they stand."""
    return {name: [entry.value for entry in those] for name, those in entries.items()}
