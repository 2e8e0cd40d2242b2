"""What a run is asked for beside the manifests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.model.globs import matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.model.key import DesiredKey


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a run may do beyond making what is missing.

    Attributes:
        only: globs of key names that bound every action and finding; none means all.
        prune: whether owned keys that no manifest wants are revoked.
        dedupe: whether surplus owned keys of a name are revoked.
        redeliver: whether live keys get new tokens, whatever their sinks hold.
        rotate: names of keys that get a successor now; with any, nothing else is done.
        at_once: whether their predecessors end as soon as the successor is delivered.
    """

    only: tuple[str, ...] = ()
    prune: bool = False
    dedupe: bool = False
    redeliver: bool = False
    rotate: frozenset[str] = frozenset()
    at_once: bool = False

    def selects(self, name: str) -> bool:
        """Whether a key of this name is to be looked at."""
        if self.rotate and name not in self.rotate:
            return False
        return not self.only or matches(name, self.only)


def selected_keys(
    desired: Mapping[str, tuple[DesiredKey, ...]], options: PlanOptions
) -> Mapping[str, tuple[DesiredKey, ...]]:
    """Those desired keys of every environment that a plan with these wishes is about."""
    if not options.only and not options.rotate:
        return desired
    return {
        environment: tuple(key for key in keys if options.selects(key.name))
        for environment, keys in desired.items()
    }
