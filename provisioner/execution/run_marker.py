"""The run marker: milliseconds that a run writes into the expiry of the keys it creates."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.model.expiry import format_milliseconds

if TYPE_CHECKING:
    from datetime import datetime

_MAX_MILLISECONDS = 999


@dataclass(frozen=True, slots=True)
class RunMarker:
    """The milliseconds, 1 to 999, that one run writes into the expiry of the keys it creates.

    A later observation recognises the run's own keys by them. Everything else compares expiries to
    the second.
    """

    milliseconds: int

    @classmethod
    def random(cls) -> RunMarker:
        """Return a marker for a new run."""
        return cls(1 + secrets.randbelow(_MAX_MILLISECONDS))

    def apply_to(self, time: datetime) -> datetime:
        """Return the time in whole seconds plus the milliseconds of this marker."""
        return time.replace(microsecond=1000 * self.milliseconds)

    def format(self, time: datetime) -> str:
        """Format the time as RFC 3339, with the milliseconds of this marker."""
        return format_milliseconds(self.apply_to(time))
