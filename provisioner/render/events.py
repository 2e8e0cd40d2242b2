"""An event of a run as JSON, one line by `schemas/events.schema.json`; no secret is in any."""

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
    action_head,
    environment_error,
    plan_summary,
    refusal_document,
    result_ending,
    result_summary,
)

if TYPE_CHECKING:
    from provisioner.execution import Event
    from provisioner.model.observed import Observation
    from provisioner.render.json import Document


def event_document(event: Event) -> Document:
    """What happened, without its time and number in the run."""
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
                **_seen(event.outcome),
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
                **action_head(event.action),
            }
        case StepsSettled():
            document = {
                "event": "steps_settled",
                "environment": event.environment,
                "steps": event.steps,
            }
        case ActionEnded(result=result):
            ending = result_ending(result)
            del ending["record"]
            document = {
                "event": "action_ended",
                "environment": event.environment,
                **action_head(result.action),
                **ending,
                "made": created_by_this_run(result),
                "undelivered": undelivered(result),
                "made_elsewhere": isinstance(result, CreatedByAnotherRun),
            }
        case EnvironmentFinished(outcome=outcome):
            document = {
                "event": "environment_finished",
                "environment": event.environment,
                "summary": result_summary(outcome),
                "error": environment_error(outcome),
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


def _seen(seen: Observation | Unobserved) -> Document:
    if isinstance(seen, Unobserved):
        return {
            "generation": None,
            "keys": None,
            "live": None,
            "requests": None,
            "error": environment_error(seen),
        }
    return {
        "generation": seen.generation,
        "keys": len(seen.keys),
        "live": sum(key.live(seen.server_time) for key in seen.keys),
        "requests": seen.requests,
        "error": None,
    }
