"""The option `--shard`: K/N, or `auto` for the variables of a pipeline."""

from __future__ import annotations

import os
from typing import NamedTuple

import click

from provisioner.cli.command_help import CommonOption, option
from provisioner.model.shard import Shard


class _Variables(NamedTuple):
    """The variables in which a system says which of its parallel jobs this is.

    Attributes:
        number: the variable with the number of this job.
        total: the variable with the number of jobs.
        first: the number of the first job.
    """

    system: str
    number: str
    total: str
    first: int


_VARIABLES = (
    _Variables("GitLab", "CI_NODE_INDEX", "CI_NODE_TOTAL", 1),
    # Kubernetes sets only the index; templates/kubernetes/shards.yml sets the total.
    _Variables("a Kubernetes Indexed Job", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", 0),
    _Variables("Buildkite", "BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", 0),
    _Variables("CircleCI", "CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL", 0),
)


def _shard_of_pipeline() -> Shard:
    """Return the shard that the variables of a pipeline name.

    Raises:
        BadParameter: if they name none, or several.
    """
    found: dict[Shard, str] = {}
    for one in _VARIABLES:
        number, total = os.environ.get(one.number), os.environ.get(one.total)
        if not number:
            continue
        if not total:
            raise click.BadParameter(
                f"{one.number} is set, but {one.total} is not. Set it to the number of jobs, or "
                "use --shard K/N."
            )
        try:
            shard = Shard(int(number) + 1 - one.first, int(total))
        except ValueError:
            message = f"{one.number}={number} and {one.total}={total} do not name a shard."
            raise click.BadParameter(f"{message} Correct them, or use --shard K/N.") from None
        found[shard] = one.system
    if len(found) == 1:
        return next(iter(found))
    if found:
        named = " and ".join(f"{shard} ({system})" for shard, system in found.items())
        raise click.BadParameter(f"The variables name several shards: {named}. Use --shard K/N.")
    known = ", ".join(f"{one.number} and {one.total} ({one.system})" for one in _VARIABLES)
    raise click.BadParameter(f"No variables name a shard. Set {known}, or use --shard K/N.")


def _parse(context: click.Context, parameter: click.Parameter, text: str | None) -> Shard | None:
    del context
    # A pipeline that lost the value must not work on all environments in every job.
    text = os.environ.get(str(parameter.envvar)) if text is None else text
    if text is None:
        return None
    if text.strip() == "auto":
        return _shard_of_pipeline()
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


shard_option = option(
    "--shard K/N",
    "Work only on the environments of shard K of N. auto reads K and N from the variables of "
    "GitLab, Kubernetes, Buildkite or CircleCI.",
    cls=CommonOption,
    callback=_parse,
)
