"""The message after a run: by its schema, short, without markup, and only if there is news."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    DAY,
    NOW,
    create,
    environment_with,
    observation_with,
    observed_key,
    part_with,
    plan_with,
    revoke,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.audit.key_audit import AuditInput, audit
from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.execution import Done, Executed, Failed, RunResult, Skipped, Unfinished
from provisioner.plan import Expiring, Unmanaged, Unobserved
from provisioner.render.notification import (
    Notification,
    news_of,
    notification_document,
    slack_document,
)
from provisioner.secret import Secret

if TYPE_CHECKING:
    from provisioner.render.report import Outcome

pytestmark = pytest.mark.fast

FAILURE = Failure(Code.REJECTED, "The server said no.", "Ask it why.")
STOPPED = Failure(Code.STOPPED, "The run was stopped.")
DOWN = Unobserved("down", "https://down.example.com", Failure(Code.UNREACHABLE, "It is off."))
SCHEMA = Draft202012Validator(schemas.load("notification"))


def told(outcome: Outcome | None, **changes: Any) -> Notification:
    failure = changes.get("failure")
    fields: dict[str, Any] = {
        "command": "apply",
        "run": "0" * 32,
        "time": NOW,
        "exit_code": 0,
        "failure": None,
        "shard": None,
        "pipeline": None,
        "environments": news_of(outcome, failure),
    }
    return Notification(**(fields | changes))


def document(one: Notification) -> dict[str, Any]:
    found: Any = notification_document(one)
    SCHEMA.validate(found)
    return found


def text(one: Notification) -> str:
    return str(slack_document(one)["text"])


def result(*results: Any, **changes: Any) -> RunResult:
    part = part_with(*(one.action for one in results), **changes)
    return RunResult(NOW, "sha256:0", (Executed(part, results),))


def test_a_run_without_news_has_no_reason_to_tell() -> None:
    """An apply that changed nothing, a plan with changes and a report without due keys."""
    found = (Unmanaged("by-hand", ("id",)),)
    for outcome in (
        result(kept=("svc",), findings=found),
        plan_with(part_with(create("svc-a"))),
        audit(
            [AuditInput(environment_with(), (), observation_with(observed_key()), {})],
            NOW,
            timedelta(hours=1),
        ),
        None,
    ):
        assert told(outcome).reasons == ()
    assert told(plan_with(part_with(create("svc-a"))), exit_code=2).reasons == ()


def test_a_run_tells_what_changed_and_what_failed() -> None:
    """A key that exists counts as changed even if the rest of its action failed."""
    outcome = result(
        Done(create("svc-a"), "id-a", {"token": "of-a-record"}),
        Done(revoke("svc-old"), "id-old", None),
        Unfinished(create("svc-b"), "id-b", None, FAILURE),
        Failed(create("svc-c"), FAILURE),
        Skipped(create("svc-d"), STOPPED),
    )
    one = told(outcome, exit_code=4, pipeline="https://ci.example.com/run/1")
    (shop,) = document(one)["environments"]
    assert one.reasons == ("changed", "failed")
    assert shop["changed"] == {"count": 3, "names": ["svc-a", "svc-old", "svc-b"]}
    assert shop["failed"] == {"count": 3, "names": ["svc-b", "svc-c", "svc-d"]}
    assert (shop["counts"]["created"], shop["counts"]["revoked"]) == (2, 1)
    assert "of-a-record" not in str(document(one)) + text(one)
    assert text(one).splitlines() == [
        "*provision apply*: keys changed and something failed (exit code 4)",
        ("• shop: 3 changed (`svc-a`, `svc-old`, `svc-b`), 3 failed (`svc-b`, `svc-c`, `svc-d`)"),
        "<https://ci.example.com/run/1|The run in the pipeline>",
    ]


def test_a_refusal_is_told_once_and_not_for_every_key() -> None:
    """What was skipped because of it is only counted."""
    refusal = Failure(Code.PROTECTED, "'svc' is protected.")
    outcome = result(Skipped(revoke("svc"), refusal))
    one = told(outcome, exit_code=5, failure=refusal)
    assert (one.reasons, document(one)["environments"]) == (("failed",), [])
    assert document(one)["error"] == {"code": "protected", "message": "'svc' is protected."}
    assert "'svc' is protected." in text(one)


def test_keys_that_are_due_are_told_by_every_command() -> None:
    """A plan and a result tell keys that expire soon, a report also those that are missing."""
    expiring = (Expiring("svc-a", ("id",), "2026-11-30T00:00:00Z"),)
    for outcome in (plan_with(part_with(findings=expiring)), result(findings=expiring)):
        one = told(outcome)
        assert one.reasons == ("due",)
        assert document(one)["environments"][0]["due"] == {"count": 1, "names": ["svc-a"]}
    keys = observation_with(observed_key("svc", expires_at=NOW + DAY))
    found = audit([AuditInput(environment_with(), (), keys, {}), DOWN], NOW, 14 * DAY)
    one = told(found, command="report", exit_code=4)
    assert one.reasons == ("failed", "due")
    shop, down = document(one)["environments"]
    assert (shop["due"]["names"], shop["counts"]) == (["svc"], {"keys": 1, "due": 1, "missing": 0})
    assert down["error"]["code"] == "unreachable"
    assert "• down could not be read: It is off." in text(one)


def test_a_short_secret_in_an_error_is_masked() -> None:
    """A server may repeat a password that is too short to be masked in other data."""
    Secret("hunter2")
    failure = Failure(Code.REJECTED, "The server said hunter2.")
    for one in (
        told(None, exit_code=4, failure=failure),
        told(plan_with(Unobserved("down", "", failure)), exit_code=4),
    ):
        assert "hunter2" not in str(document(one)) + text(one)
        assert "The server said ***." in text(one)


def test_an_error_without_an_outcome_is_told() -> None:
    """A run that ended early failed, whatever the reason."""
    one = told(None, exit_code=1)
    assert (one.reasons, document(one)["error"]) == (("failed",), None)


def test_a_message_about_a_large_run_is_short() -> None:
    """Names and environments are cut off and counted, so that every receiver takes the message."""
    parts = [
        Executed(part, tuple(Done(action, "id", None) for action in part.actions))
        for number in range(300)
        for part in [
            part_with(
                *(create(f"svc-{n}-{'x' * 900}") for n in range(40)), environment=f"e{number}"
            )
        ]
    ]
    one = told(RunResult(NOW, "sha256:0", tuple(parts)))
    found = document(one)
    assert (len(found["environments"]), found["more_environments"]) == (50, 250)
    assert found["environments"][0]["changed"]["count"] == 40
    assert len(text(one)) < 20_000
    assert text(one).endswith("and 290 more environments")
    assert "and 35 more" in text(one)


@settings(max_examples=20)
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60))
def test_a_name_is_neither_markup_nor_a_mention(name: str) -> None:
    """Slack reads & < >, other chats read backquotes, and all of them @ before a name."""
    for hostile in (name, f"<!channel> @all `{name}` <https://evil.example|x>\n*b*"):
        one = told(result(Done(create(hostile), "id", None)))
        _head, line = text(one).splitlines()
        inside = line.removeprefix("• shop: 1 changed (`").removesuffix("`)")
        assert not set(inside) & set("<>`\n")
        assert "@" not in inside.replace("@\u200b", "")
        assert inside.count("&") == sum(map(inside.count, ("&amp;", "&lt;", "&gt;")))
