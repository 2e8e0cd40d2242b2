"""The matrix of an environment: one declaration of many environments.

Every axis is part of the name, which is also a file name. So a value consists of letters, digits,
dots, `-` and `_`, and cannot change the structure of a text that it is filled into.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.problem import Problem
from provisioner.manifests.causes import Affected, Cause, Causes
from provisioner.manifests.document import Mapping, Sequence
from provisioner.manifests.schema import published
from provisioner.manifests.schema_errors import schema_problems, show
from provisioner.manifests.templates import mistake, split_placeholders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.errors.problem import Place
    from provisioner.manifests.document import Document, Position

MAX_MATRIX = 10_000
"""The limit of keys from one matrix in one environment, and of environments from one matrix."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VALUE = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]+")
"""A part of a name; one of only dots could lead to another folder."""

_BRACES = re.compile(
    r"\$\$|(?P<variable>\$\{)|(?P<left>\{\{)|(?P<right>\}\}?)|\{(?P<name>[^{}$]*)\}|\{"
)
_VARIABLES = re.compile(r"\$\{((?:[^${}:]|\{[^{}]*\})*)")
"""The name of each variable in a text, which may contain placeholders."""


class Expanded(NamedTuple):
    """One environment of a declaration.

    Attributes:
        name: its name.
        values: the values of the placeholders by axis; empty without a matrix.
    """

    name: str
    values: dict[str, str]


class EnvironmentsFile(NamedTuple):
    """One environments file.

    Attributes:
        document: its content.
        folder: its directory, where the relative paths to lists of values start.
    """

    document: Document
    folder: Path

    def lists(self) -> Iterator[Path]:
        """Yield the lists of values that the file names."""
        for body in _mappings_in(self.document.root, "environments"):
            for axis in _mappings_in(body, "matrix"):
                if isinstance(file := axis.get("file"), str) and file:
                    yield self.path_of(file)

    def path_of(self, file: str) -> Path:
        """Return the path of a list as the user would type it."""
        return Path(os.path.normpath(self.folder / file))


def _mappings_in(node: object, key: str) -> Iterator[Mapping]:
    """Yield the values of the mapping under a key that are mappings themselves."""
    found = node.get(key) if isinstance(node, Mapping) else None
    if isinstance(found, Mapping):
        yield from (one for one in found.values() if isinstance(one, Mapping))


@dataclass(slots=True)
class ValueLists:
    """The lists of values in files of their own; each is read once.

    Attributes:
        root: the directory that they must be in, where changes of them are reviewed.
        read: returns the content of a file; None if it has a problem, which is reported there, or
            at the place that names it if it cannot be read.
        problems: gets the problems of the lists.
    """

    root: Path
    read: Callable[[Path, Place], Document | None]
    problems: list[Problem]
    _found: dict[Path, Sequence | None] = field(default_factory=dict, init=False)

    def values(self, path: Path, place: Place) -> Sequence | None:
        """Return the list in the file that a place names; None if it is not valid."""
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))
        if not inside or path.suffix not in (".yaml", ".yml"):
            message = "a list of values must be a *.yaml or *.yml file in the manifests directory"
            self.problems.append(Problem(place, Code.INVALID_VALUE, f"{message}: move it there"))
            return None
        if path not in self._found:
            document = self.read(path, place)
            self._found[path] = None if document is None else self._checked(document)
        return self._found[path]

    def _checked(self, document: Document) -> Sequence | None:
        root = document.root
        if isinstance(root, Sequence) and published("environments").check("values")(root):
            self.problems += (faults := list(_invalid_values(document, root)))
            return None if faults else root
        self.problems += schema_problems(document, "environments", part="values")
        return None


def _invalid_values(document: Document, values: Sequence) -> Iterator[Problem]:
    for value, position in zip(values, values.positions, strict=True):
        if _VALUE.fullmatch(value) is None:
            message = (
                f"{show(value)} cannot be part of an environment's name: write letters, digits, "
                "dots, - or _, and not only dots"
            )
            yield Problem(document.place(position), Code.ENVIRONMENT_NAME_INVALID, message)


