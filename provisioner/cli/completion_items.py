"""What a shell completes besides commands and options: names that stand in the manifests.

Read offline each time a key is pressed, so nothing here opens a workspace, and whatever goes wrong
is silence.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from provisioner.cli.group import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_HARMLESS = re.compile(r"\w[\w.@%+/-]*")
"""Names that every shell takes as they are.

Bash puts a completion on the command line as it comes: a name out of somebody's pull request with
a blank, a `;` or a `$(` in it would be run with the next Enter.
"""


def _names(read: Callable[[click.Context], Iterable[str]]) -> Completer:
    """Completes the names that `read` finds, but for those given already."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            given = _several(ctx.params.get(param.name or ""))
            names = [name for name in dict.fromkeys(read(ctx)) if name not in given]
        except Exception:  # noqa: BLE001 - a message would stand in the middle of a command line
            return []
        return [
            CompletionItem(name)
            for name in names
            if name.startswith(incomplete) and _HARMLESS.fullmatch(name)
        ]

    return complete


def _declared_environments(ctx: click.Context) -> Iterable[str]:
    from provisioner.manifests import environment_names  # noqa: PLC0415 - keeps --help fast

    return environment_names(_directory(ctx))


def _declared_keys(ctx: click.Context) -> Iterable[str]:
    from provisioner.manifests import load  # noqa: PLC0415 - keeps --help fast

    desired = load(_directory(ctx)).desired
    chosen = _several(ctx.params.get("environment")) or desired
    return (key.name for environment in chosen for key in desired.get(environment, ()))


def _commands(ctx: click.Context) -> Iterable[str]:
    del ctx
    return COMMANDS


def _codes(ctx: click.Context) -> Iterable[str]:
    from provisioner.cli import explanations  # noqa: PLC0415 - keeps --help fast

    del ctx
    return explanations.load()


def _published_schemas(ctx: click.Context) -> Iterable[str]:
    from provisioner import schemas  # noqa: PLC0415 - keeps --help fast

    del ctx
    return schemas.NAMES


def _directory(ctx: click.Context) -> Path:
    return Path(ctx.params.get("manifests") or "manifests")


def _several(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The values of an option that may be repeated, or not."""
    return (value,) if isinstance(value, str) else value or ()


def directories(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leaves it to the shell, which knows directories."""
    del ctx, param
    return [CompletionItem(incomplete, type="dir")]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves it to the shell, which knows files."""
    del ctx, param
    return [CompletionItem(incomplete, type="file")]


command_names = _names(_commands)
explained_codes = _names(_codes)
environment_names = _names(_declared_environments)
key_names = _names(_declared_keys)
schema_names = _names(_published_schemas)
