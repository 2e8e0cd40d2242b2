"""Findings: what is worth telling people about the keys of an environment, besides the actions."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Literal, assert_never

if TYPE_CHECKING:
    from provisioner.model.sink_address import Address


@dataclass(frozen=True, slots=True)
class Unmanaged:
    """Live keys of a name that no manifest wants in this environment."""

    name: str
    ids: tuple[str, ...]

    @property
    def message(self) -> str:
        """What it means, in one sentence."""
        many = len(self.ids) != 1
        return f"{len(self.ids)} live key{'s' if many else ''} of a name that no manifest lists"


@dataclass(frozen=True, slots=True)
class Duplicate:
    """More live keys of one wanted name than there should be.

    Attributes:
        ids: of all of them, the oldest first.
        key_id: the one that counts as the key of the name.
        told: what becomes of the others: `--dedupe` may end them, or `owns` forbids it, or they are
            predecessors, which end with their rotation.
        rotated: whether the key is rotated, so that an interrupted `rotate` may have made one.
    """

    name: str
    ids: tuple[str, ...]
    key_id: str
    others: Literal["owned", "not_owned", "superseded"]
    rotated: bool = False

    @property
    def message(self) -> str:
        """What it means, and what to do."""
        counts = f"{len(self.ids)} live keys share this name; {self.key_id} counts as the key"
        match self.others:
            case "owned":
                ending = "`provision apply --dedupe` revokes the others"
            case "not_owned":
                ending = "`owns` does not match the name, so --dedupe revokes none"
            case "superseded":
                return f"{counts}, and the others end with its rotation"
            case _:
                assert_never(self.told)
        if self.rotated:
            again = f"provision rotate {quote(self.name)}"
            ending = f"if an interrupted `{again}` made another, run that again; {ending}"
        return f"{counts} and the others are delivered nowhere; {ending}"


@dataclass(frozen=True, slots=True)
class Drift:
    """A live key whose end or role differs from what its manifest writes.

    Attributes:
        what: which of the two differs.
        was: what the workspace has.
        wanted: what the manifest writes; of a lifetime, the end that it gives to a key made now.
        stays: why it is not changed: `owns` does not match the name, a lifetime counts for keys
            that are made and shortens none that is live, or the key has a successor by rotation.
    """

    name: str
    ids: tuple[str, ...]
    field: Literal["expires", "role"]
    actual: str | None
    desired: str
    reason: Literal["not_owned", "lifetime", "rotated"]

    @property
    def message(self) -> str:
        """What it means, in one sentence."""
        if self.reason == "lifetime":
            # The end that the lifetime gives is another at every run: no two messages would agree.
            return (
                f"ends at {self.actual}, later than a key that is made now; a lifetime shortens no "
                "live key, and `provision rotate` makes a successor"
            )
        label = "expiry" if self.field == "expires" else "role"
        why = (
            "its rotation ends the key"
            if self.reason == "rotated"
            else "`owns` does not match the name"
        )
        told = f"{label} is {self.actual or 'none'}, the manifest says {self.desired}"
        return f"{told}; it stays, as {why}"


@dataclass(frozen=True, slots=True)
class Expiring:
    """A wanted key that ends within 14 days."""

    name: str
    ids: tuple[str, ...]
    expires_at: str

    @property
    def message(self) -> str:
        """What it means, in one sentence."""
        return f"ends at {self.expires_at}, within 14 days"


@dataclass(frozen=True, slots=True)
class DeliveryUnknown:
    """A wanted key of which nothing proves that its token arrived.

    Attributes:
        sinks: those that can neither be read back nor prove by a time that they were written.
        waiting: ids of older keys that are kept for that reason until they expire.
    """

    name: str
    ids: tuple[str, ...]
    sinks: tuple[Address, ...]
    kept_ids: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """What it means, and what to do."""
        told = f"nothing proves that its token is in {', '.join(map(str, self.sinks))}"
        if not self.kept_ids:
            return f"{told}; --redeliver delivers a new one"
        old = " ".join(self.kept_ids)
        return (
            f"{told}, so the older key {old} stays until it expires; --redeliver delivers a new "
            f"token, and `provision revoke {old}` ends the older key"
        )


Finding = Unmanaged | Duplicate | Drift | Expiring | DeliveryUnknown
