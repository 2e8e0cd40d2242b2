"""Variables in the values of environments.yaml: parsed once, expanded for a run.

Parsed values are expanded, not the text of the file. The value of a variable is not expanded
again, whatever `$` it contains.
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
        name: the name of the environment variable.
        default: the text after `:-`, used if the variable is unset or empty; None without `:-`.
        message: the text after `:?`, reported if the variable is unset or empty.
    """

    name: str
    default: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class UnsetVariable:
    """A required variable without a value.

    Attributes:
        variable: the variable as written.
        empty: whether it is set but empty, as a missing pipeline secret is.
    """

    variable: Variable
    empty: bool

    def __str__(self) -> str:
        state = "is empty" if self.empty else "is not set"
        message = f": {self.variable.message}" if self.variable.message else ""
        return f"the variable {self.variable.name} {state}{message}"


@dataclass(frozen=True, slots=True)
class VariableText:
    """A value as written: its literal parts and its variables."""

    parts: tuple[str | Variable, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Return all variables, in the order written."""
        return tuple(part for part in self.parts if isinstance(part, Variable))

    @property
    def constant(self) -> str | None:
        """Return the value if it contains no variable, or None."""
        return None if self.variables else "".join(map(str, self.parts))

    @property
    def literal(self) -> bool:
        """Return whether part of the value is written in the file, as a `:-default` is."""
        return not self.parts or any(
            isinstance(part, str) or part.default is not None for part in self.parts
        )

    def expand(self, values: Mapping[str, str]) -> str | tuple[UnsetVariable, ...]:
        """Return the expanded value, or all variables without a value."""
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


def first_variable(text: str) -> str | None:
    """Return the name of the first variable in a text that may not contain any, or None."""
    found = _WRITTEN.search(text)
    return found and found[1]


def not_allowed(name: str) -> str:
    """Return the message about a variable in a manifest."""
    return f"{only_in_environments(name)}: {WRITE_VALUE}"


def only_in_environments(name: str) -> str:
    """Return what is wrong with a variable in a manifest, without advice."""
    return f"`${{{name}}}` is a variable, and only environments.yaml can use variables"


WRITE_VALUE = "write the value itself"
"""The advice about a variable where none is allowed."""


def parse(text: str) -> VariableText:
    """Parse a value with variables.

    Raises:
        ValueError: A `$` does not start a variable. The message shows none of the text.
    """
    parts: list[str | Variable] = []
    literal = ""
    start = 0
    for found in _TOKEN.finditer(text):
        literal += text[start : found.start()]
        start = found.end()
        match found.lastgroup:
            case "dollar":
                literal += "$"
            case "wrong":
                raise ValueError(
                    "this `$` does not start a variable: write ${NAME}, ${NAME:-default} or "
                    "${NAME:?message}, or $$ for a dollar sign"
                )
            case _:
                if literal:
                    parts.append(literal)
                    literal = ""
                rest = (found["rest"] or "").replace("$$", "$")
                parts.append(
                    Variable(
                        found["name"],
                        default=rest if found["kind"] == "-" else None,
                        message=rest if found["kind"] == "?" else "",
                    )
                )
    literal += text[start:]
    if literal:
        parts.append(literal)
    return VariableText(tuple(parts))
