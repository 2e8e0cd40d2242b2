"""The options that commands share; each can also be set by a variable `PROVISION_<OPTION>`.

A command takes a few values and not a dozen flags: it names them as its parameters, and each value
is made of the options that it consists of.
"""

from __future__ import annotations

import os
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from provisioner.cli.command_help import CommonOption, option
from provisioner.cli.completion_items import directories, environment_names, key_names
from provisioner.cli.shards import shard_option
from provisioner.model.restrictions import Restrictions, SinkRule
from provisioner.render.formats import formats_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.cli.command_help import Command, Decorator
    from provisioner.model.shard import Shard
    from provisioner.plan import GuardOverrides, PlanOptions


_Value = TypeVar("_Value")

REPORT_FORMATS = formats_of("problems")
"""The formats of `--report`, which any command can write if its manifests have problems."""

_PATH = click.Path(path_type=Path)


common_option = partial(option, cls=CommonOption)


def _add(*options: Decorator) -> Decorator:
    """Return a decorator that adds these options, which --help shows in this order."""

    def decorate(command: Command) -> Command:
        for one in reversed(options):
            command = one(command)
        return command

    return decorate


def _not_empty(consequence: str) -> Callable[[click.Context, click.Parameter, _Value], _Value]:
    """Return a callback that refuses an empty value or variable of an option that limits a run.

    A pipeline that lost a value leaves its variable empty; click ignores an empty variable.

    Args:
        consequence: the words for what a run without the option does.
    """

    def check(context: click.Context, option: click.Parameter, value: _Value) -> _Value:
        variable = str(option.envvar)
        typed = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if not typed and not os.environ.get(variable, "set").strip():
            message = f"{variable} is empty. Set it, or unset it to {consequence}."
            raise click.BadParameter(message)
        for one in value if isinstance(value, tuple) else (value,):
            if one == Path() or (isinstance(one, str) and not one.strip()):
                message = f"A value is empty. Set it, or omit the option to {consequence}."
                raise click.BadParameter(message)
        return value

    return check


# The manifests, the environments and the keys


class Selection(NamedTuple):
    """The manifests, environments and keys that a command works on.

    Attributes:
        manifests: the manifests directory.
        environments: the names of environments; empty for all.
        only: globs of key names; empty for all.
        parallel: overrides `limits.parallel` of every environment.
        width: environments to work on at once; None to find out how many get more done.
        restrictions: the restrictions that the command line puts on the run.
        shard: the shard of these environments that the command works on; None for all.
        previous: the directory, or the revision, of the manifests as they were before; or None.
        executor: `HOST:PORT` of a Dask scheduler whose workers do the work; None for this process.
    """

    manifests: Path
    environments: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    parallel: int | None = None
    restrictions: Restrictions = Restrictions()
    shard: Shard | None = None
    width: int | None = None
    executor: str | None = None
    previous: str | None = None


_require_restriction = _not_empty("run without this restriction")


