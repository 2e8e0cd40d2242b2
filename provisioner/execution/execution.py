"""One environment's plan carried out: keys are made, then tokens are delivered, then reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.execution.creation import Creation
from provisioner.execution.delivery import Delivery, Parcel
from provisioner.execution.result import Done, Executed, Failed, MadeElsewhere, Skipped, Unfinished
from provisioner.failure import Failure
from provisioner.plan import Create, Deliver
from provisioner.stop import STOPPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.execution.mark import Mark
    from provisioner.execution.result import Result
    from provisioner.plan import Action, Planned
    from provisioner.sinks.sink import OpenSink
    from provisioner.stop import Stop
    from provisioner.twenty.workspace import Workspace


class Execution:
    """The actions of one environment on their way; what became of them can be asked at any time.

    Args:
        planned: the environment's plan.
        before: the ids of all keys that the workspace held when it was planned.
        workspace: where to carry it out.
        open_sink: opens the sinks of the actions.
        parallel: deliveries at once.
        mark: of this run.
        stop: once it is asked for, no create and no delivery begins.
        settled: called with the number of steps whose outcome has become known; a plan's `steps`
            are all of them.
    """

    def __init__(  # noqa: PLR0913 - what a run knows of one environment
        self,
        planned: Planned,
        before: frozenset[str],
        workspace: Workspace,
        open_sink: OpenSink,
        *,
        parallel: int,
        mark: Mark,
        stop: Stop,
        settled: Callable[[int], None],
    ) -> None:
        self._planned = planned
        creates = [one for one in planned.unblocked if isinstance(one, Create)]
        self._creation = Creation(
            planned.environment,
            creates,
            before,
            workspace,
            mark=mark,
            stop=stop,
            settled=settled,
        )
        self._delivery = Delivery(workspace, open_sink, parallel, stop, settled)

    def run(self) -> None:
        """Makes every key exactly once, and delivers its token and those that sinks lack."""
        self._creation.run()
        parcels = [
            Parcel(one.action.name, one.id, one.ends, one.action.sinks)
            for one in self._creation.made()
            if one.action.sinks
        ]
        parcels += [
            Parcel(one.name, one.key_id, one.expires_at, one.sinks)
            for one in self._planned.unblocked
            if isinstance(one, Deliver)
        ]
        self._delivery.run(parcels)

    def result(self, otherwise: Failure | None = None) -> Executed:
        """What is known now of every action.

        Args:
            otherwise: the failure of actions that are still open, where a bug ended the run.
        """
        made = iter(self._creation.results(otherwise))

        def known(action: Action) -> Result:
            if action.blocked is not None:
                return Failed(action, action.blocked)
            match action:
                case Create():
                    return self._delivered(next(made), otherwise)
                case Deliver():
                    return self._redelivered(action, otherwise)
                case _:
                    assert_never(action)

        return Executed(self._planned, tuple(map(known, self._planned.actions)))

    def _delivered(self, result: Result, otherwise: Failure | None) -> Result:
        """What became of a create, its delivery included."""
        if not isinstance(result, Done | MadeElsewhere) or not isinstance(result.action, Create):
            return result
        if not result.action.sinks or self._delivery.delivered(result.action.name):
            return result
        why = self._delivery.failure(result.action.name, otherwise) or _NOT_BEGUN
        return Unfinished(result.action, result.id, result.record, why)

    def _redelivered(self, action: Deliver, otherwise: Failure | None) -> Result:
        if self._delivery.delivered(action.name):
            return Done(action, action.key_id, None)
        why = self._delivery.failure(action.name, otherwise)
        return Skipped(action, STOPPED) if why is None else Failed(action, why)


_NOT_BEGUN = Failure(
    "stopped",
    "The key is made, and the run was told to stop before its token was delivered. The next run "
    "delivers it.",
)
