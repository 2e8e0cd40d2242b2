"""The sinks of `deliver`: templates, which become addresses with the values of a key.

Values that a vendor would refuse are found here, with their places, before anything is sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import closest
from provisioner.manifests import variables
from provisioner.manifests.causes import Affected, Cause
from provisioner.manifests.schema_errors import show
from provisioner.sinks.kind import OptionValues
from provisioner.sinks.registry import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.errors.problem import Place
    from provisioner.model.sink_address import Address
    from provisioner.sinks.kind import Rejection

_BRACES = re.compile(r"(?P<left>\{\{)|(?P<right>\}\})|\{(?P<name>[^{}]*)\}|(?P<lone>[{}])")


def _fault(place: Place, code: Code, what: str, advice: str) -> Cause:
    """Return a mistake in a text with placeholders.

    Args:
        place: the place of the text.
        code: the code of the problem.
        what: what is wrong, without the keys that are affected.
        advice: what to write instead.
    """

    def describe(affected: Affected) -> str:
        # Which placeholders a sink can use depends on the key, so the first one is always named.
        named = code == Code.PLACEHOLDER_UNKNOWN and affected.keys
        keys = f" for {affected.key}" if named else affected.for_keys
        return f"{what}{keys}: {advice}"

    return Cause(code, place, describe)


def split_placeholders(
    text: str, known: tuple[str, ...], place: Place
) -> tuple[list[str], list[Cause]]:
    """Split a text into literal text and placeholders, in turns, and find its mistakes."""
    parts = [""]
    faults: list[Cause] = []
    start = 0
    for found in _BRACES.finditer(text):
        parts[-1] += text[start : found.start()]
        start = found.end()
        match found.lastgroup, found["name"]:
            case ("left" | "right", _):
                parts[-1] += found[0][0]
            case ("name", str() as placeholder) if placeholder in known:
                parts += [placeholder, ""]
            case _:
                faults.append(mistake(found, known, place))
    parts[-1] += text[start:]
    return parts, faults


def fill_known(text: str, values: dict[str, str]) -> str:
    """Return a text for people with its placeholders filled in; any other brace stays as it is."""

    def replacement(found: re.Match[str]) -> str:
        return (
            found[0][0] if found["left"] or found["right"] else values.get(found["name"], found[0])
        )

    return _BRACES.sub(replacement, text)


def mistake(found: re.Match[str], known: tuple[str, ...], place: Place) -> Cause:
    """Return what is wrong with a brace, or with the placeholder that it starts."""
    name = found["name"] or ""
    is_variable = found.string.endswith("$", 0, found.start())
    if is_variable and (variable := variables.first_variable(f"${found[0]}")):
        code = Code.VARIABLE_INVALID
        what = variables.only_in_environments(variable)
        advice = f"{variables.WRITE_VALUE}, or ${{{{{variable}}}}} for the text itself"
    elif name.strip():
        code = Code.PLACEHOLDER_UNKNOWN
        what = f"the placeholder {show(name)} is unknown"
        close = closest(name, known)
        fix = f"did you mean {{{close}}}? Write" if close else "add it to `matrix`, or write"
        advice = f"{fix} {{{{ for a literal brace"
    else:
        code = Code.PLACEHOLDER_INVALID
        what = "this brace is not part of a placeholder"
        advice = "write {{ or }} for a literal brace"
    # One text may contain several mistakes.
    return _fault(place, code, what, advice)._replace(identity=(place, what))


@dataclass(frozen=True, slots=True)
class PlaceholderText:
    """A text of a sink.

    Attributes:
        parts: literal text and placeholders, in turns.
        place: the place of the text.
    """

    parts: tuple[str, ...]
    place: Place

    def filled(self, values: dict[str, str]) -> str:
        """Return the text with values in place of its placeholders."""
        if len(self.parts) == 1:
            return self.parts[0]
        return "".join(
            [values[part] if index % 2 else part for index, part in enumerate(self.parts)]
        )


@dataclass(frozen=True, slots=True)
class SinkTemplate:
    """An item of a `deliver` list.

    Attributes:
        kind: the kind of the sink.
        texts: the texts of each option; only a program has several.
        place: the place of the item.
        clean: whether the token is removed when the sink or the key goes.
    """

    kind: str
    texts: dict[str, tuple[PlaceholderText, ...]]
    place: Place
    clean: bool = False


def address_of(sink: SinkTemplate, values: dict[str, str]) -> tuple[Address, list[Cause]]:
    """Return the address of a sink for one key, and the values that the sink cannot have.

    Args:
        sink: the sink as written.
        values: the values of the placeholders.
    """
    kind = kind_of(sink.kind)
    written = {
        option: tuple([text.filled(values) for text in texts])
        for option, texts in sink.texts.items()
    }
    options = OptionValues(kind, written, values["name"], values["environment"])
    faults = [
        fault
        for option in kind.options
        if option.is_path and option.name in sink.texts
        for fault in _path_faults(sink.texts[option.name][0], values)
    ]
    address = kind.address(options)
    faults += [_rejected(sink, one) for one in options.rejections]
    return address, faults


def _path_faults(template: PlaceholderText, values: dict[str, str]) -> Iterator[Cause]:
    """Yield the placeholders of a path that lead to another folder."""
    for placeholder in template.parts[1::2]:
        value = values[placeholder]
        # Dots may become `..` next to another dot.
        if "/" in value or "\\" in value or not value.strip("."):
            what = f"{{{placeholder}}} is {show(value)}, which leads to another folder"
            yield _fault(template.place, Code.SINK_INVALID, what, "do not use it in a path")


def _rejected(sink: SinkTemplate, rejection: Rejection) -> Cause:
    option, position, value, advice, reason = rejection
    what = reason or f"`{option}` cannot be {show(value)}"
    if option in sink.texts:
        place = sink.texts[option][position].place
        return _fault(place, Code.SINK_INVALID, what, f"write {advice}")
    what += ", the default derived from the key's name"
    return _fault(sink.place, Code.SINK_INVALID, what, f"write `{option}` with {advice}")
