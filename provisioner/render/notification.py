"""The message after a run: a JSON document for programs, and a text as Slack takes it.

Both hold names and counts, never a record or a token, and are short however large the run was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.audit.key_audit import EnvironmentAudit
from provisioner.errors.pluralize import pluralize
from provisioner.execution import (
    CreatedByAnotherRun,
    Done,
    Executed,
    Failed,
    Skipped,
    Unfinished,
    created_by_this_run,
)
from provisioner.model.expiry import format_timestamp
from provisioner.plan import Planned, Unobserved
from provisioner.render.outcome.rows import finding_kind, plan_summary, result_summary
from provisioner.render.text import visible
from provisioner.secret import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from provisioner.errors.codes import Code
    from provisioner.errors.failure import Failure
    from provisioner.execution import Result
    from provisioner.model.shard import Shard
    from provisioner.render.json import Document
    from provisioner.render.report import Outcome

Reason = Literal["changed", "failed", "due"]
"""A reason to tell: something changed, something failed, or a key is due or missing."""

_SUCCESSES = (0, 2)
"""Exit codes of a run that did what it was asked to do."""

_MAX_ENVIRONMENTS = 50
_MAX_NAMES = 20
_MAX_ENVIRONMENTS_OF_TEXT = 10
_MAX_NAMES_OF_TEXT = 5
_MAX_CHARACTERS = 120
"""Characters of a name, and of a failure, in the text."""

_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "'", "@": "@\u200b"})
"""Slack reads three characters as markup; other chats read backquotes, and @all as a mention."""


@dataclass(frozen=True, slots=True)
class EnvironmentNews:
    """What there is to tell about one environment.

    Attributes:
        failure: why it could not be read.
        counts: the counts of its summary, by name.
        changed: the names of the keys that this run changed.
        failed: those whose action failed, was skipped or is blocked.
        due: those that expire soon or are due for rotation, and declared names without a key.
    """

    environment: str
    failure: Failure | None
    counts: Mapping[str, int]
    changed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    due: tuple[str, ...] = ()

    @property
    def reasons(self) -> frozenset[Reason]:
        """Return the reasons to tell of it; empty if there are none."""
        holds: dict[Reason, bool] = {
            "changed": bool(self.changed),
            "failed": self.failure is not None or bool(self.failed),
            "due": bool(self.due),
        }
        return frozenset(reason for reason, it_does in holds.items() if it_does)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """The message about one run.

    Attributes:
        command: the name of the command.
        run: the id of the run, as in its log and its events.
        time: when it ended.
        exit_code: its exit code.
        failure: why the whole run was refused or ended early.
        shard: the shard of the environments that it worked on.
        pipeline: the URL of the pipeline's own page on this run.
        environments: those with something to report.
    """

    command: str
    run: str
    time: datetime
    exit_code: int
    failure: Failure | None
    shard: Shard | None
    pipeline: str | None
    environments: tuple[EnvironmentNews, ...]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Return the reasons to tell, in the order of `Reason`; empty if nobody has to know."""
        found = frozenset[Reason]().union(*(one.reasons for one in self.environments))
        if self.failure is not None or self.exit_code not in _SUCCESSES:
            found |= {"failed"}
        every: tuple[Reason, ...] = ("changed", "failed", "due")
        return tuple(reason for reason in every if reason in found)


def news_of(outcome: Outcome | None, failure: Failure | None) -> tuple[EnvironmentNews, ...]:
    """Return what there is to tell about the environments of an outcome.

    Args:
        outcome: of the command; None if it ended before there was one.
        failure: why the whole run was refused; what was skipped for it is not told again.
    """
    if outcome is None:
        return ()
    code = None if failure is None else failure.code
    news = (_news(one, code) for one in outcome.environments)
    return tuple(one for one in news if one.reasons)


