"""The options that commands share; each can also be set by a variable `PROVISION_<OPTION>`.

Each decorator collects a group of options into one value, so that a command takes a few values
and not a dozen flags.
"""

from __future__ import annotations

import os
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from provisioner.cli.command_help import CommonOption
from provisioner.cli.completion_items import directories, environment_names, key_names
from provisioner.model.restrictions import Restrictions, SinkRule

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.model.environment import SinkKind
    from provisioner.render.formats import OutputFormat

    Command = Callable[..., int]

REPORT_FORMATS = ("text", "json", "markdown", "github", "gitlab", "junit", "sarif")
"""The formats of `--report`: those of `provisioner.render.formats`."""

SINK_KINDS: tuple[SinkKind, ...] = (
    *("file", "command", "vault", "aws", "github", "gitlab", "kubernetes"),
)
"""The kinds of `--allow-sink`: those of `provisioner.model.environment.SinkKind`."""

_LOG_LEVELS = ("debug", "info", "warning", "error")

_common_option = partial(click.option, cls=CommonOption)


class OutputOptions(NamedTuple):
    """The format of a command's output on stdout and stderr.

    Attributes:
        format: the format of the data on stdout, one of those that the command offers.
        quiet: True to print only warnings and errors.
        color: `auto`, `always` or `never`.
        log_level: the lowest level of log messages on stderr.
        log_format: the format of the log, `text` or `json`.
    """

    format: str
    quiet: bool
    color: str
    log_level: str
    log_format: str


class OutputTargets(NamedTuple):
    """The outputs of a command other than stdout and stderr.

    Attributes:
        reports: the format and the file of each report.
        events: the file to write events to, or None.
        ci: True to write annotations, a summary and outputs for GitHub Actions.
    """

    reports: tuple[tuple[OutputFormat, str], ...]
    events: str | None
    ci: bool


class Selection(NamedTuple):
    """The manifests, environments and keys that a command works on.

    Attributes:
        manifests: the manifests directory.
        environments: the names of environments; empty for all.
        only: globs of key names; empty for all.
        parallel: overrides `limits.parallel` of every environment.
        restrictions: the restrictions that the command line puts on the run.
    """

    manifests: Path
    environments: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    parallel: int | None = None
    restrictions: Restrictions = Restrictions()


def _manifests_option(text: str) -> Callable[[Command], Command]:
    return _common_option(
        "-m",
        "--manifests",
        type=click.Path(path_type=Path),
        default=Path("manifests"),
        show_default=True,
        envvar="PROVISION_MANIFESTS",
        metavar="DIR",
        shell_complete=directories,
        help=text,
    )


manifests_option = _manifests_option("Read environments.yaml and manifests from this directory.")
new_manifests_option = _manifests_option("Write the files to this directory.")

one_environment_option = _common_option(
    "-e",
    "--environment",
    envvar="PROVISION_ENVIRONMENT",
    metavar="NAME",
    shell_complete=environment_names,
    help="Work on this environment; required if there are several.",
)


def add_plan_flags(command: Command) -> Command:
    """Add the options of `PlanOptions`; the command gets them, with --only, as `options`."""

    @wraps(command)
    def collect(
        *, only: tuple[str, ...], prune: bool, dedupe: bool, redeliver: bool, **others: object
    ) -> int:
        from provisioner.plan import PlanOptions

        options = PlanOptions(only=only, prune=prune, dedupe=dedupe, redeliver=redeliver)
        return command(options=options, only=only, **others)

    return _add_options(collect, *_PLAN_FLAGS)


def add_guard_options(command: Command) -> Command:
    """Add the options of `GuardOverrides`; the command gets them as its argument `overrides`."""

    @wraps(command)
    def collect(*, max_revoke: int | None, allow_protected: bool, **others: object) -> int:
        from provisioner.plan import GuardOverrides

        overrides = GuardOverrides(max_revoke=max_revoke, allow_protected=allow_protected)
        return command(overrides=overrides, **others)

    return _add_options(collect, *_GUARD_OPTIONS)


_PLAN_FLAGS = (
    click.option(
        "--prune",
        is_flag=True,
        envvar="PROVISION_PRUNE",
        help="Revoke owned keys that no manifest declares.",
    ),
    click.option(
        "--dedupe",
        is_flag=True,
        envvar="PROVISION_DEDUPE",
        help="Revoke duplicates of owned keys.",
    ),
    click.option(
        "--redeliver",
        is_flag=True,
        envvar="PROVISION_REDELIVER",
        help="Deliver a new token for every key to its sinks.",
    ),
)
_GUARD_OPTIONS = (
    click.option(
        "--max-revoke",
        type=click.IntRange(0),
        envvar="PROVISION_MAX_REVOKE",
        metavar="N",
        help="Allow up to N revocations in each environment, instead of guards.max_revoke.",
    ),
    click.option(
        "--allow-protected",
        is_flag=True,
        envvar="PROVISION_ALLOW_PROTECTED",
        help="Allow revoking keys that `protect: true` protects.",
    ),
)


