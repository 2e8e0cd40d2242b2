"""Updates of live keys: another role or another expiry."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provisioner.model.observed import Observation
    from provisioner.model.workspace import Workspace
    from provisioner.plan import Update
    from provisioner.runtime.cancellation import Cancellation


_ROLE_DELAY = 1.0
"""Seconds after which a key that another run is just creating has its role."""


class Updates:
    """The updates of one environment.

    Args:
        workspace: the workspace of the keys.
        parallel: updates at the same time.
        stop: once requested, no update starts.
        on_start: called with the name of each key whose update starts.
        on_progress: called with the name of each key whose update is done or failed.
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
        self._observation_lock = threading.Lock()
        self._observation: Observation | None = None

    def assign_roles(self, updates: Sequence[Update]) -> None:
        """Assign roles to keys; one that fails does not stop the others.

        Raises:
            Exception: a bug that one update met, once all the others have finished.
        """
        self._run_all(self._assign_role, [one for one in updates if one.role_id is not None])

    def set_expiries(self, updates: Sequence[Update]) -> None:
        """Set the expiry of keys, except those whose role could not be assigned.

        Raises:
            Exception: as for `assign_roles`.
        """
        selected = [one for one in updates if one.sets_expiry and self.has_not_failed(one.name)]
        self._run_all(self._set_expiry, selected)

    def has_not_failed(self, name: str) -> bool:
        """Return whether no part of the update of the key of this name has failed so far."""
        return self._outcomes.get(name) in (None, _EXPIRY_PENDING)

    def done(self, name: str) -> bool:
        """Return whether the update of the key of this name is complete."""
        return name in self._outcomes and self._outcomes[name] is None

    def failure(self, name: str) -> Failure | None:
        """Return why the update of this name is not complete; None if it has not started."""
        return self._outcomes.get(name)

    def _run_all(self, step: Callable[[Update], None], updates: Sequence[Update]) -> None:
        def run_one(update: Update) -> None:
            if self._stop.requested:
                return
            self._on_start(update.name)
            self._outcomes[update.name] = _IN_FLIGHT
            try:
                with bind(key=update.name):
                    step(update)
            except WorkspaceError as error:
                self._outcomes[update.name] = error.failure
                self._on_progress(update.name)

        if updates:
            with ThreadExecutor(self._parallel) as threads:
                futures = [threads.submit(run_one, update) for update in updates]
            for future in futures:
                future.result()

    def _assign_role(self, update: Update) -> None:
        if update.role_id is not None and self._needs_role(update):
            self._workspace.assign_role(update.key_id, update.role_id)
        if update.sets_expiry:
            self._outcomes[update.name] = _EXPIRY_PENDING
        else:
            self._finish(update)

    def _set_expiry(self, update: Update) -> None:
        self._workspace.set_expiry(update.key_id, update.expires_at)
        self._finish(update)

    def _finish(self, update: Update) -> None:
        self._outcomes[update.name] = None
        self._on_progress(update.name)

    def _needs_role(self, update: Update) -> bool:
        """Return whether the key still lacks its role.

        A key that had no role in the plan may have been in the middle of its creation.
        """
        if not any(one.field == "role" and one.actual is None for one in update.changes):
            return True
        observation = self._second_observation()
        key = next((one for one in observation.keys if one.id == update.key_id), None)
        return key is None or key.role_id != update.role_id

    def _second_observation(self) -> Observation:
        """Return one observation, shared by all updates, that is later than the plan's."""
        with self._observation_lock:
            if self._observation is None:
                self._stop.sleep(_ROLE_DELAY)
                self._observation = self._workspace.observe()
            return self._observation


_EXPIRY_PENDING = Failure(
    Code.STOPPED,
    "The key has its role, but the run ended before its expiry was changed. The next run "
    "changes it.",
)
_IN_FLIGHT = Failure(
    Code.OUTCOME_UNKNOWN,
    "The run ended while the key was being changed. The next run checks the key and finishes the "
    "change.",
)
