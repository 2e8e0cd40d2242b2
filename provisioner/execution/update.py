"""Live keys given another role or another end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure, failure_of
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provisioner.model.observed import Observation
    from provisioner.plan import Update
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.twenty.workspace import Workspace


_LOOK_DELAY = 1.0
"""Seconds after which a key that is just being made has its role."""


class Updates:
    """The changes of one environment.

    Args:
        workspace: of the keys.
        parallel: changes at once.
        stop: once it is asked for, no change begins.
        on_start: called with the name of each key whose change begins.
        on_progress: called with the name of each key whose change ended.
    """

    def __init__(
        self,
        workspace: Workspace,
        parallel: int,
        stop: Cancellation,
        *,
        on_start: Callable[[str], None],
        on_progress: Callable[[str], None],
    ) -> None:
        self._workspace = workspace
        self._parallel = parallel
        self._stop = stop
        self._on_start = on_start
        self._on_progress = on_progress
        self._outcomes: dict[str, Failure | None] = {}
        self._looking = threading.Lock()
        self._observe: Observation | None = None

    def assign_roles(self, updates: Sequence[Update]) -> None:
        """Gives keys their roles; one that fails does not keep another from getting its own.

        Raises:
            Exception: a bug that one met, when all the others have ended.
        """
        self._each(self._assign, [one for one in updates if one.role_id is not None])

    def set_expiries(self, updates: Sequence[Update]) -> None:
        """Moves ends, but of keys whose role could not be assigned.

        Raises:
            Exception: as `assign`.
        """
        moving = [one for one in updates if one.sets_expiry and self.has_not_failed(one.name)]
        self._each(self._move, moving)

    def has_not_failed(self, name: str) -> bool:
        """Whether nothing has failed so far with the key of this name."""
        return self._outcomes.get(name) in (None, _NOT_MOVED)

    def done(self, name: str) -> bool:
        """Whether the key of this name is as its update wants it."""
        return name in self._outcomes and self._outcomes[name] is None

    def failure(self, name: str) -> Failure | None:
        """Why the key of this name is not; None while nothing has been done for it."""
        return self._outcomes.get(name)

    def _each(self, work: Callable[[Update], None], updates: Sequence[Update]) -> None:
        def one(update: Update) -> None:
            if self._stop.asked:
                return
            self._on_start(update.name)
            self._outcomes[update.name] = _IN_FLIGHT
            try:
                with bind(key=update.name):
                    work(update)
            except WorkspaceError as error:
                self._outcomes[update.name] = failure_of(error)
                self._on_progress(update.name)

        if updates:
            with ThreadExecutor(self._parallel) as threads:
                changes = [threads.submit(one, update) for update in updates]
            for change in changes:
                change.result()

    def _assign(self, update: Update) -> None:
        if update.role_id is not None and self._needs_role(update):
            self._workspace.assign_role(update.key_id, update.role_id)
        if update.sets_expiry:
            self._outcomes[update.name] = _NOT_MOVED
        else:
            self._done(update)

    def _move(self, update: Update) -> None:
        self._workspace.set_expiry(update.key_id, update.expires_at)
        self._done(update)

    def _done(self, update: Update) -> None:
        self._outcomes[update.name] = None
        self._on_progress(update.name)

    def _needs_role(self, update: Update) -> bool:
        """Whether the key is still without its role; one that had none may just be being made."""
        if not any(one.what == "role" and one.was is None for one in update.changes):
            return True
        look = self._second_observation()
        key = next((one for one in look.keys if one.id == update.key_id), None)
        return key is None or key.role_id != update.role_id

    def _second_observation(self) -> Observation:
        """One look for all such keys, a while after the plan's."""
        with self._looking:
            if self._observe is None:
                self._stop.sleep(_LOOK_DELAY)
                self._observe = self._workspace.observe()
            return self._observe


_NOT_MOVED = Failure(
    "stopped",
    "The key has its role, and the run had to end before its end was moved. The next run moves it.",
)
_IN_FLIGHT = Failure(
    "outcome_unknown",
    "The run had to end while the key was being changed. The next run looks and finishes it.",
)
