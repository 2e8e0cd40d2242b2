"""A value that must never be seen: it hides itself, and is masked wherever it turns up."""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator

MASK = "***"

MIN_DATA_LENGTH = 16
"""Signs of a secret that is masked in data too: a shorter one may be a word of it."""

_MIN_TEXT_LENGTH = 4
"""Signs of the shortest value that is masked in a text; shorter ones are in every text."""

_SUFFIX_LENGTH = 8
"""Signs by whose equality a form is looked for: the end of a token is unlike any other's."""

_MAX_SCANNED_FORMS = 200
"""Forms up to which it is faster to look for each of them in the whole text."""

_SCHEME = re.compile(r"(?:basic|bearer|token)\s+", re.IGNORECASE)
"""What may stand before a secret in a header, and is no part of it."""

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}", re.ASCII)

_MAX_TOKEN_LENGTH = 16 * 1024
"""Signs; a server that sends more would have each of its many forms remembered."""

_NO_FORMS: dict[str, int] = {}


class Secret:
    """A token, a password or a sign-in e-mail.

    Only `reveal()` gives the value, so that a search for that word finds every place where a
    secret leaves its wrapping. `str`, `repr` and formatting show a mask, and `masked` knows the
    value from the moment that it is wrapped.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str, *, mask: bool = True) -> None:
        self.__value = value
        if mask:
            _KNOWN.add(value)

    @classmethod
    def received(cls, value: str) -> Secret:
        """A value that a server or a sink brought, masked where it has the form of a token.

        To mask whatever they bring would let them choose what no report shows.
        """
        return cls(value, mask=is_token(value))

    def reveal(self) -> str:
        """The value itself, for the one call that sends it."""
        return self.__value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


def is_token(value: str) -> bool:
    """Whether a value has the form of a token of Twenty: a JWT, of which all are."""
    return len(value) <= _MAX_TOKEN_LENGTH and _TOKEN.fullmatch(value) is not None


def masked_document(document: object) -> object:
    """A JSON document in which every secret of this process is masked, and nothing else changes.

    Each text of it by itself, so that no secret can be a part of how the document is written.
    """
    if isinstance(document, str):
        return _KNOWN.mask(document, MIN_DATA_LENGTH)
    if isinstance(document, dict):
        return {
            _KNOWN.mask(name, MIN_DATA_LENGTH): masked_document(value)
            for name, value in document.items()
        }
    if isinstance(document, list | tuple):
        return [masked_document(value) for value in document]
    return document


def masked(text: str, *, min_length: int = _MIN_TEXT_LENGTH) -> str:
    """The text with every secret of this process masked, whatever way it is written.

    As it is, URL-encoded, base64 at any offset of a larger value, escaped as in JSON or in a
    Python literal.

    Args:
        text: what is to be shown.
        shortest: signs of the shortest secret that is masked; never less than four.
    """
    return _KNOWN.mask(text, max(min_length, _MIN_TEXT_LENGTH))


class _Known:
    """Every secret that this process has wrapped.

    One for the process, because a log line or a traceback may show a secret of any part of it,
    through libraries that nobody can hand a list to. Looking for 100 000 tokens costs no more than
    looking for a few: a text is searched by the last signs of each form.
    """

    def __init__(self, few: int = _MAX_SCANNED_FORMS) -> None:
        self._few = few
        self._lock = threading.Lock()
        self._values: set[str] = set()
        self._new: list[str] = []
        self._short: dict[str, int] = {}
        self._by_tail: dict[str, dict[str, int]] = {}
        self._each: list[tuple[str, int]] = []
        self._least = sys.maxsize

    def add(self, value: str) -> None:
        scheme = _SCHEME.match(value)
        with self._lock:
            for part in (value, value[scheme.end() :] if scheme else ""):
                if len(part) >= _MIN_TEXT_LENGTH and part not in self._values:
                    self._values.add(part)
                    self._new.append(part)

    def mask(self, text: str, shortest: int) -> str:
        with self._lock:
            if self._new:
                self._index_new_values()
            if len(text) < self._least:
                return text
            found = sorted(self._find(text, shortest))
        shown: list[str] = []
        end = 0
        for first, last in found:
            if first >= end:
                shown += (text[end:first], MASK)
            end = max(end, last)
        return "".join((*shown, text[end:])) if found else text

    def _index_new_values(self) -> None:
        """Take in the forms of the values that were added since the last text."""
        for value in self._new:
            for form in _forms(value):
                home = self._by_tail.setdefault(form[-_SUFFIX_LENGTH:], {})
                (home if len(form) >= _SUFFIX_LENGTH else self._short)[form] = len(value)
                self._least = min(self._least, len(form))
        self._new.clear()
        each = dict(self._short)
        if len(self._by_tail) <= self._few:
            for forms in self._by_tail.values():
                each |= forms
        self._each = sorted(each.items(), key=lambda item: len(item[0]))

    def _find(self, text: str, shortest: int) -> list[tuple[int, int]]:
        """Where secrets stand in the text, first and behind the last sign; they may overlap."""
        found: list[tuple[int, int]] = []
        if len(self._by_tail) > self._few:
            for end in range(_SUFFIX_LENGTH, len(text) + 1):
                for form, length in self._by_tail.get(
                    text[end - _SUFFIX_LENGTH : end], _NO_FORMS
                ).items():
                    if length >= shortest and text.endswith(form, 0, end):
                        found.append((end - len(form), end))
        for form, length in self._each:
            if len(form) > len(text):  # The forms are in order: none behind this one fits.
                break
            start = text.find(form) if length >= shortest else -1
            while start >= 0:
                found.append((start, start + len(form)))
                start = text.find(form, start + 1)
        return found


def _forms(value: str) -> set[str]:
    """The ways in which a value may be written."""
    raw = value.encode(errors="surrogatepass")
    forms = {
        value,
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        repr(raw)[2:-1],
    }
    forms |= {json.dumps(form)[1:-1] for form in tuple(forms)}
    forms |= set(_markup_forms(value))
    for offset in range(3):
        # The first and the last sign hold bits of what stands beside the value in a larger one.
        first = -(-8 * offset // 6)
        last = 8 * (offset + len(raw)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(bytes(offset) + raw).decode()[first:last])
    return {form for form in forms if len(form) >= _MIN_TEXT_LENGTH}


def _markup_forms(value: str) -> Iterator[str]:
    """As HTML and XML write it, and Markdown of ours with its references to characters."""
    for text in (escape(value), escape(value, quote=False)):
        yield text
        yield text.encode("ascii", "xmlcharrefreplace").decode()
    yield "".join(char if char.isalnum() or char in " -" else f"&#{ord(char)};" for char in value)


_KNOWN = _Known()
