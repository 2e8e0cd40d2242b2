"""A person who changes keys by hand, as in Twenty's settings, under names that manifests use."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_control import ApiKey, Sandbox

LIFETIMES = (timedelta(hours=12), timedelta(days=3 * 365))
"""Lifetimes of keys created by hand. No manifest here uses them: a key with the same lifetime,
created while the key of its name is due, would count as its successor (docs/reliability.md)."""


class ManualUser:
    """A user who creates, renames and revokes keys and changes their expiry.

    Attributes:
        keys: the ids of the keys that the user created or renamed.
        changed_expiry: the ids of the keys whose expiry the user changed.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.keys: set[str] = set()
        self.changed_expiry: set[str] = set()

    def create(self, name: str, lifetime: timedelta) -> None:
        """Create a key, with milliseconds in its expiry, as Twenty's settings do."""
        expires_at = datetime.now(UTC) + lifetime
        self.keys.update(self._sandbox.seed([name], expires_at=_text(expires_at)))

    def rename(self, key: ApiKey, name: str) -> None:
        self.keys.add(key.id)
        self._sandbox.put(replace(key, name=name))

    def revoke(self, key: ApiKey) -> None:
        self._sandbox.put(replace(key, revoked_at=_text(datetime.now(UTC))))

    def change_expiry(self, key: ApiKey, remaining: timedelta) -> None:
        """Change the expiry of a key, not by a whole number of hours."""
        self.changed_expiry.add(key.id)
        expires_at = datetime.now(UTC) + remaining + timedelta(minutes=29)
        self._sandbox.put(replace(key, expires_at=_text(expires_at)))


def _text(timestamp: datetime) -> str:
    return f"{timestamp.isoformat(timespec='milliseconds')[:-6]}Z"
