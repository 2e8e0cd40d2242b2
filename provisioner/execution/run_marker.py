"""How a run knows its own keys again: by milliseconds that it writes into their ends."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.model.expiry import format_milliseconds

if TYPE_CHECKING:
    from datetime import datetime

_MARKS = 999


@dataclass(frozen=True, slots=True)
class RunMarker:
    """The milliseconds, 1 to 999, that one run writes into the ends of the keys it makes.

    A later look tells the run's own keys from others by them; ends are compared to the second.
    """

    milliseconds: int

    @classmethod
    def random(cls) -> RunMarker:
        """A mark for a new run."""
        return cls(1 + secrets.randbelow(_MARKS))

    def apply_to(self, moment: datetime) -> datetime:
        """The moment, in whole seconds, with this mark."""
        return moment.replace(microsecond=1000 * self.milliseconds)

    def format(self, moment: datetime) -> str:
        """RFC 3339 with this mark for its milliseconds."""
        return format_milliseconds(self.apply_to(moment))
