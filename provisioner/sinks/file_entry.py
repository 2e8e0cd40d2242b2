"""One value in the text of a file, and why a text cannot hold one."""

from __future__ import annotations

from dataclasses import dataclass, field


class UnfitTextError(Exception):
    """Why a text cannot hold a variable.

    Attributes:
        what: the rest of a sentence that begins with the sink's address.
        remedy: what to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a text at which a variable has a value.

    Attributes:
        value: without its quotes; no `Secret`, since others' values would be masked in reports.
        start: the first character that a new value takes the place of.
        end: the first one after them.
        nested: whether it is an object or an array.
    """

    value: str = field(repr=False)
    start: int
    end: int
    nested: bool = False