def add_restrictions(command: Command) -> Command:
    """Add the options of `Restrictions`; the command gets them as its argument `restrictions`."""

    @wraps(command)
    def collect(
        *,
        environments_file: Path | None,
        against: Path | None,
        allow_host: tuple[str, ...],
        no_programs: bool,
        allow_sink: tuple[SinkRule, ...],
        **others: object,
    ) -> int:
        restrictions = Restrictions(
            environments=environments_file,
            against=against,
            hosts=allow_host,
            programs=not no_programs,
            sinks=allow_sink,
        )
        return command(restrictions=restrictions, **others)

    return _add_options(collect, *_RESTRICTIONS)


_Value = TypeVar("_Value")


def _require_value(context: click.Context, option: click.Parameter, value: _Value) -> _Value:
    """Return the value of a restriction; an empty value or variable is wrong usage."""
    variable = str(option.envvar)
    # Click ignores an empty variable, which would lift the restriction.
    source = context.get_parameter_source(str(option.name))
    if source is not ParameterSource.COMMANDLINE and not os.environ.get(variable, "set").strip():
        raise click.BadParameter(
            f"{variable} is empty. Set it, or unset it to run without this restriction.",
            context,
            option,
        )
    values = value if isinstance(value, tuple) else (value,)
    if any(isinstance(one, (str, Path)) and str(one).strip() in {"", "."} for one in values):
        raise click.BadParameter("A value is empty.", context, option)
    return value


