"""Characters that a reader cannot see, or mistakes for others."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
"""Characters that Python calls printable and no screen shows: fillers, variation selectors."""

_INVISIBLE_CATEGORIES = frozenset({"Cf", "Zs"})
"""Format characters and spaces; only the ordinary space is recognizable."""


def first_invisible(text: str) -> str | None:
    """Return the first character of a text that a reader cannot see, or None."""
    if text.isascii():
        return None
    if found := _INVISIBLE.search(text):
        return found[0]
    if text.isprintable():
        return None
    return next(
        (c for c in text if c != " " and unicodedata.category(c) in _INVISIBLE_CATEGORIES), None
    )


def advice(subject: str, text: str) -> str | None:
    """Return what to change in a text with invisible or decomposed characters, or None.

    Args:
        subject: the name of the text in the message.
        text: the text as written.
    """
    if text.isascii():
        return None
    shown = f"{subject} {escaped(text[:_MAX_SHOWN])}"
    if (char := first_invisible(text)) is not None:
        name = unicodedata.name(char, "a character").lower()
        remedy = "write an ordinary space" if unicodedata.category(char) == "Zs" else "remove it"
        return f"{shown} contains the invisible character U+{ord(char):04X} ({name}): {remedy}"
    if not unicodedata.is_normalized("NFC", text):
        composed = escaped(unicodedata.normalize("NFC", text)[:_MAX_SHOWN])
        return f"{shown} is not in composed form (NFC): write {composed}, or save it as NFC"
    return None


def escaped(text: str) -> str:
    """Return a text in quotes, with escapes for everything except ASCII."""
    characters = (c if " " <= c <= "~" and c not in '"\\' else _escape(c) for c in text)
    return f'"{"".join(characters)}"'


def skeleton(name: str) -> str:
    """Return the appearance of a name: the same for all names that look like it."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name).translate(_LOOKS_LIKE)
    return name.lower()


def _escape(char: str) -> str:
    code = ord(char)
    if char in '"\\':
        return f"\\{char}"
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"  # noqa: PLR2004 - four digits


_MAX_SHOWN = 60
"""The number of characters that a message shows."""

_LOOKS_LIKE = str.maketrans(
    # Cyrillic
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423"
    "\u0425"
    "\u0430\u0435\u0455\u0456\u0458\u043a\u043e\u0440\u0441\u0443\u0445\u04bb\u0501\u051b"
    "\u051d\u0475\u04cf\u04af"
    # Greek
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u03b1\u03b3\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5\u03c7\u03f3"
    # Armenian, and other Latin letters
    "\u0585\u057d\u0570\u0578\u0581\u0131\u0251\u0261\u0269"
    # dashes; NFKC has turned U+2011 into U+2010
    "\u2010\u2012\u2013\u2014\u2015\u2212",
    "ABESIJKMHOPCTYXaesijkopcyxhdqwvlyABEZHIKMNOPTYXayikvopuxjouhngiagi------",
)
"""Letters of other alphabets to the Latin letters that they look like.

NFKC has replaced full-width letters before.
"""
