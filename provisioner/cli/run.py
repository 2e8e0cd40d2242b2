"""How every reconciling command begins: manifests loaded, environments chosen and resolved."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import (
    InvalidInputError,
    RefusedError,
    WorkspaceError,
    WrongUsageError,
)
from provisioner.execution import ignore
from provisioner.manifests import Manifests, load, newly_reached, resolve, url_of
from provisioner.reconcile.connection import opener
from provisioner.reconcile.guards import together
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.file_descriptors import left, raise_limit, room_for
from provisioner.sinks.registry import SinkRegistry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor

    from provisioner.cli.options import Selection
    from provisioner.cli.signals import Signals
    from provisioner.errors.problem import Problem
    from provisioner.execution import Emit
    from provisioner.manifests import DeclaredEnvironment
    from provisioner.model.environment import Environment
    from provisioner.model.restrictions import Restrictions
    from provisioner.reconcile.reconciler import Connect
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink

_WIDTH = 16
"""Environments that are worked on at once."""

_EMBEDDED = 4
"""File descriptors of a request to the embedded Twenty: both ends of it, a database and its log."""

_FEW = 4
"""File descriptors without which an environment cannot be worked on at all: one file at a time."""

_BESIDE = 12
"""File descriptors of an environment beside its connections: of its sinks, one after the other."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a reconciling command works with.

    Attributes:
        selection: what it works on.
        now: the moment of the run, from which durations count.
    """

    selection: Selection
    manifests: Manifests
    environments: tuple[Environment, ...]
    now: datetime

    @property
    def names(self) -> frozenset[str]:
        """The names of the keys that manifests ask for in these environments."""
        desired = self.manifests.desired
        return frozenset(key.name for one in self.environments for key in desired.get(one.name, ()))


def prepare(selection: Selection, *, keys_matter: bool = True, one: bool = False) -> Prepared:
    """Loads and resolves; with problems nothing goes on and nothing is sent.

    Args:
        selection: what was asked for.
        keys_matter: False for commands that need no manifest but environments.yaml.
        one: whether it must be exactly one environment.

    Raises:
        InvalidInputError: when anything is wrong in manifests, variables or secret files.
        WrongUsageError: when an environment was asked for that is not declared, or when one
            must be asked for and was not.
        RefusedError: when the run may not speak to the server of one, or the manifests reach what
            those of `against` do not; no credential was read.
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
            names = ", ".join(declared.name for declared in manifests.environments)
            raise WrongUsageError(
                "environment_unnamed", "There are several environments.", remedy=f"-e: {names}."
            )
        environments, problems = _resolved(manifests, selection)
    if problems:
        raise InvalidInputError(problems, manifests.sources)
    return Prepared(selection, manifests, environments, datetime.now(UTC))


@contextmanager
def reconciler_of(
    prepared: Prepared, stop: Cancellation, emit: Emit = ignore
) -> Iterator[Reconciler]:
    """The fleet of the chosen environments, one unit of work each; `tell` is told what happens."""
    several = len(prepared.environments) > 1
    with (
        opened(prepared, stop, others_wait=several) as (connect, open_sink, executor),
        Reconciler(
            prepared.environments, connect, open_sink, executor, stop, emit=emit
        ) as reconciler,
    ):
        yield reconciler