def _sink_rules(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[SinkRule, ...]:
    """Parse the values of `--allow-sink`, each `KIND` or `KIND:GLOB`."""
    rules = []
    for text in _require_value(context, option, values):
        name, colon, glob = text.partition(":")
        kind = next((one for one in SINK_KINDS if one == name), None)
        if kind is None or (colon and not glob):
            raise click.BadParameter(
                f"{text!r} is not KIND or KIND:GLOB. Choose the kind from {', '.join(SINK_KINDS)}.",
                context,
                option,
            )
        rules.append(SinkRule(kind, glob or "*"))
    return tuple(rules)


environments_option = _common_option(
    "--environments",
    "environments_file",
    type=click.Path(path_type=Path),
    callback=_require_value,
    envvar="PROVISION_ENVIRONMENTS",
    metavar="FILE",
    help="Read this file instead of environments.yaml in the manifests directory.",
)

_RESTRICTIONS = (
    environments_option,
    _common_option(
        "--against",
        type=click.Path(path_type=Path),
        callback=_require_value,
        envvar="PROVISION_AGAINST",
        metavar="DIR",
        help="Refuse any environments.yaml, `deliver` or `check` that is not also in DIR.",
    ),
    _common_option(
        "--allow-host",
        multiple=True,
        callback=_require_value,
        envvar="PROVISION_ALLOW_HOST",
        metavar="GLOB",
        help="Connect only to hosts that match. Repeatable.",
    ),
    _common_option(
        "--allow-sink",
        multiple=True,
        callback=_sink_rules,
        envvar="PROVISION_ALLOW_SINK",
        metavar="KIND[:GLOB]",
        help="Use only sinks of this kind that match GLOB, if given. Repeatable.",
    ),
    _common_option(
        "--no-programs",
        is_flag=True,
        callback=_require_value,
        envvar="PROVISION_NO_PROGRAMS",
        help="Do not run programs named in manifests or in sink configurations.",
    ),
)


def add_selection(*, revokes: bool) -> Callable[[Command], Command]:
    """Add the options of `Selection`; the command gets them as its argument `selection`.

    Args:
        revokes: True if the command, or its plan file, can revoke keys. An empty `-e` or `--only`
            is wrong usage then: a pipeline that lost a value leaves its variable empty.
    """
    callback = _require_selection if revokes else None
    options = (
        manifests_option,
        _common_option(
            "-e",
            "--environment",
            multiple=True,
            callback=callback,
            envvar="PROVISION_ENVIRONMENT",
            metavar="NAME",
            shell_complete=environment_names,
            help="Work only on this environment. Repeatable.",
        ),
        _common_option(
            "--only",
            multiple=True,
            callback=callback,
            envvar="PROVISION_ONLY",
            metavar="GLOB",
            shell_complete=key_names,
            help="Work only on keys whose names match. Repeatable.",
        ),
        _common_option(
            "--parallel",
            type=click.IntRange(1, 100),
            envvar="PROVISION_PARALLEL",
            metavar="N",
            help="Send up to N simultaneous requests to each environment, instead of "
            "limits.parallel.",
        ),
    )

    def decorate(command: Command) -> Command:
        @wraps(command)
        def collect(
            manifests: Path,
            environment: tuple[str, ...],
            only: tuple[str, ...],
            parallel: int | None,
            restrictions: Restrictions,
            **others: object,
        ) -> int:
            selection = Selection(manifests, environment, only, parallel, restrictions)
            return command(selection=selection, **others)

        return _add_options(add_restrictions(collect), *options)

    return decorate


def _require_selection(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the values of an option that limits a run; an empty one is wrong usage."""
    variable = str(option.envvar)
    # Click ignores an empty variable, so the run would work on everything.
    if not values and not os.environ.get(variable, "set").strip():
        raise click.BadParameter(
            f"{variable} is empty. Set it, or unset it to work on all.", context, option
        )
    if not all(map(str.strip, values)):
        raise click.BadParameter(
            "A value is empty. Set it, or omit the option to work on all.", context, option
        )
    return values


def add_output_targets(*, events: bool) -> Callable[[Command], Command]:
    """Add the options of `OutputTargets`; the command gets them as `output_targets`.

    Args:
        events: True if the command has events to write.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def collect(
            *, report: tuple[tuple[OutputFormat, str], ...], no_ci: bool, **others: object
        ) -> int:
            file = others.pop("events", None)
            output_targets = OutputTargets(report, None if file is None else str(file), not no_ci)
            return command(output_targets=output_targets, **others)

        return _add_options(collect, *_OUTPUT_TARGETS[: 3 if events else 2])

    return decorate


def _reports(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Parse the values of `--report`, each `FORMAT=FILE`."""
    reports = []
    for text in values:
        format_, _, file = text.partition("=")
        if format_ not in REPORT_FORMATS or not file:
            known = ", ".join(REPORT_FORMATS)
            raise click.BadParameter(
                f"{text!r} is not FORMAT=FILE. Choose the format from {known}.", context, option
            )
        reports.append((format_, file))
    return tuple(reports)


_OUTPUT_TARGETS = (
    _common_option(
        "--report",
        multiple=True,
        callback=_reports,
        envvar="PROVISION_REPORT",
        metavar="FORMAT=FILE",
        help="Also write a report to a file. FORMAT is one of "
        f"{', '.join(REPORT_FORMATS)}. Repeatable.",
    ),
    _common_option(
        "--no-ci",
        is_flag=True,
        envvar="PROVISION_NO_CI",
        help="Do not write annotations, a summary or outputs for GitHub Actions.",
    ),
    _common_option(
        "--events",
        envvar="PROVISION_EVENTS",
        metavar="FILE",
        help="Write events to a file as they happen, one JSON object per line.",
    ),
)


def add_output_options(*formats: str) -> Callable[[Command], Command]:
    """Add the options of `OutputOptions`; the command gets them as its argument `output`.

    Args:
        formats: the choices of `--format`, the default first; empty for a command without it.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def collect(
            *, quiet: bool, color: str, log_level: str, log_format: str, **others: object
        ) -> int:
            format_ = str(others.pop("format_", "json"))
            output = OutputOptions(format_, quiet, color, log_level, log_format)
            return command(output=output, **others)

        return _add_options(
            collect, *(_format_options(formats) if formats else ()), *_OUTPUT_OPTIONS
        )

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
            help="Print results on stdout in this format.",
        ),
    )


_OUTPUT_OPTIONS = (
    _common_option(
        "-q",
        "--quiet",
        is_flag=True,
        envvar="PROVISION_QUIET",
        help="Print only warnings and errors.",
    ),
    _common_option(
        "--log-level",
        type=click.Choice(_LOG_LEVELS, case_sensitive=False),
        default="warning",
        show_default=True,
        envvar="PROVISION_LOG_LEVEL",
        help="Write log messages at this level and above to stderr.",
    ),
    _common_option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        envvar="PROVISION_LOG_FORMAT",
        help="Write the log to stderr in this format.",
    ),
    _common_option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        envvar="PROVISION_COLOR",
        help="Colour text output; auto respects NO_COLOR and FORCE_COLOR.",
    ),
)


def _add_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Return the command with these options, which --help shows in this order."""
    for option in reversed(options):
        command = option(command)
    return command