def _news(
    one: Planned | Executed | EnvironmentAudit | Unobserved, known: Code | None
) -> EnvironmentNews:
    match one:
        case Unobserved():
            return EnvironmentNews(one.environment, one.failure, {})
        case Planned():
            blocked = (action.name for action in one.actions if action.blocked is not None)
            return EnvironmentNews(
                one.environment, None, plan_summary(one), (), _unique(blocked), _expiring(one)
            )
        case Executed():
            failed = (result for result in one.results if _failed(result, known))
            return EnvironmentNews(
                one.planned.environment,
                None,
                result_summary(one),
                _unique(result.action.name for result in one.results if _changed(result)),
                _unique(result.action.name for result in failed),
                _expiring(one.planned),
            )
        case EnvironmentAudit():
            counts = {"keys": len(one.keys), "due": one.due, "missing": len(one.missing)}
            due = _unique((*(key.name for key in one.keys if key.due), *one.missing))
            return EnvironmentNews(one.environment, None, counts, due=due)
        case _:
            assert_never(one)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _expiring(planned: Planned) -> tuple[str, ...]:
    return _unique(one.name for one in planned.findings if finding_kind(one) == "expiring")


def _changed(result: Result) -> bool:
    return isinstance(result, Done) or created_by_this_run(result)


def _failed(result: Result, known: Code | None) -> bool:
    match result:
        case Done() | CreatedByAnotherRun():
            return False
        case Skipped(failure=failure):
            return failure.code != known
        case Unfinished() | Failed():
            return True
        case _:
            assert_never(result)


# JSON


def notification_document(told: Notification) -> Document:
    """Return the document `provision/notification/v1`."""
    shown = told.environments[:_MAX_ENVIRONMENTS]
    return {
        "format": "provision/notification/v1",
        "command": told.command,
        "run": told.run,
        "time": format_timestamp(told.time),
        "exit_code": told.exit_code,
        "reasons": list(told.reasons),
        "error": _error(told.failure),
        "shard": None if told.shard is None else str(told.shard),
        "pipeline": told.pipeline,
        "environments": list(map(_environment, shown)),
        "more_environments": len(told.environments) - len(shown),
    }


def _environment(one: EnvironmentNews) -> Document:
    return {
        "environment": one.environment,
        "error": _error(one.failure),
        "counts": dict(one.counts),
        "changed": _names(one.changed),
        "failed": _names(one.failed),
        "due": _names(one.due),
    }


def _error(failure: Failure | None) -> Document | None:
    """Return a failure, whose text is masked as on stderr, because a server may have sent it."""
    if failure is None:
        return None
    return {"code": failure.code, "message": masked(failure.text)}


def _names(names: tuple[str, ...]) -> Document:
    return {"count": len(names), "names": list(names[:_MAX_NAMES])}


# Text


def slack_document(told: Notification) -> Document:
    """Return the JSON that an incoming webhook of Slack takes."""
    return {"text": _text(told)}


def _text(told: Notification) -> str:
    reasons = " and ".join(_HEADS[reason] for reason in told.reasons)
    shard = "" if told.shard is None else f", shard {told.shard}"
    lines = [f"*provision {told.command}*: {reasons} (exit code {told.exit_code}{shard})"]
    if told.failure is not None:
        lines.append(_plain(masked(told.failure.text)))
    lines += map(_line, told.environments[:_MAX_ENVIRONMENTS_OF_TEXT])
    if (more := len(told.environments) - _MAX_ENVIRONMENTS_OF_TEXT) > 0:
        lines.append(f"and {pluralize(more, 'more environment')}")
    if told.pipeline is not None:
        lines.append(f"<{told.pipeline}|The run in the pipeline>")
    return "\n".join(lines)


_HEADS: Mapping[Reason, str] = {
    "changed": "keys changed",
    "failed": "something failed",
    "due": "keys are due",
}


def _line(one: EnvironmentNews) -> str:
    if one.failure is not None:
        return f"• {one.environment} could not be read: {_plain(masked(one.failure.text))}"
    counted = {"changed": one.changed, "failed": one.failed, "due": one.due}
    parts = [f"{len(names)} {word} ({_listed(names)})" for word, names in counted.items() if names]
    return f"• {one.environment}: {', '.join(parts)}"


def _listed(names: tuple[str, ...]) -> str:
    shown = [f"`{_plain(name)}`" for name in names[:_MAX_NAMES_OF_TEXT]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _plain(text: str) -> str:
    """Return text without markup and mentions, and not too long."""
    text = visible(text)
    short = text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"
    return short.translate(_SLACK)
