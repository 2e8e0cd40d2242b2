"""`provision apply`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.options import (
    add_guard_options,
    add_output_options,
    add_output_targets,
    add_plan_flags,
    add_selection,
)
from provisioner.cli.stoppable import stoppable
from provisioner.render.formats import formats_of

if TYPE_CHECKING:
    from provisioner.cli.options import (
        GuardOptions,
        OutputOptions,
        OutputTargets,
        PlanFlags,
        Selection,
    )
    from provisioner.cli.run import Prepared
    from provisioner.cli.signals import Signals
    from provisioner.plan import Plan
    from provisioner.reconcile.reconciler import Reconciler

_DIGEST = re.compile("sha256:[0-9a-f]{64}")


def _digest(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    del context, parameter
    # A pipeline step that lost the digest leaves the variable empty, which must not mean consent.
    value = os.environ.get("PROVISION_DIGEST") if value is None else value
    if value is not None and not _DIGEST.fullmatch(value):
        raise click.BadParameter("A digest is sha256: followed by 64 hexadecimal digits.")
    return value


@click.command(
    cls=DocumentedCommand,
    foreign_options=dict.fromkeys(("--dry-run", "--check", "--what-if"), "plan"),
)
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[PLANFILE]")
@option("--yes", "Do not ask for confirmation.")
@option(
    "--digest DIGEST",
    "Change nothing unless the plan has this digest, sha256:...",
    callback=_digest,
)
@add_plan_flags
@add_guard_options
@add_selection(revokes=True)
@add_output_options(*formats_of("result"))
@add_output_targets(events=True)
@stoppable
def apply(  # noqa: PLR0913, PLR0917 - one for each part of a command line
    file: Path | None,
    selection: Selection,
    output: OutputOptions,
    output_targets: OutputTargets,
    plan_flags: PlanFlags,
    guard_options: GuardOptions,
    *,
    signals: Signals,
    yes: bool,
    digest: str | None,
) -> int:
    """Create missing keys and deliver their tokens.

    Compare the keys in every environment with the manifests, create the missing ones, and
    deliver a token for each new key to its sinks. A sink that has lost its token gets a new
    one. On a terminal, apply shows the plan and asks before it changes a real workspace.
    Without a terminal it never asks.

    With PLANFILE, a file written by `provision plan --out`, apply does exactly what was
    reviewed. If the manifests or workspaces have changed since then, it changes nothing and
    exits with code 6.

    Examples:
        # Create what is missing in production, without confirmation:
        $ provision apply --environment production --yes

        # Carry out a reviewed plan, and nothing else:
        $ provision apply plan.json
    """
    from provisioner.cli import plan_file
    from provisioner.cli.execute import carry_out
    from provisioner.planfile import digest_mismatch

    saved = plan_file.saved_options(selection, plan_flags, guard_options)

    def plan_now(reconciler: Reconciler, prepared: Prepared) -> Plan:
        plan = reconciler.plan(
            prepared.manifests.desired, prepared.now, saved.plan_options, saved.guard_overrides
        )
        refusal = None if digest is None else digest_mismatch(digest, plan)
        if refusal is not None:
            reconciler.refuse(refusal)
        return plan

    if file is None:
        return carry_out(
            "apply", selection, output, output_targets, plan_now, signals=signals, yes=yes
        )
    plan_file.refuse_saved_options(click.get_current_context())
    reviewed = plan_file.PlanOnDisk(file, digest, saved)
    return carry_out(
        "apply",
        selection,
        output,
        output_targets,
        reviewed.plan,
        signals=signals,
        yes=yes,
        load=lambda: reviewed.prepare(selection),
        other_files=(file,),
    )
