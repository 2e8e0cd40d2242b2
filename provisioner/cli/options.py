"""The options that commands share, each readable from `PROVISION_<OPTION>` too.

The decorators gather what was given into one value, so that a command takes what it works on
and how it speaks, not a dozen flags.
"""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., int]

_LEVELS = ("debug", "info", "warning", "error")


class Output(NamedTuple):
    """How a command speaks.

    Attributes:
        format: of the data on stdout, `text` or `json`.
        quiet: whether successes stay silent.
        color: `auto`, `always` or `never`.
        log_level: least level of the log on stderr.
        log_format: of that log, `text` or `json`.
    """

    format: str
    quiet: bool
    color: str
    log_level: str
    log_format: str


class Selection(NamedTuple):
    """What a reconciling command works on.

    Attributes:
        manifests: the manifests directory.
        environments: their names; none means all.
        only: globs of key names; none means all.
        parallel: overrides `limits.parallel` of every environment.
    """

    manifests: Path
    environments: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    parallel: int | None = None


manifests_option = click.option(
    "-m",
    "--manifests",
    type=click.Path(path_type=Path),
    default=Path("manifests"),
    show_default=True,
    envvar="PROVISION_MANIFESTS",
    metavar="DIR",
    help="Directory of environments.yaml and the manifests.",
)

redeliver_option = click.option(
    "--redeliver",
    is_flag=True,
    envvar="PROVISION_REDELIVER",
    help="Deliver new tokens of all keys with sinks, whatever those hold.",
)


def selection_options(command: Command) -> Command:
    """The options of `Selection`, gathered into the argument `selection`."""

    @wraps(command)
    def gathered(
        manifests: Path,
        environment: tuple[str, ...],
        only: tuple[str, ...],
        parallel: int | None,
        **others: object,
    ) -> int:
        selection = Selection(manifests, environment, only, parallel)
        return command(selection=selection, **others)

    options = (
        manifests_option,
        click.option(
            "-e",
            "--environment",
            multiple=True,
            envvar="PROVISION_ENVIRONMENT",
            metavar="NAME",
            help="Work on this environment alone; repeatable.",
        ),
        click.option(
            "--only",
            multiple=True,
            envvar="PROVISION_ONLY",
            metavar="GLOB",
            help="Work on keys whose names match alone; repeatable.",
        ),
        click.option(
            "--parallel",
            type=click.IntRange(1, 100),
            envvar="PROVISION_PARALLEL",
            metavar="N",
            help="Requests in flight in each environment, instead of limits.parallel.",
        ),
    )
    return _with(gathered, *options)


def output_options(*formats: str) -> Callable[[Command], Command]:
    """The options of `Output`, gathered into the argument `output`.

    Args:
        formats: what `--format` offers, the first by default; none for a command with but one.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def gathered(
            *, quiet: bool, color: str, log_level: str, log_format: str, **others: object
        ) -> int:
            format_ = str(others.pop("format_", "json"))
            output = Output(format_, quiet, color, log_level, log_format)
            return command(output=output, **others)

        return _with(gathered, *(_format_options(formats) if formats else ()), *_MANNERS)

    return decorate


def _format_options(formats: tuple[str, ...]) -> tuple[Callable[[Command], Command], ...]:
    return (
        click.option(
            "--format",
            "format_",
            type=click.Choice(formats),
            default=formats[0],
            show_default=True,
            envvar="PROVISION_FORMAT",
            help="Form of the data on stdout.",
        ),
    )


_MANNERS = (
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        envvar="PROVISION_QUIET",
        help="Say nothing of what went well.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(_LEVELS, case_sensitive=False),
        default="warning",
        show_default=True,
        envvar="PROVISION_LOG_LEVEL",
        help="Least level of the log on stderr.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        envvar="PROVISION_LOG_FORMAT",
        help="Form of the log on stderr.",
    ),
    click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        envvar="PROVISION_COLOR",
        help="When to colour text; NO_COLOR and FORCE_COLOR count too.",
    ),
)


def _with(command: Command, *options: Callable[[Command], Command]) -> Command:
    """The command with these options, shown by --help in this order."""
    for option in reversed(options):
        command = option(command)
    return command
