"""`provision export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import OutputOptions, Selection, add_output, add_selection
from provisioner.cli.signals import Signals, stoppable
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError, WrongUsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.cli.console import Console
    from provisioner.operations.export import ExportedManifest

_PATH = click.Path(path_type=Path)


@click.command(cls=DocumentedCommand)
@option("--unmanaged", "Write only keys that no manifest declares yet.")
@option(
    "--to FILE",
    "Write to this file, which must not exist yet, instead of stdout.",
    name="file",
    type=_PATH,
)
@option(
    "--to-dir DIR",
    "Write one manifest for each environment to this directory, as NAME.yaml.",
    name="folder",
    type=_PATH,
)
@add_selection(revokes=False)
@add_output()
@stoppable
def export(  # noqa: PLR0913 - its own options
    selection: Selection,
    file: Path | None,
    folder: Path | None,
    output: OutputOptions,
    signals: Signals,
    *,
    unmanaged: bool,
) -> int:
    """Write manifests for keys that already exist.

    Use this to adopt existing keys: a plan made with this manifest changes nothing. Only
    environments.yaml is needed, except for --unmanaged. Comments at the top propose `owns` and
    `ignore` for the environment, and name each key that a manifest cannot declare.

    Examples:
        # Write a manifest for the keys in production:
        $ provision export --environment production --to manifests/production.yaml

        # Write one for each environment, with the keys that no manifest declares:
        $ provision export --unmanaged --to-dir manifests/adopted
    """
    from provisioner.cli.console import Console
    from provisioner.cli.run import early_exit_code, prepare, reconciler_of
    from provisioner.cli.watch import watching
    from provisioner.errors.pluralize import pluralize
    from provisioner.operations.export import ExportOptions
    from provisioner.operations.export import export as export_keys
    from provisioner.plan import Unobserved
    from provisioner.reconcile.guards import guard_workspaces
    from provisioner.render.text import visible

    console = Console(output)
    target = _Target(selection.manifests, None if str(file) == "-" else file, folder)
    target.check()
    prepared = prepare(
        selection,
        keys_matter=unmanaged,
        one=folder is None,
        otherwise="To export several, use --to-dir.",
    )
    files = {one.name: target.new_file(one.name) for one in prepared.environments}
    with (
        watching(console, prepared.environments) as watch,
        reconciler_of(prepared, signals.stop, watch, watch) as reconciler,
    ):
        observed = reconciler.observe()
    code = early_exit_code(signals, guard_workspaces(observed), observed)
    failed = [one for one in observed if isinstance(one, Unobserved)]
    for unobserved in failed:
        environment = None if folder is None else unobserved.environment
        console.print_failure(unobserved.failure, environment)
    options = ExportOptions(selection.only, unmanaged)
    exported = {
        one.environment.name: export_keys(
            one.environment,
            one.observation,
            prepared.manifests.desired.get(one.environment.name, ()),
            options,
            schemas=target.schemas(files[one.environment.name]),
        )
        for one in observed
        if not isinstance(one, Unobserved)
    }
    for name, manifest in exported.items():
        _require_fit(manifest, name)
        _report_omissions(console, name, manifest)
    if exported and not failed and not any(one.keys for one in exported.values()):
        raise _nothing_to_write(exported)
    for name, manifest in exported.items():
        path = files[name]
        if path is None:
            console.print_text(manifest.text)
        elif manifest.keys:
            _write_new(path, manifest.text)
            if not output.quiet:
                keys = pluralize(manifest.keys, "key")
                console.print_text(f"wrote {visible(path.as_posix())}: {keys}\n")
    return code or (INCOMPLETE if failed else 0)


class _Target(NamedTuple):
    """The place that the manifests are written to.

    Attributes:
        manifests: the manifests directory.
        file: the file of the only manifest; None for stdout, or with a folder.
        folder: the folder of a file for each environment; None for one manifest.
    """

    manifests: Path
    file: Path | None
    folder: Path | None

    def check(self) -> None:
        """Raise if the options contradict each other, or what they write would not be read."""
        from provisioner.manifests import ENVIRONMENTS_FOLDER

        if self.file is not None and self.folder is not None:
            raise click.UsageError("Use either --to or --to-dir.")
        folder = self.folder if self.file is None else self.file.parent
        environments = self.manifests / ENVIRONMENTS_FOLDER
        if folder is not None and _normal(folder) == _normal(environments):
            raise click.UsageError(
                f"{environments.as_posix()} is for environments files. Choose another directory."
            )

    def new_file(self, environment: str) -> Path | None:
        """Return the file of an environment, which must not exist; None for stdout."""
        file = self.file if self.folder is None else self.folder / f"{environment}.yaml"
        if file is not None and os.path.lexists(file):
            raise _exists(file)
        return file

    def schemas(self, file: Path | None) -> str:
        """Return the folder of the schemas, as a manifest in this file refers to it."""
        from provisioner.cli.starter_files import schema_address

        inside = file is not None and _normal(file).is_relative_to(_normal(self.manifests))
        folder = file.parent if file is not None and inside else self.manifests
        return schema_address(self.manifests, folder)


def _normal(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - `..` must go too


def _report_omissions(console: Console, environment: str, manifest: ExportedManifest) -> None:
    """Say on stderr how many live keys are left out, and why if no manifest says it."""
    import logging

    from provisioner.errors.pluralize import pluralize
    from provisioner.runtime.log_context import extra

    if not manifest.keys:
        console.print_stderr("".join(manifest.comments))
    if manifest.left_out:
        place = "the manifest says why" if manifest.keys else "see above"
        logging.getLogger("provisioner").warning(
            "%s: %s left out; %s",
            environment,
            pluralize(manifest.left_out, "live key"),
            place,
            extra=extra(environment=environment),
        )


def _nothing_to_write(exported: Mapping[str, ExportedManifest]) -> WorkspaceError:
    """Return the error of an export without a key in any environment."""
    subject = f"{next(iter(exported))} has no" if len(exported) == 1 else "No environment has a"
    return WorkspaceError(
        Code.KEY_MISSING,
        f"{subject} selected live key that a manifest can declare.",
        remedy="If several live keys share a name, declare the name by hand and use "
        "`provision apply --dedupe`, which keeps one of them. If a rotation is in "
        "progress, wait for it to finish."
        if any(one.left_out for one in exported.values())
        else "Check --only and --unmanaged, or use `provision list` to see the keys.",
    )


def _require_fit(exported: ExportedManifest, environment: str) -> None:
    """Raise if the exported keys are too many for one manifest."""
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
            remedy="Use --to or --to-dir with a path that you can write to.",
        ) from None


def _exists(file: Path) -> WrongUsageError:
    return WrongUsageError(
        Code.FILE_EXISTS,
        f"{file.as_posix()} already exists, and export never overwrites a file.",
        remedy="Choose another path with --to or --to-dir.",
    )
