"""Somebody who works on keys under wanted names by hand, as in Twenty's own pages."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.sandbox import ApiKey, Sandbox

LIVES = (timedelta(hours=12), timedelta(days=3 * 365))
"""Lifetimes of keys made by hand, none of which a manifest has here: one with that lifetime, made
while the key of its name was due, would pass for its successor (docs/reliability.md)."""


class Stranger:
    """Makes, renames, revokes and re-dates keys.

    Attributes:
        keys: the ids of the keys that it made or renamed.
        redated: the ids of the keys that it gave another end.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.keys: set[str] = set()
        self.redated: set[str] = set()

    def makes(self, name: str, life: timedelta) -> None:
        """Makes a key, with the milliseconds that a page writes into its end."""
        end = datetime.now(UTC) + life
        self.keys.update(self._sandbox.seed([name], expires_at=_text(end)))

    def renames(self, key: ApiKey, name: str) -> None:
        self.keys.add(key.id)
        self._sandbox.put(replace(key, name=name))

    def revokes(self, key: ApiKey) -> None:
        self._sandbox.put(replace(key, revoked_at=_text(datetime.now(UTC))))

    def redates(self, key: ApiKey, left: timedelta) -> None:
        """Gives it an end that is no whole number of hours away from anything."""
        self.redated.add(key.id)
        end = datetime.now(UTC) + left + timedelta(minutes=29)
        self._sandbox.put(replace(key, expires_at=_text(end)))


def _text(moment: datetime) -> str:
    return f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"
