"""The start of every command that reads workspaces: load manifests, resolve environments."""

from __future__ import annotations

import logging
import os
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import did_you_mean
from provisioner.errors.exceptions import (
    InvalidInputError,
    RefusedError,
    WorkspaceError,
    WrongUsageError,
)
from provisioner.errors.pluralize import pluralize
from provisioner.execution import Executed, ignore
from provisioner.manifests import (
    Manifests,
    load,
    load_previous,
    newly_reached,
    resolve,
    secrets_declared,
    url_of,
)
from provisioner.model.activity import ignore_activity
from provisioner.model.environment import StoredCredential
from provisioner.plan import GuardOverrides, Unobserved, former_sinks, selected_keys
from provisioner.reconcile.connection import CredentialStores, WorkspaceOpener
from provisioner.reconcile.guards import combine_refusals
from provisioner.reconcile.proposal import PlanRequest
from provisioner.reconcile.reconciler import Reconciler
from provisioner.render.report import ShardLabel
from provisioner.runtime.executor import AdaptiveExecutor, ThreadExecutor
from provisioner.runtime.file_descriptors import can_open, max_parallel, raise_limit
from provisioner.sinks.registry import SinkRegistry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from concurrent.futures import Executor

    from provisioner.cli.options import Selection
    from provisioner.cli.signals import Signals
    from provisioner.errors.problem import Problem
    from provisioner.execution import Emit
    from provisioner.manifests import DeclaredEnvironment, PreviousManifests
    from provisioner.model.activity import OnActivity
    from provisioner.model.environment import Environment
    from provisioner.model.restrictions import Restrictions
    from provisioner.model.sink_address import Address
    from provisioner.plan import FormerSink, PlanOptions
    from provisioner.reconcile.proposal import Pipeline
    from provisioner.reconcile.reconciler import Connect
    from provisioner.reconcile.worker import Assignment
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink

_LOG = logging.getLogger("provisioner")

_NO_OVERRIDES = GuardOverrides()

_MAX_ENVIRONMENTS = 64
"""Environments that are worked on at once, unless the command line says how many."""

_OBSERVE_DESCRIPTORS = 2
"""File descriptors of an observation, whose requests come one after the other, and of DNS."""

_EMBEDDED_DESCRIPTORS = 4
"""File descriptors of a request to the embedded Twenty: both ends of it, a database and its log."""

_MIN_SINK_DESCRIPTORS = 4
"""File descriptors that an environment needs at least, in addition to connections: one file."""

