"""Desired keys as manifests declare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from datetime import timedelta

    from provisioner.errors.problem import Place
    from provisioner.model.expiry import Expiry
    from provisioner.model.sink_address import Address


Depth = Literal[0, 1, 2]
"""How much of a created key comes back: 0 the key, 1 with its role, 2 with its permissions."""


def depth_of(number: int) -> Depth:
    """The depth that a number between 0 and 2 stands for."""
    depths: tuple[Depth, ...] = (0, 1, 2)
    return depths[number]


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a key gets a successor, and for how long both are live.

    Attributes:
        before: how long before the key's end its successor is made.
        overlap: how long after that the key is revoked, unless it has ended by itself.
        written: both as the manifest has them.
    """

    before: timedelta
    overlap: timedelta
    written: str


class DesiredKey(NamedTuple):
    """One key that a manifest asks for in one environment.

    A named tuple, as all that there may be 100 000 of: it is made in a third of the time.

    Attributes:
        role: the key's or its manifest's; None leaves it to the environment.
        place: where the manifest says so.
        deliver: where its token goes, with every placeholder filled in; no two keys of a
            manifests directory have an address of one place.
        rotation: None for a key that just ends; else `before` is shorter than the key's lifetime.
        protect: whether it is never revoked unless a run is told to.
    """

    environment: str
    name: str
    depth: Depth
    expiry: Expiry
    role: str | None
    place: Place
    deliver: tuple[Address, ...] = ()
    rotation: Rotation | None = None
    protect: bool = False
