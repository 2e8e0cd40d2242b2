"""The events of a run as JSON objects by `schemas/events.schema.json`, without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.execution import (
    ActionBegun,
    ActionEnded,
    CreatedByAnotherRun,
    EnvironmentFinished,
    EnvironmentObserved,
    PlanMade,
    RunEnded,
    RunStarted,
    StepsSettled,
    created_by_this_run,
    undelivered,
)
from provisioner.plan import Unobserved
from provisioner.render.json import failure_document
from provisioner.render.outcome.json import action_identity, environment_error, row_outcome
from provisioner.render.outcome.rows import describe_result, plan_summary, result_summary

if TYPE_CHECKING:
    from provisioner.execution import Event
    from provisioner.model.observed import Observation
    from provisioner.render.json import Document


def event_document(event: Event) -> Document:  # noqa: PLR0911 - one for each event
    """Return an event as JSON; the caller adds its time and sequence number."""
    match event:
        case RunStarted():
            return {
                "event": "run_started",
                "command": event.command,
                "version": event.version,
                "environments": list(event.environments),
            }
        case EnvironmentObserved():
            observed = _observed(event.outcome)
            return {"event": "environment_observed", "environment": event.environment} | observed
        case PlanMade(plan=plan):
            parts = [
                {
                    "environment": part.environment,
                    "summary": plan_summary(part),
                    "error": environment_error(part),
                }
                for part in plan.environments
            ]
            steps = {"digest": plan.digest, "steps": plan.steps}
            return {"event": "plan_made"} | steps | {"environments": parts}
        case ActionBegun():
            head = {"event": "action_begun", "environment": event.environment}
            return head | action_identity(event.action)
        case StepsSettled():
            head = {"event": "steps_settled", "environment": event.environment}
            return head | {"step": event.step, "steps": event.steps}
        case ActionEnded(result=result):
            outcome = row_outcome(describe_result(result))
            del outcome["record"]
            return {
                "event": "action_ended",
                "environment": event.environment,
                **action_identity(result.action),
                **outcome,
                "made": created_by_this_run(result),
                "undelivered": undelivered(result),
                "made_elsewhere": isinstance(result, CreatedByAnotherRun),
            }
        case EnvironmentFinished(outcome=finished):
            return {
                "event": "environment_finished",
                "environment": event.environment,
                "summary": result_summary(finished),
                "error": environment_error(finished),
            }
        case RunEnded():
            refusal = failure_document(event.refusal)
            return {"event": "run_ended", "exit_code": event.exit_code, "refusal": refusal}
        case _:
            assert_never(event)


def _observed(observed: Observation | Unobserved) -> Document:
    if isinstance(observed, Unobserved):
        unknown: Document = dict.fromkeys(("generation", "keys", "live", "requests"))
        return unknown | {"error": failure_document(observed.failure)}
    return {
        "generation": observed.generation,
        "keys": len(observed.keys),
        "live": sum(key.live(observed.server_time) for key in observed.keys),
        "requests": observed.requests,
        "error": None,
    }
