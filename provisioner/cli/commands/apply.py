"""`provision apply`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli import options
from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.signals import Signals, stoppable

if TYPE_CHECKING:
    from provisioner.cli.execute import Job
    from provisioner.plan import GuardOverrides, PlanOptions

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
@options.add_plan_flags
@options.unmanaged_option
@options.add_run_options
@stoppable
def apply(  # noqa: PLR0913, PLR0917 - one for each part of a command line
    file: Path | None,
    selection: options.Selection,
    output: options.OutputOptions,
    output_targets: options.OutputTargets,
    options: PlanOptions,
    overrides: GuardOverrides,
    *,
    signals: Signals,
    yes: bool,
    digest: str | None,
) -> int:
    """Create missing keys and deliver their tokens.

    Compare the keys in every environment with the manifests, create the missing ones, and
    deliver a token for each new key to its sinks. A sink that has lost its token gets a new
    token. On a terminal, apply shows the plan and asks for confirmation before it changes a
    real workspace. Without a terminal, it never asks.

    With PLANFILE, a file written by `provision plan --out`, apply does exactly what was
    reviewed. If the manifests or workspaces have changed since then, it changes nothing and
    exits with code 6.

    Examples:
        # Create what is missing in production, without confirmation:
        $ provision apply --environment production --yes

        # Carry out a reviewed plan, and nothing else:
        $ provision apply plan.json
    """
    from provisioner.cli import execute, plan_file
    from provisioner.cli.run import prepare

    context = click.get_current_context()

    def load() -> Job:
        if file is not None:
            return plan_file.load_job(file, digest, selection, context)
        return execute.Job.now(prepare(selection), options, overrides, digest=digest)

    return execute.carry_out(
        "apply",
        load,
        output,
        output_targets,
        signals=signals,
        yes=yes,
        other_files=() if file is None else (file,),
    )
