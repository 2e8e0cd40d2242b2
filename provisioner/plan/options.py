"""The two values in which the options of a run travel from the command line to the plan file."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.model.globs import matches


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The actions of a run in addition to creating missing keys.

    Attributes:
        only: globs of key names that limit all actions and findings; empty for all names.
        prune: whether to revoke owned keys that no manifest declares.
        dedupe: whether to revoke owned duplicates.
        clean: whether every sink that is left behind or whose key is revoked loses its token, as
            with `clean: true`.
        redeliver: whether live keys get new tokens, whatever their sinks hold.
        rotate: names of keys that get a successor now; if any are given, nothing else is done.
        at_once: whether their predecessors are revoked as soon as the successor is delivered.
        revoke: names and ids of keys that are revoked now; if any are given, nothing else is done.
    """

    only: tuple[str, ...] = ()
    prune: bool = False
    dedupe: bool = False
    clean: bool = False
    redeliver: bool = False
    rotate: frozenset[str] = frozenset()
    at_once: bool = False
    revoke: frozenset[str] = frozenset()

    def selects(self, name: str) -> bool:
        """Return whether the plan includes keys of this name."""
        if self.rotate and name not in self.rotate:
            return False
        return not self.only or matches(name, self.only)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOverrides:
    """Permissions given on the command line that override guards.

    Attributes:
        max_revoke: the number of keys that the run may revoke in each environment; None for the
            limit in the environment's `guards`.
        allow_protected: True if the run may revoke protected keys.
    """

    max_revoke: int | None = None
    allow_protected: bool = False
