"""The work on one environment on a worker of a cluster, as functions of values.

A worker runs the stages of `Reconciler` over a single environment. What travels is pickled here in
both directions and contains no secret: an environment comes without its credentials, which the
worker resolves from its own variables and files.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import traceback
from contextlib import closing, contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from provisioner import __version__
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import ProvisionError, WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import CreatedByAnotherRun, Done, Executed, Unfinished
from provisioner.manifests import with_secrets
from provisioner.model.environment import StoredCredential
from provisioner.plan import Plan, Unobserved
from provisioner.reconcile.connection import CredentialStores, WorkspaceOpener
from provisioner.reconcile.guards import combine_refusals
from provisioner.reconcile.proposal import PlannedEnvironment, PlanRequest, Proposal
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.cluster import ClusterError
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.file_descriptors import raise_limit
from provisioner.runtime.log_context import bind, log_context_of
from provisioner.secret import masked, masked_document
from provisioner.sinks.registry import SinkRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from provisioner.model.environment import Environment
    from provisioner.model.restrictions import Restrictions
    from provisioner.runtime.cancellation import Cancellation

_LOG = logging.getLogger("provisioner")


class Assignment(NamedTuple):
    """One environment, as it travels to a worker.

    Attributes:
        environment: the environment without its credentials.
        secrets: what its declaration says about them, from `secrets_declared`.
        root: the directory that relative paths of sinks start at.
        environments_root: the directory that relative paths of credentials start at.
        restrictions: the restrictions of the run.
        others_wait: True if no environment is written to before each has been observed.
    """

    environment: Environment
    secrets: str
    root: Path
    environments_root: Path
    restrictions: Restrictions
    others_wait: bool


class LogLine(NamedTuple):
    """A warning that the work on an environment logged, with all secrets masked."""

    logger: str
    level: int
    message: str


class Returned(NamedTuple):
    """What comes back from a worker; the outcome has the environment without its credentials."""

    outcome: PlannedEnvironment | Executed | Unobserved
    log: tuple[LogLine, ...]


class WorkerBugError(Exception):
    """An unexpected exception on a worker, whose traceback is in the log."""


def propose(value: bytes, stop: Cancellation) -> bytes:
    """Observe and plan an environment.

    Args:
        value: the assignment and the request, from `pack`.
        stop: ends the work early.

    Returns:
        A `Returned`, for `unpack`: the plan, or why the environment was not observed.
    """

    def work(assignment: Assignment, request: PlanRequest) -> PlannedEnvironment | Unobserved:
        environment = assignment.environment
        try:
            with _reconciler(assignment, request, stop) as reconciler:
                (found,) = reconciler.plan(reconciler.observe(), request)
        except ProvisionError as error:
            return Unobserved(environment.name, environment.url, error.failure)
        if isinstance(found, Unobserved):
            return found
        # The credentials and the connection stay on this worker.
        sent_back = found.observed._replace(environment=environment, workspace=None)
        return found._replace(observed=sent_back)

    return _work(value, work)


def execute(value: bytes, stop: Cancellation) -> bytes:
    """Carry out the plan of an environment; at most once, because it writes.

    Args:
        value: the assignment, the request and the plan, from `pack`.
        stop: ends the work early.

    Returns:
        A `Returned`, for `unpack`: the results; all skipped if the workspace cannot be opened.
    """

    def work(
        assignment: Assignment, request: PlanRequest, one: PlannedEnvironment
    ) -> Executed | Unobserved:
        try:
            with _reconciler(assignment, request, stop) as reconciler:
                (environment,) = reconciler.environments
                workspace = reconciler.open(environment)
                if workspace is None:
                    return Executed.skipped(one.planned, STOPPED)
                observed = one.observed._replace(environment=environment, workspace=workspace)
                plan = Plan(request.now, "", (one.planned,))
                proposal = Proposal(plan, (one._replace(observed=observed),))
                return reconciler.execute(proposal).environments[0]
        except ProvisionError as error:
            return Executed.skipped(one.planned, error.failure)

    return _work(value, work)


def pack(*values: object) -> bytes:
    """Return values as they travel: failures and records are masked, a secret is an error.

    A process masks only the secrets that it knows, and a worker's are not known to others.
    """
    stream = io.BytesIO()
    _Pickler(stream).dump(values)
    return f"{__version__}\n".encode() + stream.getvalue()


def unpack(data: bytes) -> tuple[object, ...]:
    """Return the values that `pack` got.

    Raises:
        ClusterError: if another version of this tool packed them.
    """
    version, _, pickled = data.partition(b"\n")
    if version.decode() != __version__:
        raise ClusterError(f"its worker has provision {__version__}, not {version.decode()}")
    values: tuple[object, ...] = pickle.loads(pickled)  # noqa: S301 - who can send this can run any code
    return values


class _Pickler(pickle.Pickler):
    """Masks what servers said, and sends an exception as its failure or as its name."""

    def reducer_override(self, value: object) -> Any:
        match value:
            case Failure():
                return Failure, (value.code, masked(value.message), masked(value.remedy))
            case Done() | CreatedByAnotherRun() | Unfinished():
                values = {one.name: getattr(value, one.name) for one in fields(value)}
                values["record"] = masked_document(values["record"])
                return type(value), tuple(values.values())
            case ProvisionError():
                return type(value).of, (value.failure,)
            case Exception():
                return WorkerBugError, (type(value).__name__,)
            case _:
                return NotImplemented


def _work(value: bytes, work: Callable[..., PlannedEnvironment | Executed | Unobserved]) -> bytes:
    """Call a function with the values that travelled here, and return what travels back."""
    assignment, *others = unpack(value)
    assert isinstance(assignment, Assignment)  # noqa: S101 - what `pack` got
    name = assignment.environment.name
    log = _MaskedLog(name)
    _LOG.addHandler(log)
    try:
        with bind(environment=name):
            outcome = work(assignment, *others)
            bug = None if isinstance(outcome, PlannedEnvironment) else outcome.bug
            if bug is not None:
                frames = "".join(traceback.format_tb(bug.__traceback__))
                _LOG.error("%s%s on a worker", frames, type(bug).__name__)
    finally:
        _LOG.removeHandler(log)
    return pack(Returned(outcome, tuple(log.lines)))


class _MaskedLog(logging.Handler):
    """Masks the log lines of an environment before a worker writes them, and keeps the warnings."""

    def __init__(self, environment: str) -> None:
        super().__init__()
        self.lines: list[LogLine] = []
        self._environment = environment

    def emit(self, record: logging.LogRecord) -> None:
        if log_context_of(record).get("environment") != self._environment:
            return
        record.msg, record.args = masked(record.getMessage()), None
        if record.levelno >= logging.WARNING:
            self.lines.append(LogLine(record.name, record.levelno, record.msg))


@contextmanager
def _reconciler(
    assignment: Assignment, request: PlanRequest, stop: Cancellation
) -> Iterator[Reconciler]:
    """Yield a reconciler of one environment, with the credentials of this machine.

    Raises:
        WorkspaceError: if they are missing or have problems.
        RefusedError: if the run may not read one of them.
    """
    name = assignment.environment.name
    environment = with_secrets(
        assignment.environment, assignment.secrets, os.environ, assignment.environments_root
    )
    if isinstance(environment, tuple):
        problems = "; ".join(one.message for one in environment)
        raise WorkspaceError(
            Code.CREDENTIAL_MISSING,
            f"A worker of the cluster has no credentials for {name}: {problems}.",
            remedy="Set the same variables and files on every worker.",
        )
    raise_limit()
    rules = assignment.restrictions
    registry = SinkRegistry(
        assignment.root,
        os.environ,
        stop,
        (address for key in request.desired.get(name, ()) for address in key.deliver),
        restrictions=rules,
        environments=(environment,),
    )
    stores_registry = SinkRegistry(
        assignment.environments_root, os.environ, stop, restrictions=rules
    )
    with closing(registry) as sinks, closing(stores_registry) as stores:
        if isinstance(environment.credential, StoredCredential):
            refusals = tuple(stores.refusals(environment.credential.addresses))
            if (refusal := combine_refusals(refusals)) is not None:
                raise refusal
        connect = WorkspaceOpener(
            assignment.root,
            stop,
            others_wait=assignment.others_wait,
            environments=(environment,),
            stores=CredentialStores(stores.open, stop),
        )
        with closing(
            Reconciler((environment,), connect, sinks.open, ThreadExecutor(1), stop)
        ) as reconciler:
            yield reconciler
