"""The part that `apply`, `rotate` and `revoke` share: plan, confirm, execute and report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from provisioner.cli.console import Console
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.notify import AfterRun
from provisioner.cli.outputs import open_outputs
from provisioner.cli.run import early_exit_code, pipeline_of
from provisioner.cli.show import (
    announce_revocations,
    confirm,
    environments_to_confirm,
    log_notes,
    show_result,
)
from provisioner.cli.watch import watching
from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import did_you_mean
from provisioner.errors.exceptions import StalePlanError, WrongUsageError
from provisioner.errors.failure import Failure
from provisioner.execution import PlanMade
from provisioner.plan import Planned, Revoke, digest
from provisioner.planfile.compare import digest_mismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from provisioner.cli.options import OutputOptions, OutputTargets
    from provisioner.cli.run import Prepared
    from provisioner.cli.signals import Signals
    from provisioner.cli.watch import Watch
    from provisioner.errors.exceptions import RefusedError
    from provisioner.plan import GuardOverrides, Plan, PlanOptions
    from provisioner.reconcile.proposal import Pipeline, PlanRequest, Proposal


class Job(NamedTuple):
    """The plan that a command asks for, and its own condition for carrying it out.

    Attributes:
        prepared: the loaded manifests and the environments.
        request: the request for the plan.
        objection: returns why a proposal is not the plan that was asked for; None if it is.
    """

    prepared: Prepared
    request: PlanRequest
    objection: Callable[[Proposal], RefusedError | None]

    @classmethod
    def now(
        cls,
        prepared: Prepared,
        options: PlanOptions,
        overrides: GuardOverrides,
        digest: str | None = None,
    ) -> Job:
        """Return the job to carry out the plan as of now, if it has the digest."""
        return cls(
            prepared,
            prepared.request(options, overrides),
            lambda proposal: None if digest is None else digest_mismatch(digest, proposal.plan),
        )

    def propose(self, pipeline: Pipeline) -> Proposal:
        """Return the proposal, refused if there is an objection."""
        proposal = pipeline.propose(self.request)
        objection = self.objection(proposal)
        return proposal if objection is None else proposal._replace(refusal=objection)


def carry_out(  # noqa: PLR0913 - one for each part of a command line
    command: str,
    load: Callable[[], Job],
    output: OutputOptions,
    output_targets: OutputTargets,
    *,
    signals: Signals,
    yes: bool,
    selected_names: SelectedNames | None = None,
    other_files: tuple[Path, ...] = (),
) -> int:
    """Make a plan, ask for confirmation if needed, execute it, and return the exit code.

    Args:
        command: the name of the command.
        load: loads the manifests, and whatever else the job depends on.
        output: the format of the output.
        output_targets: the other outputs.
        signals: the signals that are caught during the run.
        yes: True to skip the confirmation.
        selected_names: the keys that the plan must be about; None for any.
        other_files: files that the command itself reads.
    """
    console = Console(output)
    with open_outputs(
        command, output_targets, console, signals, other_files=other_files
    ) as outputs:
        with outputs.problems():
            job = load()
        prepared = job.prepared
        if selected_names is not None:
            selected_names.require_declared(prepared.names)
        shard = prepared.shard_label(job.request)
        outputs.start(prepared.manifests.sources, prepared.environments, shard)
        after_run = AfterRun(command, console.run_id, prepared, signals.stop)
        outputs.notify_with(after_run, wanted=output_targets.notify)
        with (
            watching(console, prepared.environments) as watch,
            pipeline_of(prepared, signals.stop, outputs.emit, watch) as pipeline,
        ):
            outputs.listen(watch)
            proposal = job.propose(pipeline)
            plan = proposal.plan
            outputs.emit(PlanMade(plan))
            log_notes(plan, prepared.selection)
            missing: tuple[str, ...] = ()
            # A shard may have none of the keys, which others have.
            if selected_names is not None and shard is None and not signals.stop.requested:
                missing = selected_names.report_missing(plan, prepared.names, console)
            agreed: Proposal | None = proposal
            if proposal.refusal is None:
                if selected_names and missing == selected_names.names and not plan.incomplete:
                    agreed = None  # nothing to do
                elif not (yes or signals.stop.requested):
                    agreed = _agree(job, proposal, pipeline, console, signals, watch)
            if agreed is None:
                outputs.report_outcome(plan, changes=plan.changes)
                return outputs.finish(INCOMPLETE if plan.incomplete or missing else 0)
            if agreed is not proposal:
                outputs.emit(PlanMade(agreed.plan))
            plan, refusal = agreed.plan, agreed.refusal
            if refusal is None:
                announce_revocations(plan, console)
            result = pipeline.execute(agreed)
            console.area.hide()
            with outputs.printing():
                show_result(result, console, refusal, shard)
            outputs.report_outcome(result, changes=plan.changes, refusal=refusal)
        code = early_exit_code(signals, refusal, result.environments)
        if code is not None:
            return outputs.finish(code)
        return outputs.finish(INCOMPLETE if result.incomplete or missing else 0)


def _agree(  # noqa: PLR0913, PLR0917 - all that a question depends on
    job: Job,
    proposal: Proposal,
    pipeline: Pipeline,
    console: Console,
    signals: Signals,
    watch: Watch,
) -> Proposal | None:
    """Ask for confirmation if needed, and return the proposal as of now; None if it is declined.

    The answer may come hours later, so the plan is made again and refused if it has changed. An
    environment that can no longer be read does not count: nothing is done there.
    """
    to_confirm = environments_to_confirm(proposal.plan, job.prepared)
    if not to_confirm:
        return proposal
    with watch.hidden(), signals.default_handling():
        if not confirm(proposal.plan, to_confirm, console):
            return None
    now = job.propose(pipeline)
    readable = {part.environment for part in now.plan.environments if isinstance(part, Planned)}
    digest_before, digest_now = (
        digest((part for part in plan.environments if part.environment in readable), {})
        for plan in (proposal.plan, now.plan)
    )
    if digest_before == digest_now or now.refusal is not None:
        return now
    stale = StalePlanError(
        Code.PLAN_STALE,
        "The plan has changed since it was shown.",
        remedy="Run the command again and review the new plan.",
    )
    return now._replace(refusal=stale)


@dataclass(frozen=True, slots=True)
class SelectedNames:
    """The keys that a command line names.

    Attributes:
        names: the names, or also ids.
        kind: `declared` if a manifest must declare them, `live` if they must be live keys.
    """

    names: tuple[str, ...]
    kind: Literal["declared", "live"]

    def report_missing(
        self, plan: Plan, declared: Collection[str], console: Console
    ) -> tuple[str, ...]:
        """Print and return the names and ids that no action of the plan is about."""
        parts = [part for part in plan.environments if isinstance(part, Planned)]
        actions = [action for part in parts for action in part.actions]
        found = {action.name for action in actions}
        ids = {action.key_id.lower() for action in actions if isinstance(action, Revoke)}
        missing = tuple(one for one in self.names if one not in found and one.lower() not in ids)
        for name in missing:
            if name in declared and self.kind == "live":
                message = f"{name!r} has no live key: there is nothing to revoke."
            elif name in declared:
                message = f"{name!r} has no live key: `provision apply` creates it."
            else:
                hint = _suggest(name, declared) or "`provision list` shows the live keys."
                message = f"There is no live key {name!r}. {hint}"
            console.print_failure(Failure(Code.KEY_MISSING, message))
        return missing

    def require_declared(self, declared: Collection[str]) -> None:
        """Raise if a name must be declared and is not, so that no part of a list is done.

        Raises:
            WrongUsageError: with a suggestion.
        """
        unknown = tuple(name for name in self.names if name not in declared)
        if self.kind == "live" or not unknown:
            return
        hints = tuple(dict.fromkeys(filter(None, (_suggest(one, declared) for one in unknown))))
        raise WrongUsageError(
            Code.KEY_MISSING,
            f"No manifest declares {' or '.join(map(repr, unknown))} in the selected environments.",
            remedy=" ".join(hints) or "Check the names, -m and -e.",
        )


def _suggest(name: str, declared: Collection[str]) -> str:
    """Return a suggestion for a name that does not exist, or an empty text."""
    if set(name) & set("*?["):
        return "Write exact names; this command does not expand globs."
    return did_you_mean(name, declared)
