"""A shard: one of several runs that divide the environments between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

_WRITTEN = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several runs that divide the environments between them.

    Attributes:
        number: its number, from 1.
        total: the number of shards.
    """

    number: int
    total: int

    def __post_init__(self) -> None:
        """Raise ValueError if the number is not one of 1 to the total."""
        if not 1 <= self.number <= self.total:
            raise ValueError(f"{self} is not a shard: write K/N with K from 1 to N, such as 3/20")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse `K/N`.

        Raises:
            ValueError: if it is not a shard.
        """
        written = _WRITTEN.fullmatch(text.strip())
        if written is None:
            raise ValueError(f"{text!r} is not a shard: write K/N with K from 1 to N, such as 3/20")
        return cls(int(written[1]), int(written[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def contains(self, environment: str) -> bool:
        """Return whether an environment belongs to this shard, which depends only on its name.

        Rendezvous hashing: the shard with the highest weight for the name has it. One more shard
        takes its part from all others, and moves nothing between them.
        """
        own = _weight(self.number, environment)
        return all(_weight(number, environment) <= own for number in range(1, self.total + 1))


def _weight(number: int, environment: str) -> bytes:
    return blake2b(f"{number}\0{environment}".encode(), digest_size=16).digest()
