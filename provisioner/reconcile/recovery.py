"""What remains of a plan whose execution was lost, and its results; no I/O.

A worker that dies in the middle of an execution is a killed run: what it did shows only in the
workspace and the sinks. So its environment is observed and planned again; what is no longer in the
plan was done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.execution import Executed
from provisioner.execution.results import Done, Failed, Skipped, Unfinished
from provisioner.model.observed import by_name
from provisioner.plan import Clean, Create, Deliver, Rename, Revoke, Rotate, Update

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.execution.results import Result
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.plan import Action, Planned


def may_replace(planned: Planned, again: Planned) -> bool:
    """Return whether a new plan only does what is left of a lost one.

    A rotation is not repeated: the new plan may not know the successor that the lost one created.
    """
    allowed = {_identity(action) for action in planned.unblocked}
    allowed |= {(Deliver, one.name) for one in planned.unblocked if isinstance(one, Create)}
    return not any(isinstance(one, Rotate) for one in planned.unblocked) and all(
        _identity(action) in allowed for action in again.unblocked
    )


def recovered(planned: Planned, again: Executed, observation: Observation) -> Executed:
    """Return the results of a lost plan, from those of the plan that replaced it.

    Args:
        planned: the lost plan.
        again: the results of the new one.
        observation: the observation that the new one is based on.
    """
    results = {_identity(one.action): one for one in again.results}
    live = by_name(key for key in observation.keys if key.live(observation.server_time))
    return Executed(
        planned,
        tuple(
            results.get(_identity(action))
            or _done_before(action, results.get((Deliver, action.name)), live.get(action.name, []))
            for action in planned.actions
        ),
        again.bug,
        again.upcoming,
    )


def all_failed(planned: Planned, failure: Failure) -> Executed:
    """Return the results of a plan of which nothing is known to be done."""
    return Executed.of(planned, (Failed(one, one.blocked or failure) for one in planned.actions))


def _done_before(action: Action, delivery: Result | None, live: list[ObservedKey]) -> Result:
    """Return the result of an action that the new plan does not repeat."""
    if action.blocked is not None:
        return Failed(action, action.blocked)
    match action:
        case Create() if isinstance(delivery, Failed | Skipped):
            assert isinstance(delivery.action, Deliver)  # noqa: S101 - as it was looked up
            return Unfinished(action, delivery.action.key_id, None, delivery.failure)
        case Create():
            return Done(action, live[-1].id, None)
        case Update() | Rename() | Deliver() | Revoke() | Clean():
            return Done(action, action.key_id, None)
        case Rotate():
            raise AssertionError("rotations are not recovered")
        case _:
            assert_never(action)


def _identity(action: Action) -> tuple[type[Action], str]:
    if isinstance(action, Clean):
        return Clean, str(action.sink)
    return type(action), action.key_id if isinstance(action, Rename | Revoke) else action.name
