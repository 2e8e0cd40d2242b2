"""The doctor, which checks environments in parallel."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from provisioner.audit.check import Check, Diagnosis
from provisioner.audit.server_checks import checks_of_error, checks_of_server
from provisioner.audit.sink_checks import SinkChecks
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import RefusedError, WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.activity import CheckingSinks, Rested, ignore_activity
from provisioner.model.globs import matches
from provisioner.reconcile.guards import shared_workspaces
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from provisioner.model.activity import OnActivity
    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.reconcile.reconciler import Connect
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink


@dataclass(slots=True)
class Doctor:
    """The checker of environments, each in a task of its own; it writes nothing.

    Attributes:
        connect: opens a workspace.
        open_sink: opens a sink.
        executor: runs one task for each environment; it is shut down after them.
        stop: ends the checks early.
        on_activity: receives what each environment does between its requests.
        internal_error: the first bug in the check of an environment; the other checks continue.
    """

    connect: Connect
    open_sink: OpenSink
    executor: Executor
    stop: Cancellation
    on_activity: OnActivity = ignore_activity
    internal_error: Exception | None = None
    _workspaces: ExitStack = field(default_factory=ExitStack, init=False)

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

        with self._workspaces:
            try:
                tasks = [
                    self.executor.submit(self._examine_safely, one, keys_of(one))
                    for one in environments
                ]
                self.stop.wait_for(tasks, graceful=False)
                examined = [
                    task.result() if task.done() else (_not_reached(environment, STOPPED), None)
                    for environment, task in zip(environments, tasks, strict=True)
                ]
            finally:
                # A workspace that a task still uses stays open, unless a stop abandoned the task.
                self.executor.shutdown(wait=not self.stop.requested, cancel_futures=True)
        observed = [
            (environment, observation)
            for environment, (_, observation) in zip(environments, examined, strict=True)
            if observation is not None
        ]
        shared = {
            name: (Check.failed("credential", error.failure),)
            for names, error in shared_workspaces(observed)
            for name in names
        }
        return tuple(
            replace(one, checks=one.checks + shared.get(one.environment, ())) for one, _ in examined
        )

    def _examine_safely(
        self, environment: Environment, keys: tuple[DesiredKey, ...] | None
    ) -> tuple[Diagnosis, Observation | None]:
        if self.stop.requested:
            return _not_reached(environment, STOPPED), None
        try:
            with bind(environment=environment.name):
                return self._examine(environment, keys)
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            self.internal_error = self.internal_error or error
            message = f"A bug stopped the check of {environment.name} ({type(error).__name__})."
            bug = Failure(Code.INTERNAL_ERROR, message, "Please report it.")
            return _not_reached(environment, bug), None
        finally:
            self.on_activity(Rested(environment.name))

    def _examine(
        self, environment: Environment, keys: tuple[DesiredKey, ...] | None
    ) -> tuple[Diagnosis, Observation | None]:
        sink_checks = SinkChecks(environment, self.open_sink, self.stop)
        workspace = observation = None
        try:
            workspace = self.connect(environment, self._workspaces)
            observation = workspace.observe()
            checks = list(checks_of_server(environment, observation, workspace.capabilities()))
        except (WorkspaceError, RefusedError) as error:
            observation = None
            checks = list(checks_of_error(environment, error))
        else:
            sink_checks.verify_against(workspace, observation)
        sinks = sum(len(key.deliver) for key in keys or ())
        self.on_activity(CheckingSinks(environment.name, sinks))
        checks += sink_checks.checks(keys)
        if workspace is not None:
            workspace.close_idle_connections()
        generation = None if observation is None else observation.generation
        diagnosis = Diagnosis(environment.name, environment.url, generation, tuple(checks))
        return diagnosis, observation


def _not_reached(environment: Environment, failure: Failure) -> Diagnosis:
    check = Check.failed("reached", failure)
    return Diagnosis(environment.name, environment.url, None, (check,))
