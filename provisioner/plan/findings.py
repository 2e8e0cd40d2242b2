"""Findings: facts about the keys of an environment that a plan reports but does not change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from shlex import quote
from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.errors.pluralize import pluralize

if TYPE_CHECKING:
    from provisioner.model.sink_address import Address

EXPIRING_WITHIN = timedelta(days=14)
"""The time before its expiry at which a key becomes the finding `Expiring`."""


@dataclass(frozen=True, slots=True)
class Unmanaged:
    """Live keys of a name that no manifest declares in this environment."""

    name: str
    ids: tuple[str, ...]

    @property
    def message(self) -> str:
        """Return a short description."""
        return f"{pluralize(len(self.ids), 'live key')}; no manifest lists this name"


@dataclass(frozen=True, slots=True)
class Duplicate:
    """More live keys of a declared name than there should be.

    Attributes:
        ids: the ids of all live keys of the name, the oldest first.
        key_id: the current key of the name.
        others: what happens to the other keys: `owned` if `--dedupe` can revoke them, `not_owned`
            if `owns` forbids it, `superseded` if they are predecessors that rotation revokes.
        rotated: whether the key has a rotation, so an interrupted `rotate` may have created one.
    """

    name: str
    ids: tuple[str, ...]
    key_id: str
    others: Literal["owned", "not_owned", "superseded"]
    rotated: bool = False

    @property
    def message(self) -> str:
        """Return a description and the advice for the user."""
        head = f"{len(self.ids)} live keys share this name; {self.key_id} is the current one"
        match self.others:
            case "owned":
                advice = "run `provision apply --dedupe` to revoke them"
            case "not_owned":
                advice = "`owns` does not match the name, so --dedupe cannot revoke them"
            case "superseded":
                return f"{head}. The others are its predecessors, and the rotation revokes them."
            case _:
                assert_never(self.others)
        if self.rotated:
            again = f"provision rotate {quote(self.name)}"
            other = "otherwise " if self.others == "owned" else ""
            advice = (
                f"if an interrupted `{again}` created one of them, run that command again; "
                f"{other}{advice}"
            )
        return f"{head}, and the others get no token. {advice[0].upper()}{advice[1:]}."


@dataclass(frozen=True, slots=True)
class MovedConflict:
    """Live keys that keep a former name, because the name in the manifest has a key of its own.

    Attributes:
        name: the name in the manifest.
        ids: the ids of the keys with a former name.
        old_names: their names.
    """

    name: str
    ids: tuple[str, ...]
    old_names: tuple[str, ...]

    @property
    def message(self) -> str:
        """Return a description and the advice for the user."""
        head = f"{pluralize(len(self.ids), 'live key')} named {' or '.join(self.old_names)}"
        return (
            f"{head} ({' '.join(self.ids)}) will not be renamed, because the new name belongs to "
            "another live key. Revoke what nothing uses with `provision revoke ID`."
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """A live key whose expiry or role differs from its manifest, and stays as it is.

    Attributes:
        field: the field that differs.
        actual: the value in the workspace.
        desired: the value in the manifest; for a lifetime, the expiry of a key created now.
        reason: why it is not changed: `owns` does not match the name, a lifetime only applies to
            new keys, or the key already has a successor.
    """

    name: str
    ids: tuple[str, ...]
    field: Literal["expires", "role"]
    actual: str | None
    desired: str
    reason: Literal["not_owned", "lifetime", "rotated"]

    @property
    def message(self) -> str:
        """Return a description and the reason why the key is not changed."""
        if self.reason == "lifetime":
            # The desired expiry would differ in every run, and so would the message.
            return (
                f"Expires at {self.actual}, later than a key created now would. A shorter lifetime "
                "does not change live keys; run `provision rotate` to create a successor."
            )
        label = "Expiry" if self.field == "expires" else "Role"
        reason = (
            "the key already has a successor"
            if self.reason == "rotated"
            else "`owns` does not match the name"
        )
        return (
            f"{label} is {self.actual or 'none'}, but the manifest says {self.desired}. "
            f"It is not changed because {reason}."
        )


@dataclass(frozen=True, slots=True)
class Expiring:
    """A declared key that expires within 14 days."""

    name: str
    ids: tuple[str, ...]
    expires_at: str

    @property
    def message(self) -> str:
        """Return a short description."""
        return f"expires at {self.expires_at}, within 14 days"


@dataclass(frozen=True, slots=True)
class DeliveryUnknown:
    """A declared key whose delivery cannot be verified.

    Attributes:
        sinks: the sinks that cannot be read back and do not prove by a timestamp that they were
            written.
        kept_ids: the ids of older keys that are therefore kept until they expire.
    """

    name: str
    ids: tuple[str, ...]
    sinks: tuple[Address, ...]
    kept_ids: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """Return a description and the advice for the user."""
        head = f"Delivery of its token to {', '.join(map(str, self.sinks))} cannot be verified"
        if not self.kept_ids:
            return f"{head}. Use --redeliver to deliver a new token."
        older = " ".join(self.kept_ids)
        return (
            f"{head}, so the older key {older} is kept until it expires. Use --redeliver to "
            f"deliver a new token, and `provision revoke {older}` to revoke the older key."
        )


LeftBehindProblem = Literal["not_asked", "unable", "unreadable", "other_key", "own_key"]
"""The reason why a token stays in a sink that no manifest declares any more: nobody asked to remove
it; this kind of sink cannot remove a token; the sink cannot be read; the token is of a live key
with another name; or it is of the key that the run is signed in with."""


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A sink that the previous manifests declare and no manifest declares now, with its token.

    Attributes:
        ids: the id of the key in the token; empty if the sink cannot be read.
        problem: why the token is not removed.
    """

    name: str
    ids: tuple[str, ...]
    sink: Address
    problem: LeftBehindProblem

    @property
    def message(self) -> str:
        """Return a description and the advice for the user."""
        holds = "may still hold" if self.problem == "unreadable" else "still holds"
        head = f"{self.sink} {holds} its token, but no manifest declares this sink any more"
        match self.problem:
            case "not_asked":
                return f"{head}. Use --clean to remove it."
            case "unable":
                return (
                    f"{head}. A {self.sink.kind} sink cannot remove a token, so remove it by hand."
                )
            case "unreadable":
                return f"{head}. It cannot be read, so remove the token by hand."
            case "other_key":
                return (
                    f"{self.sink}, which no manifest declares any more, holds the token of another "
                    f"live key, {self.ids[0]}. It is not removed; check what uses it."
                )
            case "own_key":
                return f"{head}. It is not removed, because this run is signed in with that key."
            case _:
                assert_never(self.problem)


@dataclass(frozen=True, slots=True)
class ReportedFinding:
    """A finding that another run reported.

    Attributes:
        kind: its code, as in docs/errors.md.
        actual: the value in the workspace, for drift.
        desired: the value in the manifest, for drift.
    """

    kind: str
    name: str
    ids: tuple[str, ...]
    message: str
    actual: str | None = None
    desired: str | None = None


Finding = Unmanaged | Duplicate | MovedConflict | Drift | Expiring | DeliveryUnknown | LeftBehind
