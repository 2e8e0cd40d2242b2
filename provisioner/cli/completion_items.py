"""Shell completion of names: environments, keys, commands, codes and schemas.

A shell asks on every key press, so nothing here opens a workspace, and every error is silent.
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
"""Names that no shell interprets.

Bash inserts a completion as it is: a name from a pull request with a space, a `;` or a `$(` would
be run with the next Enter.
"""


def _names(read: Callable[[click.Context], Iterable[str]]) -> Completer:
    """Return a function that completes the names that `read` returns, each once."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            used = _values(ctx.params.get(param.name or ""))
            names = [name for name in dict.fromkeys(read(ctx)) if name not in used]
        except Exception:  # noqa: BLE001 - a message would appear inside a command line
            return []
        return [
            CompletionItem(name)
            for name in names
            if name.startswith(incomplete) and _HARMLESS.fullmatch(name)
        ]

    return complete


def _declared_environments(ctx: click.Context) -> Iterable[str]:
    from provisioner.manifests import environment_names

    return environment_names(_directory(ctx))


def _declared_keys(ctx: click.Context) -> Iterable[str]:
    from provisioner.manifests import load

    desired = load(_directory(ctx)).desired
    environments = _values(ctx.params.get("environment")) or desired
    return (key.name for environment in environments for key in desired.get(environment, ()))


def _codes(ctx: click.Context) -> Iterable[str]:
    from provisioner.errors import explanations

    del ctx
    return explanations.load()


def _published_schemas(ctx: click.Context) -> Iterable[str]:
    from provisioner import schemas

    del ctx
    return schemas.NAMES


def _directory(ctx: click.Context) -> Path:
    return Path(ctx.params.get("manifests") or "manifests")


def _values(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the values of an option, whether it is repeatable or not."""
    return (value,) if isinstance(value, str) else value or ()


def directories(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete directories."""
    del ctx, param
    return [CompletionItem(incomplete, type="dir")]


command_names = _names(lambda _: COMMANDS)
explained_codes = _names(_codes)
environment_names = _names(_declared_environments)
key_names = _names(_declared_keys)
schema_names = _names(_published_schemas)
