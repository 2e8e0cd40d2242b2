"""The texts of docs/errors.md by code, as `provision explain` prints them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

_EXIT_CODES = re.compile(r"^## Exit codes\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| (\d+) \| (.+) \|$", re.MULTILINE)
_PARAGRAPHS = re.compile(r"^### `(\w+)`\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\([^)\s]+\)")
_ESCAPED = re.compile(r"\\(?=[^\w\s])")


def load() -> dict[str, str]:
    """Return the explanation of each exit code and each code, in the order of the page.

    Read from the wheel, or in a checkout from the page itself.
    """
    installed = _PACKAGE / "_docs"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "docs"
    page = (folder / "errors.md").read_text(encoding="utf-8")
    table = _EXIT_CODES.search(page)
    rows = _ROW.findall(table[1]) if table else []
    return {code: _plain(text) for code, text in (*rows, *_PARAGRAPHS.findall(page))}


def first_sentence(text: str) -> str:
    """Return the first sentence of an explanation."""
    sentence, stop, _ = " ".join(text.split()).partition(". ")
    return sentence + stop.strip()


def wrap(text: str, width: int) -> str:
    """Return an explanation with its paragraphs and list items wrapped to a number of columns."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        for block in re.split(r"\n(?=- )", paragraph):
            lines += textwrap.wrap(
                " ".join(block.split()),
                width,
                subsequent_indent="  " if block.startswith("- ") else "",
                break_long_words=False,
                break_on_hyphens=False,
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def _plain(markdown: str) -> str:
    """Return Markdown without links and escapes, in ASCII, which every terminal can show."""
    text = _ESCAPED.sub("", _LINK.sub(r"\1", markdown.strip()))
    return text.replace("\N{HORIZONTAL ELLIPSIS}", "...")
