"""A value in the text of a file, and the error for a text that cannot hold one."""

from __future__ import annotations

from dataclasses import dataclass, field


class InvalidTextError(Exception):
    """A text cannot hold a variable.

    Attributes:
        reason: the rest of a sentence that begins with the sink's address.
        remedy: one sentence that says what to do.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Entry:
    """A place in a text where a variable has a value.

    Attributes:
        value: the value without its quotes. It is not a `Secret`, because the values of others
            would then be masked in reports.
        start: the position of the first character that a new value replaces.
        end: the position after the last of them.
        nested: True if the value is an object or an array.
    """

    value: str = field(repr=False)
    start: int
    end: int
    nested: bool = False
