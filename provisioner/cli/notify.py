"""Tells the targets of `notify` after a run, if there is something to tell."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, assert_never

from provisioner.cli.exit_codes import INTERRUPTED, TERMINATED
from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.manifests import resolve_targets
from provisioner.model.notify import HttpTarget, NotifyTarget, ProgramTarget, UnusableTarget
from provisioner.runtime.log_context import extra
from provisioner.secret import masked_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.cli.run import Prepared
    from provisioner.model.restrictions import Restrictions
    from provisioner.operations.notify import Notifier
    from provisioner.render.report import Outcome
    from provisioner.runtime.cancellation import Cancellation

_LOG = logging.getLogger("provisioner")

_LINK = re.compile(r"https?://[^\s<>|]+")


@dataclass(frozen=True, slots=True)
class AfterRun:
    """Who is told about the run of a command.

    Attributes:
        command: the name of the command.
        run_id: the id of the run.
        prepared: the loaded manifests, which name the targets.
        stop: ends every wait soon.
    """

    command: str
    run_id: str
    prepared: Prepared
    stop: Cancellation

    def check(self) -> None:
        """Warn of each target that could not be told."""
        if targets := self._targets():
            _warn(self._notifier().check(targets))

    def tell(self, outcome: Outcome | None, exit_code: int, failure: Failure | None) -> None:
        """Tell the targets if something changed, failed or is due; a failure is a warning.

        Args:
            outcome: of the command; None if it ended before there was one.
            exit_code: the exit code of the command.
            failure: why the whole run was refused or ended early.
        """
        targets = self._targets()
        if not targets or (outcome is None and exit_code in (INTERRUPTED, TERMINATED)):
            return
        from provisioner.render.notification import (
            Notification,
            news_of,
            notification_document,
            slack_document,
        )

        told = Notification(
            command=self.command,
            run=self.run_id,
            time=datetime.now(UTC),
            exit_code=exit_code,
            failure=failure,
            shard=self.prepared.selection.shard,
            pipeline=_pipeline(os.environ),
            environments=news_of(outcome, failure),
        )
        if told.reasons:
            documents = map(masked_document, (notification_document(told), slack_document(told)))
            _warn(self._notifier().tell(targets, *documents))

    def _targets(self) -> tuple[NotifyTarget, ...]:
        """Return the targets; those that the restrictions of the run exclude cannot be used."""
        rules = self.prepared.selection.restrictions
        targets = resolve_targets(self.prepared.manifests.notify, os.environ)
        return tuple(_restricted(one, rules) for one in targets)

    def _notifier(self) -> Notifier:
        from provisioner.operations.notify import Notifier

        return Notifier(self.prepared.manifests.environments_root, self.stop)


def _warn(failures: Iterable[Failure]) -> None:
    for failure in failures:
        _LOG.warning("%s: %s", failure.code, failure.text, extra=extra(code=failure.code))


def _restricted(target: NotifyTarget, rules: Restrictions) -> NotifyTarget:
    match target:
        case HttpTarget(url=url) if not rules.allows_host(url.reveal()):
            option = "--allow-host"
        case ProgramTarget() if not rules.programs:
            option = "--no-programs"
        case HttpTarget() | ProgramTarget() | UnusableTarget():
            return target
        case _:
            assert_never(target)
    message = f"{target} was not told: {option} does not allow it."
    return UnusableTarget(Failure(Code.NOT_NOTIFIED, message))


def _pipeline(environ: Mapping[str, str]) -> str | None:
    """Return the URL of this job, if GitHub or GitLab runs it."""
    url = environ.get("CI_JOB_URL", "")
    if environ.get("GITHUB_ACTIONS") == "true":
        names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
        server, repository, run = (environ.get(name, "") for name in names)
        url = f"{server}/{repository}/actions/runs/{run}" if server and repository and run else ""
    return url if _LINK.fullmatch(url) else None
