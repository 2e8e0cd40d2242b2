"""`${VAR}` in the values of environments.yaml: read once, expanded where a run needs them.

Expansion happens in parsed values, never in the file's text, and once: what a variable holds
is taken as it is, with every `$` in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKEN = re.compile(
    r"\$(?:"
    r"(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<kind>[-?])(?P<rest>(?:[^${}]|\$\$)*))?\}"
    r"|(?P<wrong>))"
)

_WRITTEN = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,99})(?:\}|:[-?])")


@dataclass(frozen=True, slots=True)
class Variable:
    """One `${…}`.

    Attributes:
        name: of the environment variable.
        default: what `:-` gives for an undefined or empty variable; None without one.
        message: what `:?` says about an undefined or empty variable, or empty.
    """

    name: str
    default: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class UnsetVariable:
    """A variable that is needed and has no value.

    Attributes:
        variable: as written.
        empty: it is defined, and empty: how a missing pipeline secret arrives.
    """

    variable: Variable
    empty: bool

    def __str__(self) -> str:
        state = "is empty" if self.empty else "is not set"
        told = f": {self.variable.message}" if self.variable.message else ""
        return f"the variable {self.variable.name} {state}{told}"


@dataclass(frozen=True, slots=True)
class VariableText:
    """A value as written, in parts: text that stands for itself, and variables."""

    parts: tuple[str | Variable, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables, in the order written."""
        return tuple(part for part in self.parts if isinstance(part, Variable))

    @property
    def literal(self) -> bool:
        """Whether some of the value stands in the file, a `:-default` included."""
        return not self.parts or any(
            isinstance(part, str) or part.default is not None for part in self.parts
        )

    def expand(self, values: Mapping[str, str]) -> str | tuple[UnsetVariable, ...]:
        """The value, or every variable that it lacks."""
        texts: list[str] = []
        missing: list[UnsetVariable] = []
        for part in self.parts:
            if isinstance(part, str):
                texts.append(part)
            elif value := values.get(part.name):
                texts.append(value)
            elif part.default is not None:
                texts.append(part.default)
            else:
                missing.append(UnsetVariable(part, empty=part.name in values))
        return tuple(missing) if missing else "".join(texts)


def written_in(text: str) -> str | None:
    """Return the name of the first variable in a text that holds none, or None."""
    found = _WRITTEN.search(text)
    return found and found[1]


def only_in_environments(name: str) -> str:
    """Return the message about a variable in a manifest."""
    return f"{unread(name)}: {VALUE_ITSELF}"


def unread(name: str) -> str:
    """Return what is wrong with a variable in a manifest, without the advice."""
    return f"`${{{name}}}` is a variable, and only environments.yaml reads variables"


VALUE_ITSELF = "write the value itself"
"""What to do about a variable where none is read."""


def parse(text: str) -> VariableText:
    """Reads a value with its variables.

    Raises:
        ValueError: with a sentence that says what to write instead and shows none of the text.
    """
    parts: list[str | Variable] = []
    plain = ""
    start = 0
    for found in _TOKEN.finditer(text):
        plain += text[start : found.start()]
        start = found.end()
        match found.lastgroup:
            case "dollar":
                plain += "$"
            case "wrong":
                raise ValueError(
                    "a `$` starts a variable: write ${NAME}, ${NAME:-default} or "
                    "${NAME:?message}, and $$ for the dollar sign itself"
                )
            case _:
                if plain:
                    parts.append(plain)
                    plain = ""
                rest = (found["rest"] or "").replace("$$", "$")
                parts.append(
                    Variable(
                        found["name"],
                        default=rest if found["kind"] == "-" else None,
                        message=rest if found["kind"] == "?" else "",
                    )
                )
    plain += text[start:]
    if plain:
        parts.append(plain)
    return VariableText(tuple(parts))