@contextmanager
def opened(
    prepared: Prepared, stop: Cancellation, *, others_wait: bool = False
) -> Iterator[tuple[Connect, OpenSink, Executor]]:
    """What opens workspaces and sinks, and what has room for the units of work.

    What sinks left running, where a stop left them no more time, is ended afterwards.

    Args:
        prepared: the environments.
        stop: ends the run early.
        others_wait: whether the first write waits for the first look at every environment.

    Raises:
        RefusedError: when the run may not open a sink of these environments; none was opened.
        WorkspaceError: when too few descriptors are left for any environment.
    """
    rules = prepared.selection.restrictions
    root, desired = prepared.manifests.root, prepared.manifests.desired
    declared = (address for keys in desired.values() for key in keys for address in key.deliver)
    ours = (
        address
        for one in prepared.environments
        for key in desired.get(one.name, ())
        for address in key.deliver
    )
    with closing(SinkRegistry(root, os.environ, stop, declared, rules)) as sinks:
        if (refusal := together(list(sinks.refusals(ours)))) is not None:
            raise refusal
        raise_limit()
        needed = max(map(_descriptors, prepared.environments), default=1)
        if not left(needed):
            raise WorkspaceError(
                "unreachable",
                "This process may open too few files and connections: one environment needs "
                f"{needed}.",
                remedy="Raise that limit (`ulimit -n`), or lower `limits.parallel`.",
            )
        room = room_for(needed + _BESIDE)
        width = max(1, min(_WIDTH, len(prepared.environments), room))
        yield opener(root, stop, others_wait=others_wait), sinks.open, ThreadExecutor(width)


def _descriptors(environment: Environment) -> int:
    """Return how many file descriptors the work on one environment needs at most."""
    of_a_request = _EMBEDDED if environment.embedded else 1
    return environment.limits.parallel * of_a_request + _FEW


def ended_early(reconciler: Reconciler, signals: Signals) -> int | None:
    """The exit code of a run that a signal ended; None where that goes by what was found and done.

    Asked last and once: a thread of a run that was stopped may meet a bug until then.

    Raises:
        Exception: the bug that the run met.
        RefusedError: why the run must not go on.
    """
    internal_error = reconciler.internal_error
    if internal_error is None and signals.exit_code is not None:
        return signals.exit_code
    if (ending := internal_error or reconciler.refusal) is not None:
        raise ending
    return None


def _refuse_change(manifests: Manifests, rules: Restrictions) -> None:
    """Raise where manifests reach what those of `against` do not, before a credential is read."""
    if rules.against is None:
        return
    why = (
        "its manifests have problems"  # they are not compared, and this command needs none of them
        if manifests.problems
        else newly_reached(manifests.directory, rules.against, rules.environments)
    )
    if why is not None:
        raise RefusedError(
            "change_unreviewed",
            f"This change gets no credential, because {why}.",
            remedy="Review it; then run without --against, or merge it.",
        )


def _refuse_hosts(declared: Iterable[DeclaredEnvironment], rules: Restrictions) -> None:
    """Raise where the run may not speak to a server, before any credential for it is read."""
    found = []
    for one in declared if rules.hosts else ():
        url = url_of(one, os.environ)
        if url is not None and not rules.allows_host(url):
            found.append(
                RefusedError(
                    "host_not_allowed",
                    f"{one.name} ({one.url.place.file} line {one.url.place.line}) is on a host "
                    "that this run may not speak to.",
                    remedy="Correct `url`, or have the workflow allow its host with --allow-host.",
                )
            )
    if (refusal := together(found)) is not None:
        raise refusal


def _resolved(
    manifests: Manifests, selection: Selection
) -> tuple[tuple[Environment, ...], tuple[Problem, ...]]:
    names = [declared.name for declared in manifests.environments]
    for asked in selection.environments:
        if asked not in names:
            close = get_close_matches(asked, names, n=1)
            guess = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(names)}."
            raise WrongUsageError(
                "environment_unknown", f"There is no environment {asked!r}.", remedy=guess
            )
    chosen = [
        declared
        for declared in manifests.environments
        if not selection.environments or declared.name in selection.environments
    ]
    _refuse_hosts(chosen, selection.restrictions)
    environments, problems = resolve(
        chosen, os.environ, manifests.environments_root, manifests.desired
    )
    if selection.parallel is not None:
        parallel = selection.parallel
        environments = tuple(
            replace(one, limits=replace(one.limits, parallel=parallel)) for one in environments
        )
    return environments, problems