_SINK_DESCRIPTORS = 12
"""File descriptors of the sinks of an environment, which are used one after the other."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The loaded manifests and the resolved environments of a run.

    Attributes:
        selection: the selection of the command line.
        manifests: the loaded manifests.
        environments: the selected environments.
        now: the time of the run, from which durations count.
        previous: the manifests as they were before; None without --previous.
        former: the sinks that only they declare, by environment.
    """

    selection: Selection
    manifests: Manifests
    environments: tuple[Environment, ...]
    now: datetime
    previous: PreviousManifests | None = None
    former: Mapping[str, tuple[FormerSink, ...]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Return the names of the keys that manifests declare in these environments.

        Those of other shards count, so that a shard without a key does not refuse its name.
        """
        desired = self.manifests.desired
        names = self.selection.environments or desired
        return frozenset(key.name for one in names for key in desired.get(one, ()))

    def sinks_of(self, environment: Environment) -> Iterator[Address]:
        """Yield the sinks of the keys of an environment, and those that it had before."""
        for key in self.manifests.desired.get(environment.name, ()):
            yield from key.deliver
        for one in self.former.get(environment.name, ()):
            yield one.address

    def request(
        self, options: PlanOptions, overrides: GuardOverrides = _NO_OVERRIDES
    ) -> PlanRequest:
        """Return the request for a plan as of now."""
        desired, shard = self.manifests.desired, self.selection.shard
        return PlanRequest(
            desired,
            self.now,
            options,
            overrides,
            sharded=shard is not None,
            former=self.former,
        )

    def shard_label(self, request: PlanRequest | None = None) -> ShardLabel | None:
        """Return what the output of a shard says for `provision merge`; None without a shard.

        Args:
            request: the request for the plan that the output shows, if it shows one.
        """
        if self.selection.shard is None:
            return None
        positions = {one.name: index for index, one in enumerate(self.manifests.environments)}
        desired = {} if request is None else selected_keys(request.desired, request.options)
        return ShardLabel(self.selection.shard, positions, desired)


def prepare(
    selection: Selection, *, keys_matter: bool = True, one: bool = False, otherwise: str = ""
) -> Prepared:
    """Load the manifests and resolve the selected environments, before anything is sent.

    Args:
        selection: the selection of the command line.
        keys_matter: False for commands that need only environments.yaml.
        one: True if exactly one environment must be selected.
        otherwise: the advice for a user who does not want to select one.

    Raises:
        InvalidInputError: if manifests, variables or secret files have problems.
        WrongUsageError: if a selected environment is not declared, or one must be selected.
        RefusedError: if the run may not connect to a server, or the manifests reach something
            that those of `against` do not; no credential was read.
    """
    manifests = load(selection.manifests, environments=selection.restrictions.environments)
    problems: tuple[Problem, ...] = manifests.problems
    if not keys_matter:
        problems = manifests.problems_of_environments or (
            () if manifests.environments else problems
        )
    if not problems:
        _refuse_change(manifests, selection.restrictions)
        if one and not selection.environments and len(manifests.environments) != 1:
            raise _unnamed(manifests, otherwise)
        selected = _selected(manifests, selection)
        if one and len(selected) != 1:
            raise _unnamed(manifests, otherwise)
        environments, problems = _resolve(manifests, selected, selection)
    if problems:
        raise InvalidInputError(problems, manifests.sources)
    keys = sum(len(manifests.desired.get(one.name, ())) for one in environments)
    _LOG.info(
        "loaded %s: %s in %s",
        pluralize(len(manifests.sources), "file"),
        pluralize(keys, "key"),
        pluralize(len(environments), "environment"),
    )
    if selection.shard is not None and not environments:
        _LOG.warning("shard %s has no environments", selection.shard)
    previous = _previous(selection)
    former = former_sinks(manifests.desired, previous.desired) if previous is not None else {}
    return Prepared(selection, manifests, environments, datetime.now(UTC), previous, former)


def _previous(selection: Selection) -> PreviousManifests | None:
    """Load the manifests of --previous; a warning says why they cannot be used."""
    if selection.previous is None:
        return None
    rules = selection.restrictions
    previous = load_previous(
        selection.previous,
        selection.manifests,
        environments=rules.environments,
        against=rules.against,
    )
    if previous.reason:
        _LOG.warning("--previous has no effect: %s", previous.reason)
    return previous


@contextmanager
def reconciler_of(
    prepared: Prepared,
    stop: Cancellation,
    emit: Emit = ignore,
    on_activity: OnActivity = ignore_activity,
) -> Iterator[Reconciler]:
    """Open a reconciler of the selected environments; `emit` takes its events."""
    several = len(prepared.environments) > 1
    embedded = any(one.embedded for one in prepared.environments)
    each = _EMBEDDED_DESCRIPTORS + 1 if embedded else _OBSERVE_DESCRIPTORS
    with (
        open_backends(prepared, stop, others_wait=several, on_activity=on_activity) as (
            connect,
            open_sink,
            executor,
        ),
        closing(
            Reconciler(
                prepared.environments,
                connect,
                open_sink,
                executor,
                stop,
                emit=emit,
                # Another thread would not use again the memory that one observation took.
                observers=_executor(prepared, each) if several else None,
                on_activity=on_activity,
            )
        ) as reconciler,
    ):
        yield reconciler


@contextmanager
def pipeline_of(
    prepared: Prepared,
    stop: Cancellation,
    emit: Emit = ignore,
    on_activity: OnActivity = ignore_activity,
) -> Iterator[Pipeline]:
    """Open the pipeline of the selected environments, here or on a cluster; as `reconciler_of`.

    Raises:
        WorkspaceError: if the cluster cannot be used.
        WrongUsageError: if an environment or a sink is on this machine only.
    """
    address = prepared.selection.executor
    if address is None:
        with reconciler_of(prepared, stop, emit, on_activity) as reconciler:
            yield reconciler
        return
    from provisioner.reconcile.cluster import ClusterReconciler
    from provisioner.runtime.cluster import Cluster, ClusterError

    _require_reachable(prepared)
    with _open_sinks(prepared, stop):
        try:
            cluster = Cluster(address)
        except ClusterError as error:
            raise WorkspaceError(
                Code.EXECUTOR_UNUSABLE,
                f"The Dask cluster at {address} {error}.",
                remedy=error.remedy,
            ) from None
        with closing(cluster):
            yield ClusterReconciler(_assignments(prepared), cluster, stop, emit)


def _assignments(prepared: Prepared) -> dict[str, Assignment]:
    from provisioner.reconcile.worker import Assignment

    manifests = prepared.manifests
    declared = {one.name: one for one in manifests.environments}
    return {
        one.name: Assignment(
            one,
            secrets_declared(declared[one.name], one),
            manifests.root,
            manifests.environments_root,
            prepared.selection.restrictions,
            others_wait=len(prepared.environments) > 1,
        )
        for one in prepared.environments
    }


def _require_reachable(prepared: Prepared) -> None:
    """Raise if a worker on another machine would not find an environment or a sink."""
    for one in prepared.environments:
        local = next(filter(lambda address: address.on_this_machine, prepared.sinks_of(one)), None)
        subject = f"The embedded Twenty of {one.name}" if one.embedded else local
        if subject is not None:
            raise WrongUsageError(
                Code.EXECUTOR_UNUSABLE,
                f"{subject} is on this machine, and --executor works on others.",
                remedy="Leave it out with -e, use a server or a sink that every worker reaches, "
                "or run without --executor.",
            )


@contextmanager
def open_backends(
    prepared: Prepared,
    stop: Cancellation,
    *,
    others_wait: bool = False,
    on_activity: OnActivity = ignore_activity,
) -> Iterator[tuple[Connect, OpenSink, Executor]]:
    """Yield functions that open workspaces and sinks, and an executor for the environments.

    Programs of sinks that still run after a stop are ended afterwards.

    Args:
        prepared: the environments.
        stop: ends the run early.
        others_wait: True if the first write waits until every environment was read.
        on_activity: receives what each environment does.

    Raises:
        RefusedError: if the run may not use a sink of these environments; none was opened.
        WorkspaceError: if too few file descriptors are left for one environment.
    """
    with _open_sinks(prepared, stop) as (sinks, stores):
        raise_limit()
        requests = (
            one.limits.parallel * (_EMBEDDED_DESCRIPTORS if one.embedded else 1)
            for one in prepared.environments
        )
        delivers = any(True for one in prepared.environments for _ in prepared.sinks_of(one))
        needed = max(requests, default=1) + _MIN_SINK_DESCRIPTORS
        if not can_open(needed):
            raise WorkspaceError(
                Code.UNREACHABLE,
                "This process cannot open enough files and connections: one environment needs "
                f"{needed}.",
                remedy="Raise the limit (`ulimit -n`), or lower `limits.parallel`.",
            )
        yield (
            WorkspaceOpener(
                prepared.manifests.root,
                stop,
                others_wait=others_wait,
                environments=prepared.environments,
                stores=CredentialStores(stores.open, stop),
                on_activity=on_activity,
            ),
            sinks.open,
            _executor(prepared, needed + (_SINK_DESCRIPTORS if delivers else 0)),
        )


def _executor(prepared: Prepared, each: int) -> ThreadExecutor:
    """Return the threads for the environments, if `each` needs that many file descriptors."""
    most = min(len(prepared.environments), max_parallel(each))
    width = prepared.selection.width
    if width is None:
        return AdaptiveExecutor(min(_MAX_ENVIRONMENTS, most))
    return ThreadExecutor(min(width, most))


@contextmanager
def _open_sinks(
    prepared: Prepared, stop: Cancellation
) -> Iterator[tuple[SinkRegistry, SinkRegistry]]:
    """Yield the sinks of a run, and the stores of its credentials; none is open yet.

    Raises:
        RefusedError: if the run may not use one of them.
    """
    desired, rules = prepared.manifests.desired, prepared.selection.restrictions
    sinks = SinkRegistry(
        prepared.manifests.root,
        os.environ,
        stop,
        (address for keys in desired.values() for key in keys for address in key.deliver),
        restrictions=rules,
        environments=prepared.environments,
    )
    # A protected environments file never refers into the directory of a pull request.
    stores = SinkRegistry(
        prepared.manifests.environments_root, os.environ, stop, restrictions=rules
    )
    with closing(sinks), closing(stores):
        # A former sink that is not allowed is not opened, which its finding says.
        selected = (
            address
            for one in prepared.environments
            for key in desired.get(one.name, ())
            for address in key.deliver
        )
        stored = dict.fromkeys(
            address
            for one in prepared.environments
            if isinstance(one.credential, StoredCredential)
            for address in one.credential.addresses
        )
        refusals = [*sinks.refusals(selected), *stores.refusals(stored)]
        if (refusal := combine_refusals(refusals)) is not None:
            raise refusal
        yield sinks, stores


def early_exit_code(
    signals: Signals, refusal: RefusedError | None, outcomes: Iterable[object]
) -> int | None:
    """Return the exit code of a run that a signal ended, or None.

    Args:
        signals: the signals that the run got.
        refusal: why a guard stopped the run; None if no guard did.
        outcomes: what became of each environment.

    Raises:
        Exception: the first bug that an environment met.
        RefusedError: the reason why a guard stopped the run.
    """
    for outcome in outcomes:
        if isinstance(outcome, Unobserved | Executed) and outcome.bug is not None:
            raise outcome.bug
    if signals.exit_code is None and refusal is not None:
        raise refusal
    return signals.exit_code


def _refuse_change(manifests: Manifests, rules: Restrictions) -> None:
    """Raise if manifests reach something new, before a credential is read."""
    if rules.against is None:
        return
    reason = (
        "its manifests have problems"  # a command that needs no manifest cannot compare them
        if manifests.problems
        else newly_reached(manifests.directory, rules.against, rules.environments)
    )
    if reason is not None:
        raise RefusedError(
            Code.CHANGE_UNREVIEWED,
            f"No credentials are used for this change, because {reason}.",
            # templates/provision.yml, copied into pipelines, reads the reason up to these words.
            remedy="Review it; then run without --against, or merge it.",
        )


def _refuse_hosts(declared: Iterable[DeclaredEnvironment], rules: Restrictions) -> None:
    """Raise if the run may not connect to a server, before a credential for it is read."""
    refusals = []
    for one in declared if rules.hosts else ():
        url = url_of(one, os.environ)
        if url is not None and not rules.allows_host(url):
            place = one.place_of("url")
            refusals.append(
                RefusedError(
                    Code.HOST_NOT_ALLOWED,
                    f"{one.name} ({place.file} line {place.line}) is on a host that --allow-host "
                    "does not allow.",
                    remedy="Correct `url`, or allow its host with --allow-host.",
                )
            )
    if (refusal := combine_refusals(refusals)) is not None:
        raise refusal


def _names(manifests: Manifests) -> list[str]:
    return [] if manifests.names is None else manifests.names.as_written()


def _unnamed(manifests: Manifests, otherwise: str) -> WrongUsageError:
    return WrongUsageError(
        Code.ENVIRONMENT_UNNAMED,
        "Several environments are declared.",
        remedy=f"Choose one with -e: {', '.join(_names(manifests))}. {otherwise}".rstrip(),
    )


def _selected(manifests: Manifests, selection: Selection) -> list[DeclaredEnvironment]:
    """Return the environments that `-e` names, or all."""
    wanted: set[str] = set()
    for name in selection.environments:
        found = () if manifests.names is None else manifests.names.matching(name)
        if not found:
            names = _names(manifests)
            hint = did_you_mean(name, names) or f"The declared environments are {', '.join(names)}."
            raise WrongUsageError(
                Code.ENVIRONMENT_UNKNOWN, f"There is no environment {name!r}.", remedy=hint
            )
        wanted.update(found)
    return [
        one
        for one in manifests.environments
        if (not wanted or one.name in wanted)
        and (selection.shard is None or selection.shard.contains(one.name))
    ]


def _resolve(
    manifests: Manifests, selected: list[DeclaredEnvironment], selection: Selection
) -> tuple[tuple[Environment, ...], tuple[Problem, ...]]:
    _refuse_hosts(selected, selection.restrictions)
    environments, problems = resolve(
        selected,
        os.environ,
        manifests.environments_root,
        manifests.desired,
        # With an executor, the workers resolve them.
        secrets=selection.executor is None,
    )
    if selection.parallel is not None:
        parallel = selection.parallel
        environments = tuple(
            replace(one, limits=replace(one.limits, parallel=parallel)) for one in environments
        )
    return environments, problems
