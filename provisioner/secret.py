"""A value that must never be seen: it hides itself wherever it is printed."""

from __future__ import annotations


class Secret:
    """A token, a password or a sign-in e-mail.

    Only `reveal()` gives the value, so that a search for that word finds every place where a
    secret leaves its wrapping. `str`, `repr` and formatting show a mask.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """The value itself, for the one call that sends it."""
        return self.__value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)
