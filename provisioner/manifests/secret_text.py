"""Secrets as shells, editors and people write them into variables and files.

Each function returns the secret itself, or raises a `ValueError` that does not show it.
"""

from __future__ import annotations

import base64
import re

_BYTE_ORDER_MARK = "\ufeff"
_QUOTES = tuple("\"'`\u2018\u2019\u201c\u201d")
_TOKEN = re.compile(r"[!-~]+")
_MIN_TOTP_BYTES = 10
"""The size of the secrets that Twenty makes; no shorter one is secure."""


def password_in(text: str) -> str:
    """Return a password, which may have spaces and quotes: one line break at its end is removed."""
    password = text.removeprefix(_BYTE_ORDER_MARK).removesuffix("\n").removesuffix("\r")
    if not password:
        raise ValueError("is empty")
    return password


def email_in(text: str) -> str:
    """Return an email address without spaces around it; it has none inside."""
    email = _without_space(text)
    if not email:
        raise ValueError("is empty")
    if len(email.split()) > 1:
        raise ValueError("contains a space or a line break: write only the email address")
    return email


def token_in(text: str) -> str:
    """Return a token without spaces and line breaks around it, as many shells and files add."""
    token = _without_space(text)
    if _TOKEN.fullmatch(token) is None:
        raise ValueError(
            "is not a token: it is empty, or contains characters that a token cannot have. Write "
            "only the token, without `Bearer`"
        )
    return token


def totp_in(text: str) -> str:
    """Return the secret of a second factor in base32, which pages show in groups of letters."""
    secret = re.sub(r"[\s-]", "", _without_space(text)).upper().rstrip("=")
    try:
        size = len(base64.b32decode(secret + "=" * (-len(secret) % 8)))
    except ValueError:
        size = 0
    if size < _MIN_TOTP_BYTES:
        raise ValueError(
            "is not the secret of a second factor: write its letters A to Z and digits 2 to 7, not "
            "a code of six digits or an `otpauth:` address"
        )
    return secret


def secret_in(name: str, text: str) -> str:
    """Return the secret in a text; `name` is that in `auth`, of which a file is read already."""
    return _SECRETS.get(name, str)(text)


_SECRETS = {
    "token": token_in,
    "token_file": token_in,
    "session_token": token_in,
    "email": email_in,
    "password": password_in,
    "totp": totp_in,
}


def _without_space(text: str) -> str:
    """Return a text without spaces and a byte order mark around it; quotes are refused."""
    bare = text.strip().strip(_BYTE_ORDER_MARK).strip()
    if bare.startswith(_QUOTES) or bare.endswith(_QUOTES):
        raise ValueError("is in quotes: remove them")
    return bare
