"""The examination of environments side by side."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from provisioner.audit.check import Diagnosis, broken
from provisioner.audit.server_checks import checks_of_error, checks_of_server
from provisioner.audit.sink_checks import SinkChecks
from provisioner.errors.exceptions import ProvisionError, RefusedError, WorkspaceError
from provisioner.model.globs import matches
from provisioner.reconcile.guards import one_workspace_twice
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Executor
    from types import TracebackType

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.reconcile.reconciler import Connect
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink


class Doctor:
    """Examines environments, one unit of work each; writes nothing.

    Attributes:
        internal_error: the first bug that an environment met; the others went on.

    Args:
        connect: opens a workspace.
        open_sink: opens a sink.
        executor: runs one unit of work for each environment.
        stop: ends the examination early.
    """

    def __init__(
        self, connect: Connect, open_sink: OpenSink, executor: Executor, stop: Cancellation
    ) -> None:
        self._connect = connect
        self._open_sink = open_sink
        self._executor = executor
        self._stop = stop
        self._stack = ExitStack()
        self._seen: dict[str, Observation] = {}
        self.internal_error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # No workspace is closed under a unit that is still at work, but for one left behind.
        self._executor.shutdown(wait=not self._stop.asked, cancel_futures=True)
        self._stack.close()

    def examine(
        self,
        environments: tuple[Environment, ...],
        desired: Mapping[str, tuple[DesiredKey, ...]] | None,
        only: tuple[str, ...] = (),
    ) -> tuple[Diagnosis, ...]:
        """Looks at every environment and at the sinks of its keys.

        Args:
            environments: whatever happens to one does not stop the others.
            desired: the desired keys by environment; None where the manifests have problems.
            only: globs of key names that bound the sinks looked at; none means all.
        """

        def keys_of(environment: Environment) -> tuple[DesiredKey, ...] | None:
            if desired is None:
                return None
            keys = desired.get(environment.name, ())
            return tuple(key for key in keys if not only or matches(key.name, only))

        futures = [self._executor.submit(self._examined, one, keys_of(one)) for one in environments]
        self._stop.wait_for(futures, graceful=False)
        stopped = WorkspaceError(STOPPED.code, STOPPED.message)
        found = (
            future.result() if future.done() else _undone(environment, stopped)
            for environment, future in zip(environments, futures, strict=True)
        )
        return tuple(self._told_of_shared(environments, tuple(found)))

    def _examined(self, environment: Environment, keys: tuple[DesiredKey, ...] | None) -> Diagnosis:
        if self._stop.asked:
            return _undone(environment, WorkspaceError(STOPPED.code, STOPPED.message))
        try:
            with bind(environment=environment.name):
                return self._examine(environment, keys)
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            self.internal_error = self.internal_error or error
            bug = WorkspaceError(
                "internal_error",
                f"A bug ended the look at {environment.name} ({type(error).__name__}).",
                remedy="Please report it.",
            )
            return _undone(environment, bug)

    def _examine(self, environment: Environment, keys: tuple[DesiredKey, ...] | None) -> Diagnosis:
        places = SinkChecks(environment, self._open_sink, self._stop)
        workspace = generation = None
        try:
            workspace = self._connect(environment, self._stack)
            observation = workspace.observe()
            checks = list(checks_of_server(environment, observation, workspace.capabilities()))
        except (WorkspaceError, RefusedError) as error:
            checks = list(checks_of_error(environment, error))
        else:
            generation = workspace.generation
            self._seen[environment.name] = observation
            places.hold_against(workspace, observation)
        checks += places.checks(keys)
        if workspace is not None:
            workspace.close_idle_connections()
        return Diagnosis(environment.name, environment.url, generation, tuple(checks))

    def _told_of_shared(
        self, environments: tuple[Environment, ...], diagnoses: tuple[Diagnosis, ...]
    ) -> Iterator[Diagnosis]:
        """The diagnoses, those of one workspace told so."""
        # A stop may have left units at work, which go on to look.
        seen = dict(self._seen)
        looks = [(one, seen[one.name]) for one in environments if one.name in seen]
        shared = {
            name: broken("credential", error)
            for names, error in one_workspace_twice(looks)
            for name in names
        }
        for one in diagnoses:
            fault = shared.get(one.environment)
            yield one if fault is None else replace(one, checks=(*one.checks, fault))


def _undone(environment: Environment, error: ProvisionError) -> Diagnosis:
    return Diagnosis(environment.name, environment.url, None, (broken("reached", error),))
