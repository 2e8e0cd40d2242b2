"""The part that `apply`, `rotate` and `revoke` share: plan, confirm, execute and report."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from provisioner.cli.console import Console
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.outputs import open_outputs
from provisioner.cli.run import early_exit_code, prepare, reconciler_of
from provisioner.cli.show import (
    announce_revocations,
    confirm,
    environments_to_confirm,
    log_notes,
    show_result,
    warn_if_nothing_selected,
)
from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import did_you_mean
from provisioner.errors.exceptions import StalePlanError, WrongUsageError
from provisioner.errors.failure import Failure
from provisioner.plan import Planned, Revoke, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from provisioner.cli.options import OutputOptions, OutputTargets, Selection
    from provisioner.cli.run import Prepared
    from provisioner.cli.signals import Signals
    from provisioner.plan import Plan
    from provisioner.reconcile.reconciler import Reconciler


def carry_out(  # noqa: PLR0913 - one for each part of a command line
    command: str,
    selection: Selection,
    output: OutputOptions,
    output_targets: OutputTargets,
    make_plan: Callable[[Reconciler, Prepared], Plan],
    *,
    signals: Signals,
    yes: bool,
    selected_names: SelectedNames | None = None,
    load: Callable[[], Prepared] | None = None,
    other_files: tuple[Path, ...] = (),
) -> int:
    """Make a plan, ask for confirmation if needed, execute it, and return the exit code.

    Args:
        command: the name of the command.
        selection: the environments and keys to work on.
        output: the format of the output.
        output_targets: the other outputs.
        make_plan: makes the plan.
        signals: the signals that are caught during the run.
        yes: True to skip the confirmation.
        selected_names: the keys that the plan must be about; None for any.
        load: loads the manifests; None to load them as selected.
        other_files: files that the command itself reads.
    """
    console = Console(output)
    with (
        open_outputs(command, output_targets, console, signals, other_files=other_files) as outputs,
        ExitStack() as stack,
    ):
        with outputs.problems():
            prepared = prepare(selection) if load is None else load()
        if selected_names is not None:
            selected_names.require_declared(prepared.names)
        outputs.start(prepared.manifests.sources, prepared.environments)
        reconciler = stack.enter_context(reconciler_of(prepared, signals.stop, outputs.emit))
        plan = make_plan(reconciler, prepared)
        outputs.plan_made(plan)
        log_notes(plan)
        warn_if_nothing_selected(plan, prepared.selection)
        missing: tuple[str, ...] = ()
        if selected_names is not None and not signals.stop.requested:
            missing = selected_names.without_action(plan)
            for name in missing:
                message = selected_names.explain_missing(name, prepared.names)
                console.print_failure(Failure(Code.KEY_MISSING, message))
            nothing_to_do = missing == selected_names.names and not plan.incomplete
            if nothing_to_do and reconciler.refusal is None:
                outputs.report_outcome(plan, changes=plan.changes)
                return outputs.finish(INCOMPLETE)
        skip_question = reconciler.refusal is not None or yes or signals.stop.requested
        to_confirm = () if skip_question else environments_to_confirm(plan, prepared)
        if to_confirm:
            with signals.default_handling():
                confirmed = confirm(plan, to_confirm, console)
            if not confirmed:
                outputs.report_outcome(plan, changes=plan.changes)
                return outputs.finish(INCOMPLETE if plan.incomplete or missing else 0)
            confirmed_plan, plan = plan, make_plan(reconciler, prepared)
            outputs.plan_made(plan)
            _refuse_if_changed(confirmed_plan, plan, reconciler)
        if reconciler.refusal is None:
            announce_revocations(plan, console)
        with console.progress(plan.steps, "keys and tokens") as on_progress:
            result = reconciler.apply(plan, on_progress)
        with outputs.printing():
            show_result(result, console, reconciler.refusal)
        outputs.report_outcome(result, changes=plan.changes, refusal=reconciler.refusal)
        stack.close()
        code = early_exit_code(reconciler, signals)
        if code is not None:
            return outputs.finish(code)
        return outputs.finish(INCOMPLETE if result.incomplete or missing else 0)


def _refuse_if_changed(confirmed: Plan, now: Plan, reconciler: Reconciler) -> None:
    """Refuse a plan that differs from the one that was confirmed, perhaps hours earlier.

    An environment that can no longer be read does not count: nothing is done there.
    """
    readable = {part.environment for part in now.environments if isinstance(part, Planned)}
    digest_before, digest_now = (
        digest((part for part in plan.environments if part.environment in readable), {})
        for plan in (confirmed, now)
    )
    if digest_before != digest_now and reconciler.refusal is None:
        reconciler.refuse(
            StalePlanError(
                Code.PLAN_STALE,
                "The plan has changed since it was shown.",
                remedy="Run the command again and review the new plan.",
            )
        )


@dataclass(frozen=True, slots=True)
class SelectedNames:
    """The keys that a command line names.

    Attributes:
        names: the names, or also ids.
        kind: `declared` if a manifest must declare them, `live` if they must be live keys.
    """

    names: tuple[str, ...]
    kind: Literal["declared", "live"]

    def without_action(self, plan: Plan) -> tuple[str, ...]:
        """Return the names and ids that no action of the plan is about."""
        parts = [part for part in plan.environments if isinstance(part, Planned)]
        actions = [action for part in parts for action in part.actions]
        names = {action.name for action in actions}
        ids = {action.key_id.lower() for action in actions if isinstance(action, Revoke)}
        return tuple(name for name in self.names if name not in names and name.lower() not in ids)

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

    def explain_missing(self, name: str, declared: Collection[str]) -> str:
        """Return why no action is about a name, with a suggestion."""
        if name in declared and self.kind == "live":
            return f"{name!r} has no live key: there is nothing to revoke."
        if name in declared:
            return f"{name!r} has no live key: `provision apply` creates it."
        hint = _suggest(name, declared) or "`provision list` shows the live keys."
        return f"There is no live key {name!r}. {hint}"


def _suggest(name: str, declared: Collection[str]) -> str:
    """Return a suggestion for a name that does not exist, or an empty text."""
    if set(name) & set("*?["):
        return "Write exact names; this command does not expand globs."
    return did_you_mean(name, declared)
