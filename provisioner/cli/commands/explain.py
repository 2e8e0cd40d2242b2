"""`provision explain`."""

from __future__ import annotations

import click

from provisioner.cli.command_help import WIDTH, DocumentedCommand
from provisioner.cli.completion_items import explained_codes


@click.command(cls=DocumentedCommand)
@click.argument("codes", nargs=-1, metavar="[CODE]...", shell_complete=explained_codes)
def explain(codes: tuple[str, ...]) -> None:
    """Explain an error, finding or exit code.

    CODE is a code from a message, such as plan_stale, or an exit code of `provision`. Without
    CODE, list all codes. This works offline.

    Examples:
        # Explain the code in an error message:
        $ provision explain plan_stale

        # Explain exit code 4:
        $ provision explain 4
    """
    import shutil
    import textwrap

    from provisioner.errors import explanations
    from provisioner.errors.did_you_mean import did_you_mean

    explained = explanations.load()
    columns = shutil.get_terminal_size().columns
    if not codes:
        indent = max(map(len, explained)) + 2
        for code, text in explained.items():
            sentence = explanations.first_sentence(text)
            width = max(WIDTH, columns) - indent
            click.echo(f"{code:{indent}}{textwrap.shorten(sentence, width, placeholder='...')}")
        return
    # A code may be pasted with the punctuation of its message.
    names = [code.strip(":.,`'\"").lower() for code in codes]
    for code in names:
        if code not in explained:
            guess = did_you_mean(code, explained) or "`provision explain` lists all codes."
            raise click.UsageError(f"No such code {code!r}. {guess}")
    pages = []
    for code in dict.fromkeys(names):
        title = f"exit code {code}" if code.isdigit() else code
        pages.append(f"{title}\n\n{explanations.wrap(explained[code], min(WIDTH, columns))}")
    click.echo("\n\n".join(pages))