def expand(
    file: EnvironmentsFile, name: str, position: Position, body: Mapping, lists: ValueLists
) -> tuple[tuple[Expanded, ...], list[Problem]]:
    """Return the environments of a declaration, none if it has a problem, and its problems.

    Args:
        file: the file.
        name: the name as written.
        position: the position of the name.
        body: the values as written.
        lists: the lists of values in other files.
    """
    document, matrix = file.document, body.get("matrix", Mapping())
    place = document.place(position)
    problems: list[Problem] = []
    axes: dict[str, Sequence] = {}
    if "matrix" in body:
        if (
            not published("environments").check("matrix")(matrix)
            or matrix.position.index in document.partial
        ):
            return (), problems  # which are reported
        for axis, node in matrix.items():
            if isinstance(node, Sequence):
                problems += _invalid_values(document, node)
                axes[axis] = node
            else:
                at = document.place(node.value_position("file"))
                values = lists.values(file.path_of(node["file"]), at)
                if values is None:
                    return (), problems
                axes[axis] = values
    parts, faults = split_placeholders(name, tuple(axes), place)
    problems += (Problem(one.place, one.code, one.describe(Affected())) for one in faults)
    for axis in axes if not faults else ():
        if axis not in parts[1::2]:
            message = (
                f"the name does not contain {{{axis}}}, so all values of `{axis}` give the same "
                "name: add it to the name, or remove the axis"
            )
            at = document.place(matrix.key_position(axis))
            problems.append(Problem(at, Code.MATRIX_COLLISION, message))
    size = prod(map(len, axes.values()))
    if size > MAX_MATRIX:
        message = (
            f"the matrix produces {size} environments, and the limit is {MAX_MATRIX}: split it"
        )
        at = document.place(body.key_position("matrix"))
        problems.append(Problem(at, Code.MATRIX_TOO_LARGE, message))
    if problems:
        return (), problems
    found, causes = _combined(parts, axes, place)
    _check_variables(document, body, axes, causes)
    problems = causes.problems()
    return () if problems else found, problems


def _combined(
    parts: list[str], axes: dict[str, Sequence], place: Place
) -> tuple[tuple[Expanded, ...], Causes]:
    """Return an environment for every combination of values, and the mistakes in their names."""
    causes = Causes()
    found: dict[str, dict[str, str]] = {}
    for combination in product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        name = "".join(values[part] if index % 2 else part for index, part in enumerate(parts))
        if _NAME.fullmatch(name) is None:
            cause = Cause(Code.ENVIRONMENT_NAME_INVALID, place, partial(_invalid_name, name))
            causes.add(cause).add(None, "", name)
        elif (first := found.setdefault(name, values)) is not values:
            both = " and ".join(", ".join(map(show, one.values())) for one in (first, values))
            cause = Cause(Code.MATRIX_COLLISION, place, partial(_collision, both, name))
            causes.add(cause).add(None, "", name)
    return tuple(Expanded(*one) for one in found.items()), causes


def _invalid_name(name: str, affected: Affected) -> str:
    return (
        f"{show(name)}{affected.other_environments} is not a valid environment name: write up to "
        "64 letters, digits, dots, - or _, starting with a letter or digit"
    )


def _collision(both: str, name: str, affected: Affected) -> str:
    return (
        f"{both} both give the name {show(name)}{affected.other_environments}: put a character "
        "between the axes"
    )


def _check_variables(
    document: Document, body: Mapping, axes: dict[str, Sequence], causes: Causes
) -> None:
    """Report values that would make two environments use the same variable."""
    names = [name for text in _texts(body) for name in _VARIABLES.findall(text)]
    for axis, values in axes.items():
        if not any(f"{{{axis}}}" in name for name in names):
            continue
        first: dict[str, str] = {}
        for value in values:
            other = first.setdefault(_in_variable(value), value)
            if other != value:
                place = document.place(body["matrix"].key_position(axis))
                describe = partial(_same_variable, other, value)
                causes.add(Cause(Code.MATRIX_COLLISION, place, describe)).add(None, "", value)


def _same_variable(first: str, second: str, affected: Affected) -> str:
    return (
        f"{show(first)} and {show(second)}{affected.other_environments} give the same variable, "
        f"with {_in_variable(first)} in its name: change one of them"
    )


def _texts(node: object) -> Iterator[str]:
    match node:
        case str():
            yield node
        case Mapping():
            for part in node.values():
                yield from _texts(part)
        case Sequence():
            for part in node:
                yield from _texts(part)
        case _:
            pass


def _in_variable(value: str) -> str:
    """Return a value as a part of the name of a variable: in capitals, other characters as `_`."""
    return re.sub(r"[^A-Za-z0-9]", "_", value).upper()


def fill(text: str, values: dict[str, str], place: Place) -> tuple[str, list[Cause]]:
    """Return a text of an environment with the values of its matrix, and its mistakes.

    Variables stay as they are, except for placeholders in them: `${TOKEN_{customer}}` becomes
    `${TOKEN_ACME}`.
    """
    parts: list[str] = []
    faults: list[Cause] = []
    start = 0
    variable = -1  # the start of the variable that is open
    while found := _BRACES.search(text, start):
        parts.append(text[start : found.start()])
        start = found.end()
        match found.lastgroup:
            case "variable":
                variable = start
                parts.append(found[0])
            case "right" if variable >= 0:
                variable = -1
                start = found.start() + 1
                parts.append("}")
            case "left" | "right" if len(found[0]) > 1:
                parts.append(found[0][0])
            case "name" if found["name"] in values:
                value = values[found["name"]]
                in_name = variable >= 0 and ":" not in text[variable : found.start()]
                parts.append(_in_variable(value) if in_name else value)
            case None if found[0] == "$$":
                parts.append(found[0])
            case _:
                faults.append(mistake(found, tuple(values), place))
    parts.append(text[start:])
    return "".join(parts), faults
