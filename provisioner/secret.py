"""A value that must never be printed: it hides itself, and is masked in all output."""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from html import escape
from typing import Never
from urllib.parse import quote, quote_plus

MASK = "***"

MIN_DATA_LENGTH = 16
"""Characters of the shortest secret to mask in data; a shorter one may be a common word."""

_MIN_TEXT_LENGTH = 4
"""Characters of the shortest secret to mask in text; shorter values occur in every text."""

_SUFFIX_LENGTH = 8
"""Characters of the suffix that a form is indexed by; the suffixes of tokens differ."""

_MAX_SCANNED_FORMS = 200
"""Number of forms up to which searching the text for each of them is faster than the index."""

_SCHEME = re.compile(r"(?:basic|bearer|token)\s+", re.IGNORECASE)
"""The scheme before a secret in a header; it is not part of the secret."""

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}", re.ASCII)

_MAX_TOKEN_LENGTH = 16 * 1024
"""Characters; a longer value from a server would cost too much memory in all its forms."""

_LONG = 64
"""Characters of a value whose forms are made when its suffix is found: they take ten times its
memory, and a token is found hardly ever."""

_PLAIN = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
"""Text that URLs, JSON, Python literals and markup write as it is, such as a token."""

_MARKED = re.compile(r"[^\w -]|_")
"""Characters that our Markdown escapes."""


class Secret:
    """A token, a password or a sign-in e-mail.

    Only `reveal()` returns the value, so a search for that word finds every place that uses one.
    `str`, `repr` and formatting show a mask, and `masked` masks the value as soon as it is wrapped.
    It cannot be pickled, so that none is sent to another process.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str, *, mask: bool = True) -> None:
        self.__value = value
        if mask:
            _KNOWN.add(value)

    @classmethod
    def received(cls, value: str) -> Secret:
        """Wrap a value that a server or a sink sent; mask it only if it has the form of a token.

        Otherwise a server could choose which text the reports hide.
        """
        return cls(value, mask=is_token(value))

    def reveal(self) -> str:
        """Return the value, for the call that sends it."""
        return self.__value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.__value == other.__value

    def __hash__(self) -> int:
        return hash(self.__value)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> Never:
        raise TypeError("a secret does not travel")

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


def is_token(value: str) -> bool:
    """Return whether a value has the form of a Twenty token, which is a JWT."""
    return len(value) <= _MAX_TOKEN_LENGTH and _TOKEN.fullmatch(value) is not None


def masked_document(document: object) -> object:
    """Return a JSON document with every secret of this process masked in its strings.

    Each string is masked on its own, so that a secret cannot break the syntax of the document.
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
    """Return the text with every secret of this process masked, in every common encoding.

    Encodings are the value itself, URL encoding, base64 at any offset of a larger value, and the
    escapes of JSON, Python literals, HTML and XML.

    Args:
        text: the text to print.
        min_length: characters of the shortest secret to mask; never less than four.
    """
    return _KNOWN.mask(text, max(min_length, _MIN_TEXT_LENGTH))


class _Known:
    """Every secret that this process has wrapped.

    There is one for the whole process: a log line or a traceback may contain any secret, through
    libraries that take no list of secrets. Searching for 100 000 tokens costs no more than for a
    few, because forms are indexed by their last characters.

    Args:
        max_scanned_forms: number of forms up to which the text is searched for each of them.
    """

    def __init__(self, max_scanned_forms: int = _MAX_SCANNED_FORMS) -> None:
        self._max_scanned_forms = max_scanned_forms
        self._lock = threading.Lock()
        self._values: set[str] = set()
        self._new: list[str] = []
        self._short: dict[str, int] = {}
        self._by_suffix: dict[str, dict[str, int] | str] = {}  # forms, or one long value
        self._scanned: list[tuple[str, int]] = []
        self._shortest_form = sys.maxsize

    def add(self, value: str) -> None:
        scheme = _SCHEME.match(value)
        with self._lock:
            for part in (value, value[scheme.end() :] if scheme else ""):
                if len(part) >= _MIN_TEXT_LENGTH and part not in self._values:
                    self._values.add(part)
                    self._new.append(part)

    def mask(self, text: str, min_length: int) -> str:
        with self._lock:
            if self._new:
                self._index_new_values()
            if len(text) < self._shortest_form:
                return text
            spans = sorted(self._find(text, min_length))
        parts: list[str] = []
        done = 0
        for start, end in spans:
            if start >= done:
                parts += (text[done:start], MASK)
            done = max(done, end)
        return "".join((*parts, text[done:])) if spans else text

    def _index_new_values(self) -> None:
        """Index the forms of the values that were added since the last call."""
        for value in self._new:
            for form in _forms(value):
                self._shortest_form = min(self._shortest_form, len(form))
                if len(form) < _SUFFIX_LENGTH:
                    self._short[form] = len(value)
                    continue
                suffix = form[-_SUFFIX_LENGTH:]
                known = self._by_suffix.get(suffix)
                if known is None and len(value) >= _LONG:
                    self._by_suffix[suffix] = value
                elif known != value:
                    self._by_suffix[suffix] = _forms_of(known or {}) | {form: len(value)}
        self._new.clear()
        scanned = dict(self._short)
        if len(self._by_suffix) <= self._max_scanned_forms:
            for entry in self._by_suffix.values():
                scanned |= _forms_of(entry)
        self._scanned = sorted(scanned.items(), key=lambda item: len(item[0]))

    def _find(self, text: str, min_length: int) -> list[tuple[int, int]]:
        """Return the start and end of each secret in the text; they may overlap."""
        spans: list[tuple[int, int]] = []
        if len(self._by_suffix) > self._max_scanned_forms:
            for end in range(_SUFFIX_LENGTH, len(text) + 1):
                entry = self._by_suffix.get(text[end - _SUFFIX_LENGTH : end])
                for form, length in _forms_of(entry).items() if entry else ():
                    if length >= min_length and text.endswith(form, 0, end):
                        spans.append((end - len(form), end))
        for form, length in self._scanned:
            if len(form) > len(text):  # The forms are sorted by length: no later one fits.
                break
            start = text.find(form) if length >= min_length else -1
            while start >= 0:
                spans.append((start, start + len(form)))
                start = text.find(form, start + 1)
        return spans


def _forms_of(entry: dict[str, int] | str) -> dict[str, int]:
    """Return the forms of an entry of the index, with the lengths of their values."""
    return dict.fromkeys(_forms(entry), len(entry)) if isinstance(entry, str) else entry


def _forms(value: str) -> set[str]:
    """Return every encoding in which a value may occur."""
    raw = value.encode(errors="surrogatepass")
    forms = {value} if _PLAIN.fullmatch(value) else _escaped(value, raw)
    # As our Markdown escapes it.
    forms.add(_MARKED.sub(lambda one: f"&#{ord(one[0])};", value))
    for offset in range(3):
        # The first and last characters also encode bits of the neighbouring bytes.
        first = -(-8 * offset // 6)
        last = 8 * (offset + len(raw)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(bytes(offset) + raw).decode()[first:last])
    return {form for form in forms if len(form) >= _MIN_TEXT_LENGTH}


def _escaped(value: str, raw: bytes) -> set[str]:
    """Return a value as URLs, JSON, Python literals, HTML and XML write it."""
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
    for markup in (escape(value), escape(value, quote=False)):
        forms |= {markup, markup.encode("ascii", "xmlcharrefreplace").decode()}
    return forms


_KNOWN = _Known()
