"""`provision schema`."""

from __future__ import annotations

import click

from provisioner.cli.completion_items import schema_names


@click.command()
@click.argument("name", required=False, shell_complete=schema_names)
def schema(name: str | None) -> None:
    """Print a JSON Schema (draft 2020-12), or the names of all.

    Names: environments and manifest, the files that you write; planfile, what `plan --out`
    writes; plan, result, problems, keys, doctor and report, what `--format json` prints; events, a
    line of `--events`; log, a line of `--log-format json`.
    """
    from provisioner import schemas  # noqa: PLC0415 - keeps --help fast

    if name is None:
        click.echo("\n".join(schemas.NAMES))
    elif name in schemas.NAMES:
        click.echo(schemas.text(name), nl=False)
    else:
        raise click.BadParameter(f"{name!r} is none of {', '.join(schemas.NAMES)}.")
