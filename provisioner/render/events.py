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
from provisioner.render.json import (
    action_identity,
    environment_error,
    plan_summary,
    refusal_document,
    result_outcome,
    result_summary,
)

if TYPE_CHECKING:
    from provisioner.execution import Event
    from provisioner.model.observed import Observation
    from provisioner.render.json import Document


def event_document(event: Event) -> Document:
    """Return an event as JSON; the caller adds its time and sequence number."""
    match event:
        case RunStarted():
            document: Document = {
                "event": "run_started",
                "command": event.command,
                "version": event.version,
                "environments": list(event.environments),
            }
        case EnvironmentObserved():
            document = {
                "event": "environment_observed",
                "environment": event.environment,
                **_observation_fields(event.outcome),
            }
        case PlanMade(plan=plan):
            document = {
                "event": "plan_made",
                "digest": plan.digest,
                "steps": plan.steps,
                "environments": [
                    {
                        "environment": part.environment,
                        "summary": plan_summary(part),
                        "error": environment_error(part),
                    }
                    for part in plan.environments
                ],
            }
        case ActionBegun():
            document = {
                "event": "action_begun",
                "environment": event.environment,
                **action_identity(event.action),
            }
        case StepsSettled():
            document = {
                "event": "steps_settled",
                "environment": event.environment,
                "steps": event.steps,
            }
        case ActionEnded(result=result):
            outcome = result_outcome(result)
            del outcome["record"]
            document = {
                "event": "action_ended",
                "environment": event.environment,
                **action_identity(result.action),
                **outcome,
                "made": created_by_this_run(result),
                "undelivered": undelivered(result),
                "made_elsewhere": isinstance(result, CreatedByAnotherRun),
            }
        case EnvironmentFinished(outcome=finished):
            document = {
                "event": "environment_finished",
                "environment": event.environment,
                "summary": result_summary(finished),
                "error": environment_error(finished),
            }
        case RunEnded():
            document = {
                "event": "run_ended",
                "exit_code": event.exit_code,
                "refusal": refusal_document(event.refusal),
            }
        case _:
            assert_never(event)
    return document


def _observation_fields(observed: Observation | Unobserved) -> Document:
    if isinstance(observed, Unobserved):
        return {
            "generation": None,
            "keys": None,
            "live": None,
            "requests": None,
            "error": environment_error(observed),
        }
    return {
        "generation": observed.generation,
        "keys": len(observed.keys),
        "live": sum(key.live(observed.server_time) for key in observed.keys),
        "requests": observed.requests,
        "error": None,
    }
