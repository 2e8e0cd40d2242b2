"""The address of a sink: it says where a token goes, not how.

Each kind of sink has its own class of address in its file in `provisioner.sinks`. Every placeholder
is filled in, so two keys with the same `place` would overwrite each other's token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Address(ABC):
    """The address of a sink; equal addresses are the same place.

    A subclass is a frozen dataclass. Plan files contain digests over the names of its fields, so
    renaming a field makes the plan files of older versions stale.
    """

    kind: ClassVar[str]
    """The name of the kind of sink: the name of its own option in `deliver`."""

    @property
    def place(self) -> tuple[str, ...]:
        """Return the kind, then the identity of the place, which can hold only one token."""
        return (self.kind, *(getattr(self, one.name) or "" for one in fields(self)))

    @property
    def digest_parts(self) -> dict[str, object]:
        """Return every part of the address by its name, for the digest of a plan."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def receipt_place(self) -> tuple[str, ...] | None:
        """Return the identity of the place of its receipt; None if it keeps none."""
        return None

    @property
    def containers(self) -> tuple[tuple[str, ...], ...]:
        """Return the places that contain this one: a token in one of them would replace it."""
        return ()

    @property
    def neighbourhood(self) -> tuple[str, ...]:
        """Return what this address and any other address of the same place have in common."""
        return self.place

    def may_be(self, other: Address) -> bool:
        """Return whether another address with the same neighbourhood may be the same place.

        The two addresses may not show it, because a part of one may be a default set elsewhere.
        """
        del other
        return True

    @property
    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """Return the names that the globs of `--allow-sink` must match, all of them."""

    @abstractmethod
    def __str__(self) -> str: ...

    @property
    def server(self) -> str | None:
        """Return what the address says about the sink's server, its region or its host.

        None if only the environment variables decide which server it is.
        """
        return None

    @property
    def shared_file(self) -> tuple[str, str] | None:
        """Return the file of which the place is a part, and its format; None if there is none."""
        return None

    @property
    def removes(self) -> bool:
        """Return whether the sink can remove a token: it is a `RemovingSink`."""
        return False

    @property
    def on_this_machine(self) -> bool:
        """Return whether another machine has a different place at this address."""
        return False

    @property
    def programs(self) -> tuple[tuple[str, ...], ...]:
        """Return the programs that the manifest names, with their arguments."""
        return ()

    @property
    def shows_delivery(self) -> bool:
        """Return whether a later run can tell if the token was delivered."""
        return True
