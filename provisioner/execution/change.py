"""Live keys given another role or another end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from provisioner.errors import WorkspaceError
from provisioner.failure import Failure, failure_of
from provisioner.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provisioner.observed import Observation
    from provisioner.plan import Update
    from provisioner.stop import Stop
    from provisioner.twenty.workspace import Workspace


_LATER = 1.0
"""Seconds after which a key that is just being made has its role."""


class Changing:
    """The changes of one environment.

    Args:
        workspace: of the keys.
        parallel: changes at once.
        stop: once it is asked for, no change begins.
        settled: called with 1 for each change that ended.
    """

    def __init__(
        self, workspace: Workspace, parallel: int, stop: Stop, settled: Callable[[int], None]
    ) -> None:
        self._workspace = workspace
        self._parallel = parallel
        self._stop = stop
        self._settled = settled
        self._ends: dict[str, Failure | None] = {}
        self._looking = threading.Lock()
        self._look: Observation | None = None

    def run(self, updates: Sequence[Update]) -> None:
        """Changes every key; one that fails does not keep another from being changed."""
        if updates:
            with Threads(self._parallel) as threads:
                for _ in threads.map(self._one, updates):
                    pass

    def changed(self, name: str) -> bool:
        """Whether the key of this name is as its update wants it."""
        return name in self._ends and self._ends[name] is None

    def failure(self, name: str, otherwise: Failure | None) -> Failure | None:
        """Why the key of this name is not; `otherwise`, if any, while it is open."""
        why = self._ends.get(name)
        return otherwise or why if why in (None, _IN_FLIGHT) else why

    def _one(self, update: Update) -> None:
        if self._stop.asked:
            return
        self._ends[update.name] = _IN_FLIGHT
        try:
            if update.role_id is not None and self._needs_role(update):
                self._workspace.assign_role(update.key_id, update.role_id)
            if update.moves_end:
                self._workspace.move_end(update.key_id, update.expires_at)
        except WorkspaceError as error:
            self._ends[update.name] = failure_of(error)
        else:
            self._ends[update.name] = None
        self._settled(1)

    def _needs_role(self, update: Update) -> bool:
        """Whether the key is still without its role; one that had none may just be being made."""
        if not any(one.what == "role" and one.was is None for one in update.changes):
            return True
        look = self._second_look()
        key = next((one for one in look.keys if one.id == update.key_id), None)
        return key is None or key.role_id != update.role_id

    def _second_look(self) -> Observation:
        """One look for all such keys, a while after the plan's."""
        with self._looking:
            if self._look is None:
                self._stop.sleep(_LATER)
                self._look = self._workspace.observe()
            return self._look


_IN_FLIGHT = Failure(
    "outcome_unknown",
    "The run had to end while the key was being changed. The next run looks and finishes it.",
)
