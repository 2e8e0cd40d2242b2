"""The options that commands share, each readable from `PROVISION_<OPTION>` too.

The decorators gather what was given into one value, so that a command takes what it works on
and how it speaks, not a dozen flags.
"""

from __future__ import annotations

import os
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from provisioner.cli.completion_items import directories, environment_names, key_names
from provisioner.model.restrictions import Restrictions, SinkRule

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.model.environment import SinkKind
    from provisioner.reconcile.guards import GuardOverrides
    from provisioner.render.formats import OutputFormat

    Command = Callable[..., int]

REPORT_FORMS = ("text", "json", "markdown", "github", "gitlab", "junit", "sarif")
"""The forms of `--report`: all that `provisioner.render.formats` knows."""

SINK_KINDS: tuple[SinkKind, ...] = (
    *("file", "command", "vault", "aws", "github", "gitlab", "kubernetes"),
)
"""The kinds of `--allow-sink`: all that `provisioner.model.desired.SinkKind` has."""

_LEVELS = ("debug", "info", "warning", "error")


class OutputOptions(NamedTuple):
    """How a command speaks.

    Attributes:
        format: of the data on stdout, one of those that the command offers.
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


class OutputTargets(NamedTuple):
    """Where else a command speaks.

    Attributes:
        reports: the form and the file of each report.
        events: the file of the events, None where nobody wants them.
        ci: whether the runner of a pipeline is told what it can show.
    """

    reports: tuple[tuple[OutputFormat, str], ...]
    events: str | None
    ci: bool


class Selection(NamedTuple):
    """What a reconciling command works on.

    Attributes:
        manifests: the manifests directory.
        environments: their names; none means all.
        only: globs of key names; none means all.
        parallel: overrides `limits.parallel` of every environment.
        restrictions: what the workflow lets the run do.
    """

    manifests: Path
    environments: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    parallel: int | None = None
    restrictions: Restrictions = Restrictions()


manifests_option = click.option(
    "-m",
    "--manifests",
    type=click.Path(path_type=Path),
    default=Path("manifests"),
    show_default=True,
    envvar="PROVISION_MANIFESTS",
    metavar="DIR",
    shell_complete=directories,
    help="Directory of environments.yaml and the manifests.",
)

one_environment_option = click.option(
    "-e",
    "--environment",
    envvar="PROVISION_ENVIRONMENT",
    metavar="NAME",
    shell_complete=environment_names,
    help="The environment; needless where there is but one.",
)


class PlanFlags(NamedTuple):
    """What a run may do beyond making what is missing.

    Attributes:
        prune: whether owned keys that no manifest wants are revoked.
        dedupe: whether surplus owned keys of a name are revoked.
        redeliver: whether new tokens of all keys with sinks are delivered.
    """

    prune: bool
    dedupe: bool
    redeliver: bool


class GuardOptions(NamedTuple):
    """What guards may let pass.

    Attributes:
        max_revoke: keys that may be revoked in each environment; None leaves it to the guards.
        allow_protected: whether what is protected may be revoked.
    """

    max_revoke: int | None
    allow_protected: bool

    def overrides(self) -> GuardOverrides:
        """The same for the guards."""
        from provisioner.reconcile.guards import GuardOverrides  # noqa: PLC0415 - keeps --help fast

        return GuardOverrides(max_revoke=self.max_revoke, allow_protected=self.allow_protected)


def add_plan_flags(command: Command) -> Command:
    """The options of `Reconciling`, gathered into the argument `reconciling`."""

    @wraps(command)
    def gathered(*, prune: bool, dedupe: bool, redeliver: bool, **others: object) -> int:
        return command(plan_flags=PlanFlags(prune, dedupe, redeliver), **others)

    return _with(gathered, _prune_option, _dedupe_option, _redeliver_option)


def add_guard_options(command: Command) -> Command:
    """The options of `Leaving`, gathered into the argument `leaving`."""

    @wraps(command)
    def gathered(*, max_revoke: int | None, allow_protected: bool, **others: object) -> int:
        return command(guard_options=GuardOptions(max_revoke, allow_protected), **others)

    return _with(gathered, *_guard_options)


_prune_option = click.option(
    "--prune",
    is_flag=True,
    envvar="PROVISION_PRUNE",
    help="Revoke owned keys that no manifest wants.",
)
_dedupe_option = click.option(
    "--dedupe",
    is_flag=True,
    envvar="PROVISION_DEDUPE",
    help="Revoke surplus owned keys of a name.",
)
_guard_options = (
    click.option(
        "--max-revoke",
        type=click.IntRange(0),
        envvar="PROVISION_MAX_REVOKE",
        metavar="N",
        help="Keys that may be revoked in each environment, instead of guards.max_revoke.",
    ),
    click.option(
        "--allow-protected",
        is_flag=True,
        envvar="PROVISION_ALLOW_PROTECTED",
        help="Revoke even what is protected.",
    ),
)
_redeliver_option = click.option(
    "--redeliver",
    is_flag=True,
    envvar="PROVISION_REDELIVER",
    help="Deliver new tokens of all keys with sinks, whatever those hold.",
)


def add_restrictions(command: Command) -> Command:
    """The options of `Restrictions`, gathered into the argument `restrictions`."""

    @wraps(command)
    def gathered(
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

    return _with(gathered, *_RESTRICTIONS)


_Given = TypeVar("_Given")


def _not_lost(context: click.Context, option: click.Parameter, given: _Given) -> _Given:
    """The value of an option that keeps a run within bounds, where its variable is not empty."""
    variable = str(option.envvar)
    # Click takes an empty variable for none, and so would the run be free of its bounds.
    source = context.get_parameter_source(str(option.name))
    if source is not ParameterSource.COMMANDLINE and not os.environ.get(variable, "set").strip():
        raise click.BadParameter(
            f"{variable} is empty: give it a value, or unset it to run without.", context, option
        )
    values = given if isinstance(given, tuple) else (given,)
    if any(isinstance(one, (str, Path)) and str(one).strip() in {"", "."} for one in values):
        raise click.BadParameter("A value is empty: give one.", context, option)
    return given


def _sink_rules(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> tuple[SinkRule, ...]:
    """Rules of `KIND[:GLOB]`."""
    rules = []
    for text in _not_lost(context, option, given):
        word, colon, glob = text.partition(":")
        kind = next((one for one in SINK_KINDS if one == word), None)
        if kind is None or (colon and not glob):
            known = ", ".join(SINK_KINDS)
            raise click.BadParameter(
                f"{text!r} is not KIND or KIND:GLOB with one of {known}.", context, option
            )
        rules.append(SinkRule(kind, glob or "*"))
    return tuple(rules)


environments_option = click.option(
    "--environments",
    "environments_file",
    type=click.Path(path_type=Path),
    callback=_not_lost,
    envvar="PROVISION_ENVIRONMENTS",
    metavar="FILE",
    help="Read this file in place of the environments.yaml of the manifests.",
)

_RESTRICTIONS = (
    environments_option,
    click.option(
        "--against",
        type=click.Path(path_type=Path),
        callback=_not_lost,
        envvar="PROVISION_AGAINST",
        metavar="DIR",
        help="Refuse an environments.yaml, `deliver` or `check` that the manifests of DIR lack.",
    ),
    click.option(
        "--allow-host",
        multiple=True,
        callback=_not_lost,
        envvar="PROVISION_ALLOW_HOST",
        metavar="GLOB",
        help="Speak to servers whose hosts match, and no other; repeatable.",
    ),
    click.option(
        "--allow-sink",
        multiple=True,
        callback=_sink_rules,
        envvar="PROVISION_ALLOW_SINK",
        metavar="KIND[:GLOB]",
        help="Open sinks of this kind that match, and no other; repeatable.",
    ),
    click.option(
        "--no-programs",
        is_flag=True,
        callback=_not_lost,
        envvar="PROVISION_NO_PROGRAMS",
        help="Run no program that manifests or sinks name.",
    ),
)


def add_selection(*, revokes: bool) -> Callable[[Command], Command]:
    """The options of `Selection`, gathered into the argument `selection`.

    Args:
        revokes: whether the command, or its plan file, may end keys: what bounds it is not empty
            then, because a step of a pipeline that gave no value leaves its variable empty.
    """
    bound = _not_empty if revokes else None
    options = (
        manifests_option,
        click.option(
            "-e",
            "--environment",
            multiple=True,
            callback=bound,
            envvar="PROVISION_ENVIRONMENT",
            metavar="NAME",
            shell_complete=environment_names,
            help="Work on this environment alone; repeatable.",
        ),
        click.option(
            "--only",
            multiple=True,
            callback=bound,
            envvar="PROVISION_ONLY",
            metavar="GLOB",
            shell_complete=key_names,
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

    def decorate(command: Command) -> Command:
        @wraps(command)
        def gathered(
            manifests: Path,
            environment: tuple[str, ...],
            only: tuple[str, ...],
            parallel: int | None,
            restrictions: Restrictions,
            **others: object,
        ) -> int:
            selection = Selection(manifests, environment, only, parallel, restrictions)
            return command(selection=selection, **others)

        return _with(add_restrictions(gathered), *options)

    return decorate


def _not_empty(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    """The values of an option that bounds a run, none of them empty, nor its variable."""
    variable = str(option.envvar)
    # Click takes an empty variable for none, and so would the run work on everything.
    if not given and not os.environ.get(variable, "set").strip():
        raise click.BadParameter(
            f"{variable} is empty: give it a value, or unset it to work on all.", context, option
        )
    if not all(map(str.strip, given)):
        raise click.BadParameter(
            "A value is empty: give one, or leave the option out to work on all.", context, option
        )
    return given


def add_output_targets(*, events: bool) -> Callable[[Command], Command]:
    """The options of `Telling`, gathered into the argument `telling`.

    Args:
        events: whether the command has any to tell of.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def gathered(
            *, report: tuple[tuple[OutputFormat, str], ...], no_ci: bool, **others: object
        ) -> int:
            file = others.pop("events", None)
            output_targets = OutputTargets(report, None if file is None else str(file), not no_ci)
            return command(output_targets=output_targets, **others)

        return _with(gathered, *_OUTPUT_TARGETS[: 3 if events else 2])

    return decorate


