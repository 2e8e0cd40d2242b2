"""The command `provision`: the only package that reads argv, prints or exits.

Modules of commands import only click at the top. Everything else is imported when a command
runs, so that `--help` is as fast as click itself.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from provisioner import __version__
from provisioner.cli.exit_codes import INTERRUPTED, USAGE
from provisioner.cli.group import CommandGroup

_MAX_EXPLAINED = 3
"""Codes that the last line on stderr names at most, so that it stays short."""


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="provision %(version)s")
def provision() -> None:
    """Manage the API keys of Twenty CRM workspaces with YAML manifests."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; never raises."""
    printed_codes: list[str] = []
    exit_code = _run(arguments, printed_codes)
    if printed_codes:
        from provisioner.cli.terminal import fit

        codes = " ".join([*dict.fromkeys(printed_codes)][:_MAX_EXPLAINED])
        hint = f'Run "provision explain {codes}" to learn more.'
        with suppress(OSError):  # the exit code says what failed even if stderr is gone
            click.echo(fit(hint, sys.stderr), err=True)
    _flush_streams()
    return exit_code


def _run(arguments: list[str] | None, printed_codes: list[str]) -> int:
    """Run a command, which adds the codes of errors that it prints as text on stderr."""
    try:
        code = provision.main(
            arguments, prog_name="provision", standalone_mode=False, obj=printed_codes
        )
    except click.ClickException as error:
        with suppress(OSError):  # as above
            error.show()
        return USAGE if isinstance(error, click.UsageError) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        with suppress(OSError):  # as above
            click.echo("interrupted", err=True)
        return INTERRUPTED
    except SystemExit:
        # Click exits like this when the reader of its output has gone (`| head`).
        return 0
    except Exception as error:  # noqa: BLE001 - reports every bug with a traceback
        from provisioner.cli.console import report_error

        return report_error(error, printed_codes)
    return code if isinstance(code, int) else 0


def _flush_streams() -> None:
    """Flush stdout and stderr; the interpreter would exit with 120 if it could not do that."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # None if it was closed before the program started
                stream.flush()
        except OSError:
            from provisioner.cli.output_file import discard_output

            discard_output(stream)
