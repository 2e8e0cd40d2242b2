"""Commands and options as help pages show them: headings, variables and examples."""

from __future__ import annotations

from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Command = Callable[..., int]
    Decorator = Callable[[Command], Command]

WIDTH = 80
"""Columns of a help page at most."""


class CommonOption(click.Option):
    """An option that many commands share; help pages list it after a command's own options."""


def option(
    shown: str,
    text: str,
    *,
    name: str | None = None,
    cls: type[click.Option] = click.Option,
    **settings: Any,
) -> Decorator:
    """Declare an option, and the variable that can also set it.

    Args:
        shown: the option as its help page shows it: its flags, and the name of its value or its
            choices in brackets. Without these and without a type, it is a flag.
        text: its help text.
        name: the parameter of the command; None for the name of the option.
        cls: `CommonOption` if many commands have the option.
        settings: other arguments of `click.option`.
    """
    words = shown.replace(",", "").split()
    flags = [word for word in words if word.startswith("-")]
    value = " ".join(words[len(flags) :])
    if value.startswith("["):
        settings["type"] = click.Choice(value.strip("[]").split("|"))
    elif value:
        settings["metavar"] = value
    elif "type" not in settings:
        settings["is_flag"] = True
    settings.setdefault("show_default", "default" in settings)
    variable = f"PROVISION_{flags[-1][2:].replace('-', '_').upper()}"
    names = flags if name is None else [*flags, name]
    return click.option(*names, cls=cls, envvar=variable, help=text, **settings)


class DocumentedCommand(click.Command):
    """A command whose help page has headings for its own and common options, and examples.

    The examples are those at the end of the docstring.

    Args:
        foreign_options: options of other programs that users may try, each with the command that
            does that here.
    """

    def __init__(
        self, *arguments: Any, foreign_options: Mapping[str, str] | None = None, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self.help, _, self.examples = cleandoc(self.help or "").partition("\n\nExamples:\n")
        self.foreign_options = foreign_options or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and answer a foreign option with the command to use."""
        words = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            instead = self.foreign_options.get(error.option_name)
            if instead is None:
                raise
            line = _same_arguments(ctx, words, instead)
            message = f"No such option {error.option_name!r}. Use `{line}` instead."
            raise click.UsageError(message, ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        """Call the command with the values that its parameters name, and show that it starts."""
        from provisioner.cli.live_area import opened_area
        from provisioner.cli.options import arguments_of

        assert self.callback is not None  # noqa: S101 - for the type checker
        with opened_area(ctx):
            return ctx.invoke(self.callback, **arguments_of(self.callback, ctx.params))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, the common ones, and the variables of both."""
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        common = [one for one in options if isinstance(one, CommonOption)]
        *own, help_option = [one for one in options if one not in common]
        if own and common:
            _write_options(ctx, formatter, "Options", own)
            _write_options(ctx, formatter, "Common options", [*common, help_option])
        else:
            _write_options(ctx, formatter, "Options", options)
        with_variable = [one for one in (*own, *common) if one.envvar is not None]
        if with_variable:
            with formatter.section("Environment variables"):
                formatter.write_text(_about_variables(with_variable))
                formatter.write_paragraph()
                formatter.write_text(", ".join(str(one.envvar) for one in with_variable))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are typed, each below a comment that says what it does."""
        del ctx
        with formatter.section("Examples"):
            indent = " " * formatter.current_indent
            for line in self.examples.splitlines():
                formatter.write(f"{indent}{line.strip()}".rstrip() + "\n")


def _same_arguments(ctx: click.Context, words: Iterable[str], instead: str) -> str:
    """Return the command line of another command, with the options that it takes too."""
    import shlex
    from collections import deque

    root = ctx.find_root()
    assert isinstance(root.command, click.Group)  # noqa: S101 - for the type checker
    other = root.command.get_command(root, instead)
    assert other is not None  # noqa: S101 - for the type checker
    own = {name: one for one in ctx.command.params for name in one.opts}
    shared = {name for one in other.params for name in one.opts}
    line = ["provision", instead]
    rest = deque(words)
    while rest:
        word = rest.popleft()
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        option = own.get(name) if word.startswith("-") else None
        if not isinstance(option, click.Option):
            continue
        option_words = [word]
        if name == word and not option.is_flag and rest:
            option_words.append(rest.popleft())
        elif option.is_flag and not word.startswith("--") and name != word:  # as in -qe
            option_words = [name]
            rest.appendleft(f"-{word[2:]}")
        if name in shared:
            line += option_words
    return shlex.join(line)


def _about_variables(options: Sequence[click.Option]) -> str:
    text = "Each option can also be set by a variable. The command line takes precedence."
    if any(one.is_flag for one in options):
        text += " For a flag, set the variable to 1 or 0."
    if any(one.multiple for one in options):
        text += " Repeatable options take values separated by spaces."
    return text


def _write_options(
    ctx: click.Context,
    formatter: click.HelpFormatter,
    heading: str,
    options: Iterable[click.Option],
) -> None:
    records = [record for one in options if (record := one.get_help_record(ctx)) is not None]
    with formatter.section(heading):
        formatter.write_dl(records)