def _report(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Forms and files of `FORMAT=FILE`."""
    asked = []
    for text in given:
        form, _, file = text.partition("=")
        if form not in REPORT_FORMS or not file:
            known = ", ".join(REPORT_FORMS)
            raise click.BadParameter(
                f"{text!r} is not FORMAT=FILE with one of {known}.", context, option
            )
        asked.append((form, file))
    return tuple(asked)


_OUTPUT_TARGETS = (
    click.option(
        "--report",
        multiple=True,
        callback=_report,
        envvar="PROVISION_REPORT",
        metavar="FORMAT=FILE",
        help=f"Write a report to a file too; repeatable. FORMAT: {', '.join(REPORT_FORMS)}.",
    ),
    click.option(
        "--no-ci",
        is_flag=True,
        envvar="PROVISION_NO_CI",
        help="Tell the runner of GitHub Actions nothing.",
    ),
    click.option(
        "--events",
        envvar="PROVISION_EVENTS",
        metavar="FILE",
        help="Write what happens to a file, one JSON object a line.",
    ),
)


def add_output_options(*formats: str) -> Callable[[Command], Command]:
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
            output = OutputOptions(format_, quiet, color, log_level, log_format)
            return command(output=output, **others)

        return _with(gathered, *(_format_options(formats) if formats else ()), *_OUTPUT_OPTIONS)

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


_OUTPUT_OPTIONS = (
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
