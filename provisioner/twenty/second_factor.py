"""The codes of a second factor, as Twenty has them: TOTP of six digits, SHA-1, 30 seconds each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyotp import TOTP

if TYPE_CHECKING:
    from provisioner.secret import Secret

INTERVAL = 30.0
"""Seconds for which a code is valid."""


class _Totp(TOTP):
    min_secret_length_bits = 80
    """Twenty's own secrets are shorter than pyotp wants them (docs/twenty-api.md, "Tokens")."""


def code_at(seconds: float, secret: Secret) -> str:
    """Return the code of a moment, in seconds since 1970.

    Args:
        seconds: the moment.
        secret: in base32.
    """
    return _Totp(secret.reveal()).at(seconds)
