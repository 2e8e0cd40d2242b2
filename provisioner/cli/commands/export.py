"""`provision export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.completion_items import key_names
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import OutputOptions, Selection, add_one_environment, add_output
from provisioner.cli.signals import Signals, stoppable
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError, WrongUsageError

if TYPE_CHECKING:
    from provisioner.operations.export import ExportedManifest


@click.command(cls=DocumentedCommand)
@option(
    "--only GLOB",
    "Write only keys whose names match. Repeatable.",
    multiple=True,
    shell_complete=key_names,
)
@option(
    "--to FILE",
    "Write to this file, which must not exist yet, instead of stdout.",
    name="file",
    type=click.Path(path_type=Path),
)
@add_one_environment
@add_output()
@stoppable
def export(selection: Selection, file: Path | None, output: OutputOptions, signals: Signals) -> int:
    """Write a manifest for the keys in a workspace.

    Use this to adopt existing keys: a plan made with this manifest changes nothing. Only
    environments.yaml is needed. Keys that a manifest cannot declare are left out, and a
    comment names each of them.

    Examples:
        # Write a manifest for the keys in production:
        $ provision export --environment production --to manifests/production.yaml

        # Print a manifest for some of them:
        $ provision export --environment production --only 'svc-*'
    """
    import logging

    from provisioner.cli.console import Console
    from provisioner.cli.run import early_exit_code, prepare, reconciler_of
    from provisioner.cli.watch import watching
    from provisioner.errors.pluralize import pluralize
    from provisioner.operations.export import export as export_keys
    from provisioner.plan import Unobserved
    from provisioner.reconcile.guards import guard_workspaces
    from provisioner.render.text import visible
    from provisioner.runtime.log_context import extra

    console = Console(output)
    if str(file) == "-":
        file = None
    if file is not None and os.path.lexists(file):
        raise _exists(file)
    prepared = prepare(selection, keys_matter=False, one=True)
    with (
        watching(console, prepared.environments) as watch,
        reconciler_of(prepared, signals.stop, watch, watch) as reconciler,
    ):
        (observed,) = reconciler.observe()
    if isinstance(observed, Unobserved):
        code = early_exit_code(signals, guard_workspaces([observed]), [observed])
        console.print_failure(observed.failure)
        return code or INCOMPLETE
    source, _, observation = observed
    exported = export_keys(source.name, observation, selection.only)
    if not exported.keys:
        console.print_stderr("".join(exported.comments))
    _require_manifest(exported, source.name)
    if exported.left_out:
        logging.getLogger("provisioner").warning(
            "%s: %s left out; the manifest says why",
            source.name,
            pluralize(exported.left_out, "live key"),
            extra=extra(environment=source.name),
        )
    if file is None:
        console.print_text(exported.text)
    else:
        _write_new(file, exported.text)
        if not output.quiet:
            console.print_text(
                f"wrote {visible(file.as_posix())}: {pluralize(exported.keys, 'key')}\n"
            )
    return signals.exit_code or 0


def _require_manifest(exported: ExportedManifest, environment: str) -> None:
    """Raise if the exported keys are not one manifest: there are none, or too many."""
    if not exported.keys:
        raise WorkspaceError(
            Code.KEY_MISSING,
            f"{environment} has no selected live key that a manifest can declare.",
            remedy="Check --only, or use `provision list` to see the keys."
            if not exported.left_out
            else "If several live keys share a name, declare the name by hand and use "
            "`provision apply --dedupe`, which keeps one of them. If a rotation is in "
            "progress, wait for it to finish.",
        )
    if not exported.fits:
        raise WrongUsageError(
            Code.FILE_TOO_LARGE,
            f"The {exported.keys} keys in {environment} do not fit in one manifest.",
            remedy="Use --only to write several manifests, each with some of the keys.",
        )


def _write_new(file: Path, text: str) -> None:
    """Write a new file atomically, which only the current user can read."""
    from provisioner.runtime.atomic_write import write_atomically

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomically(file, text.encode(), replace=False, secret=False)
        except FileExistsError:
            raise _exists(file) from None
    except OSError as error:
        raise WrongUsageError(
            Code.NOT_WRITABLE,
            f"{file.as_posix()} cannot be written: {error.strerror}.",
            remedy="Use --to with a file that you can write to.",
        ) from None


def _exists(file: Path) -> WrongUsageError:
    return WrongUsageError(
        Code.FILE_EXISTS,
        f"{file.as_posix()} already exists, and export never overwrites a file.",
        remedy="Choose another file with --to.",
    )
