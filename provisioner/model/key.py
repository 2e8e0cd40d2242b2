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
"""The data that a create returns: 0 the key, 1 also its role, 2 also the role's permissions."""


def depth_of(number: int) -> Depth:
    """Return a number from 0 to 2 as a depth."""
    depths: tuple[Depth, ...] = (0, 1, 2)
    return depths[number]


@dataclass(frozen=True, slots=True)
class Rotation:
    """The time at which a key gets a successor, and how long both are live.

    Attributes:
        before: how long before the key's expiry its successor is created.
        overlap: how long after that the key is revoked, unless it has expired by then.
        written: the text of both in the manifest.
    """

    before: timedelta
    overlap: timedelta
    written: str


class Annotations(NamedTuple):
    """What a manifest says about a key for people: shown in reports, never sent to a server."""

    description: str | None = None
    owner: str | None = None
    ticket: str | None = None


class DesiredKey(NamedTuple):
    """One key that a manifest declares in one environment.

    A named tuple, because there may be 100 000 of them and it is built in a third of the time.

    Attributes:
        role: the role of the key or of its manifest; None for the environment's role.
        place: the position in the manifest.
        deliver: the sinks of its token, with every placeholder filled in; within a manifests
            directory no two keys write to the same place.
        clean: those of its sinks from which the token is removed when the sink or the key goes.
        rotation: None for a key without rotation; otherwise `before` is shorter than the lifetime.
        protect: whether it is revoked only with an explicit option.
        annotations: the words about it for people, with every placeholder filled in; None without.
        moved_from: the former names of the key, the last one first; a live key that still has one
            of them is renamed.
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
    annotations: Annotations | None = None
    moved_from: tuple[str, ...] = ()
    clean: tuple[Address, ...] = ()