def _sink_rules(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[SinkRule, ...]:
    """Parse the values of `--allow-sink`, each `KIND` or `KIND:GLOB`."""
    if not (given := _require_restriction(context, option, values)):
        return ()
    from provisioner.sinks.registry import KINDS

    rules = []
    for text in given:
        kind, colon, glob = text.partition(":")
        if kind not in KINDS or (colon and not glob):
            raise click.BadParameter(
                f"{text!r} is not KIND or KIND:GLOB. Choose the kind from {', '.join(KINDS)}."
            )
        rules.append(SinkRule(kind, glob or "*"))
    return tuple(rules)


_manifests = partial(
    common_option,
    "-m, --manifests DIR",
    type=_PATH,
    default=Path("manifests"),
    shell_complete=directories,
)
manifests_option = _manifests("Read environments files and manifests from this directory.")
new_manifests_option = _manifests("Write the files to this directory.")
_environments = partial(
    common_option,
    "--environments FILE",
    "Read this file instead of environments.yaml in the manifests directory.",
    type=_PATH,
    callback=_require_restriction,
)
environments_option = _environments(name="environments_file")


def _programs(context: click.Context, option: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - click passes it
    return not _require_restriction(context, option, value)


_RESTRICTIONS = (
    _environments(),
    common_option(
        "--against DIR",
        "Refuse any environments.yaml, `deliver` or `check` that is not also in DIR.",
        type=_PATH,
        callback=_require_restriction,
    ),
    common_option(
        "--allow-host GLOB",
        "Connect only to hosts that match. Repeatable.",
        name="hosts",
        multiple=True,
        callback=_require_restriction,
    ),
    common_option(
        "--allow-sink KIND[:GLOB]",
        "Use only sinks of this kind, and only those that match GLOB if it is given. Repeatable.",
        name="sinks",
        multiple=True,
        callback=_sink_rules,
    ),
    common_option(
        "--no-programs",
        "Do not run programs named in manifests or in sink configurations.",
        name="programs",
        callback=_programs,
    ),
)


def add_selection(*, revokes: bool) -> Decorator:
    """Add the options of a `Selection`, which the command names `selection`.

    Args:
        revokes: True if the command, or its plan file, can revoke keys; it then refuses an empty
            `-e` or `--only`.
    """
    repeatable = partial(
        common_option, multiple=True, callback=_not_empty("work on all") if revokes else None
    )
    return _add(
        manifests_option,
        repeatable(
            "-e, --environment NAME",
            "Work only on this environment, or on those that match a glob. Repeatable.",
            shell_complete=environment_names,
        ),
        repeatable(
            "--only GLOB",
            "Work only on keys whose names match. Repeatable.",
            shell_complete=key_names,
        ),
        shard_option,
        common_option(
            "--parallel N",
            "Send up to N simultaneous requests to each environment, instead of limits.parallel.",
            type=click.IntRange(1, 100),
        ),
        common_option(
            "--width N",
            "Work on up to N environments at once; by default as many as get more done.",
            type=click.IntRange(1, 1000),
        ),
        *_RESTRICTIONS,
    )


add_one_environment = _add(
    manifests_option,
    common_option(
        "-e, --environment NAME",
        "Work on this environment; required if there are several.",
        shell_complete=environment_names,
    ),
    *_RESTRICTIONS,
)
"""Add the options of a `Selection` of one environment; it is named `selection` too."""

_DASK = "dask://"


def _cluster(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Parse the value of `--executor`, which is `dask://HOST:PORT`."""
    if value is None:
        return None
    host, _, port = value.removeprefix(_DASK).rpartition(":")
    if not value.startswith(_DASK) or not host or not port.isdecimal():
        raise click.BadParameter(f"{value!r} is not dask://HOST:PORT.")
    return f"{host}:{port}"


_add_executor = common_option(
    "--executor dask://HOST:PORT",
    "Work on the environments on the workers of a Dask cluster.",
    name="executor",
    callback=_cluster,
)

# The changes that a run may make


add_plan_flags = _add(
    option("--prune", "Revoke owned keys that no manifest declares."),
    option("--dedupe", "Revoke duplicates of owned keys."),
    option("--redeliver", "Deliver a new token for every key to all of its sinks."),
    option(
        "--previous DIR|REVISION",
        "Find sinks that only these earlier manifests declare: a directory, or a git revision.",
        callback=_not_empty("ignore former sinks"),
    ),
    option("--clean", "Remove the tokens from those sinks, as with `clean: true`."),
)
"""Add the options of `PlanOptions`, which the command names `options`; --only is one too."""


_add_guard_options = _add(
    option(
        "--max-revoke N",
        "Allow up to N revocations in each environment, instead of guards.max_revoke.",
        type=click.IntRange(0),
    ),
    option("--allow-protected", "Allow revoking keys protected by `protect: true`."),
)
"""Add the options of `GuardOverrides`, which the command names `overrides`."""


# The output


class OutputTargets(NamedTuple):
    """The outputs of a command other than stdout and stderr.

    Attributes:
        reports: the format and the file of each report.
        ci: True to write annotations, a summary and outputs for GitHub Actions.
        events: the file to write events to, or None.
        notify: True to tell the targets of `notify` in the environments files.
    """

    reports: tuple[tuple[str, str], ...]
    ci: bool
    events: str | None = None
    notify: bool = True


def _report(text: str) -> tuple[str, str]:
    """Parse a value of `--report`, which is `FORMAT=FILE`."""
    format_, _, file = text.partition("=")
    if format_ not in REPORT_FORMATS or not file:
        known = ", ".join(REPORT_FORMATS)
        raise click.BadParameter(f"{text!r} is not FORMAT=FILE. Choose the format from {known}.")
    return format_, file


_OUTPUT_TARGETS = (
    common_option(
        "--report FORMAT=FILE",
        f"Also write a report to a file. FORMAT is one of {', '.join(REPORT_FORMATS)}. Repeatable.",
        name="reports",
        multiple=True,
        type=_report,
    ),
    common_option(
        "--no-ci",
        "Do not write annotations, a summary or outputs for GitHub Actions.",
        name="ci",
        callback=lambda _context, _option, value: not value,
    ),
)

add_notify = common_option(
    "--no-notify",
    "Do not tell the targets of `notify` in environments.yaml about this run.",
    name="notify",
    callback=lambda _context, _option, value: not value,
)
"""Add the option `--no-notify`, which the command names `notify`."""


def add_output_targets(*, is_run: bool) -> Decorator:
    """Add the options of `OutputTargets`, which the command names `output_targets`.

    Args:
        is_run: True if the command is a run, which has events and is told about.
    """
    events = common_option(
        "--events FILE", "Write events to a file as they happen, one JSON object per line."
    )
    return _add(*_OUTPUT_TARGETS, *((events, add_notify) if is_run else ()))


class OutputOptions(NamedTuple):
    """The format of a command's output on stdout and stderr.

    Attributes:
        quiet: True to print only warnings and errors.
        log_level: the lowest level of log messages on stderr.
        log_format: the format of the log, `text` or `json`.
        color: `auto`, `always` or `never`.
        format: the format of the data on stdout, one of those that the command offers.
        unmanaged: True to list unmanaged keys of a plan or result instead of counting them.
        time: the time zone of times in text, `utc` or `local`.
    """

    quiet: bool
    log_level: str
    log_format: str
    color: str
    format: str = "json"
    unmanaged: bool = False
    time: str = "utc"


_OUTPUT_OPTIONS = (
    common_option("-q, --quiet", "Print only warnings and errors."),
    common_option(
        "--log-level",
        "Write log messages at this level and above to stderr.",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="warning",
    ),
    common_option(
        "--log-format [text|json]", "Write the log to stderr in this format.", default="text"
    ),
    common_option(
        "--color [auto|always|never]",
        "Colour text output; auto respects NO_COLOR and FORCE_COLOR.",
        default="auto",
    ),
)


unmanaged_option = option(
    "--unmanaged", "List the keys that no manifest declares instead of counting them."
)

_TIME_OPTION = common_option(
    "--time [utc|local]",
    "Write times in text output in UTC or in the time zone of this machine.",
    default="utc",
)


def add_output(*formats: str, times: bool = False) -> Decorator:
    """Add the options of `OutputOptions`, which the command names `output`.

    Args:
        formats: the choices of `--format`, the default first; empty for a command without it.
        times: True if its text has times.
    """
    choices = f"--format [{'|'.join(formats)}]"
    text = "Print results to stdout in this format."
    own = (option(choices, text, default=formats[0]),) if formats else ()
    return _add(*own, *_OUTPUT_OPTIONS, *((_TIME_OPTION,) if times else ()))


add_run_options = _add(
    _add_guard_options,
    add_selection(revokes=True),
    _add_executor,
    add_output(*formats_of("result"), times=True),
    add_output_targets(is_run=True),
)
"""Add the options that `plan`, `apply`, `rotate` and `revoke` share."""


# The values


def arguments_of(command: Callable[..., object], given: Mapping[str, Any]) -> dict[str, object]:
    """Return the arguments of a command: an option each, or a value of several options.

    Args:
        command: the function.
        given: the values of its options and arguments by their names.
    """
    names = signature(command).parameters
    values = {name: build(given) for name, build in _VALUES.items() if name in names}
    return values | {name: given[name] for name in names if name in given}


def _build(value: Callable[..., _Value], given: Mapping[str, Any]) -> _Value:
    """Return a value whose fields are named as options; it has those that the command has."""
    return value(**{name: given[name] for name in value.__annotations__ if name in given})


def _selection(given: Mapping[str, Any]) -> Selection:
    names = given["environment"] or ()
    return Selection(
        given["manifests"],
        (names,) if isinstance(names, str) else names,
        given.get("only", ()),
        given.get("parallel"),
        _build(Restrictions, given),
        given.get("shard"),
        given.get("width"),
        given.get("executor"),
        given.get("previous"),
    )


def _plan_options(given: Mapping[str, Any]) -> PlanOptions:
    from provisioner.plan import PlanOptions

    return _build(PlanOptions, given)


def _guard_overrides(given: Mapping[str, Any]) -> GuardOverrides:
    from provisioner.plan import GuardOverrides

    return _build(GuardOverrides, given)


_VALUES: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "selection": _selection,
    "options": _plan_options,
    "overrides": _guard_overrides,
    "output": partial(_build, OutputOptions),
    "output_targets": partial(_build, OutputTargets),
}
