"""The doctor, which checks environments in parallel."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from provisioner.audit.check import Check, Diagnosis
from provisioner.audit.server_checks import checks_of_error, checks_of_server
from provisioner.audit.sink_checks import SinkChecks
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import ProvisionError, RefusedError, WorkspaceError
from provisioner.model.globs import matches
from provisioner.reconcile.guards import shared_workspaces
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
    """The checker of environments, each in a task of its own; it writes nothing.

    Attributes:
        internal_error: the first bug in the check of an environment; the other checks continue.

    Args:
        connect: opens a workspace.
        open_sink: opens a sink.
        executor: runs one task for each environment.
        stop: ends the checks early.
    """

    def __init__(
        self, connect: Connect, open_sink: OpenSink, executor: Executor, stop: Cancellation
    ) -> None:
        self._connect = connect
        self._open_sink = open_sink
        self._executor = executor
        self._stop = stop
        self._stack = ExitStack()
        self._observations: dict[str, Observation] = {}
        self.internal_error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Do not close a workspace that a task still uses, except for tasks abandoned by a stop.
        self._executor.shutdown(wait=not self._stop.requested, cancel_futures=True)
        self._stack.close()

    def examine(
        self,
        environments: tuple[Environment, ...],
        desired: Mapping[str, tuple[DesiredKey, ...]] | None,
        only: tuple[str, ...] = (),
    ) -> tuple[Diagnosis, ...]:
        """Check every environment and the sinks of its keys.

        Args:
            environments: the environments; a failure of one does not stop the others.
            desired: the desired keys by environment; None if the manifests have problems.
            only: globs of key names that limit the sinks to check; empty for all.
        """

        def keys_of(environment: Environment) -> tuple[DesiredKey, ...] | None:
            if desired is None:
                return None
            keys = desired.get(environment.name, ())
            return tuple(key for key in keys if not only or matches(key.name, only))

        futures = [
            self._executor.submit(self._examine_safely, one, keys_of(one)) for one in environments
        ]
        self._stop.wait_for(futures, graceful=False)
        stopped = WorkspaceError.of(STOPPED)
        diagnoses = (
            future.result() if future.done() else _not_reached(environment, stopped)
            for environment, future in zip(environments, futures, strict=True)
        )
        return tuple(self._add_shared_workspaces(environments, tuple(diagnoses)))

    def _examine_safely(
        self, environment: Environment, keys: tuple[DesiredKey, ...] | None
    ) -> Diagnosis:
        if self._stop.requested:
            return _not_reached(environment, WorkspaceError.of(STOPPED))
        try:
            with bind(environment=environment.name):
                return self._examine(environment, keys)
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            self.internal_error = self.internal_error or error
            bug = WorkspaceError(
                Code.INTERNAL_ERROR,
                f"A bug stopped the check of {environment.name} ({type(error).__name__}).",
                remedy="Please report it.",
            )
            return _not_reached(environment, bug)

    def _examine(self, environment: Environment, keys: tuple[DesiredKey, ...] | None) -> Diagnosis:
        sink_checks = SinkChecks(environment, self._open_sink, self._stop)
        workspace = generation = None
        try:
            workspace = self._connect(environment, self._stack)
            observation = workspace.observe()
            checks = list(checks_of_server(environment, observation, workspace.capabilities()))
        except (WorkspaceError, RefusedError) as error:
            checks = list(checks_of_error(environment, error))
        else:
            generation = workspace.generation
            self._observations[environment.name] = observation
            sink_checks.verify_against(workspace, observation)
        checks += sink_checks.checks(keys)
        if workspace is not None:
            workspace.close_idle_connections()
        return Diagnosis(environment.name, environment.url, generation, tuple(checks))

    def _add_shared_workspaces(
        self, environments: tuple[Environment, ...], diagnoses: tuple[Diagnosis, ...]
    ) -> Iterator[Diagnosis]:
        """Yield the diagnoses, with a failed check for environments that share a workspace."""
        # Copied, because tasks abandoned by a stop may still add to it.
        observations = dict(self._observations)
        observed = [
            (one, observations[one.name]) for one in environments if one.name in observations
        ]
        shared = {
            name: Check.failed("credential", error.failure)
            for names, error in shared_workspaces(observed)
            for name in names
        }
        for one in diagnoses:
            failure = shared.get(one.environment)
            yield one if failure is None else replace(one, checks=(*one.checks, failure))


def _not_reached(environment: Environment, error: ProvisionError) -> Diagnosis:
    check = Check.failed("reached", error.failure)
    return Diagnosis(environment.name, environment.url, None, (check,))
