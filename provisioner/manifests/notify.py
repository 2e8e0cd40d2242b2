"""The targets of `notify`: declared offline, then resolved with the variables of a run.

Offline, a mistake is a problem. In a run it is not: a run must not fail because nobody can be told
about it, so a target that cannot be used is a value that says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.problem import Problem
from provisioner.http_client.loopback import is_loopback
from provisioner.manifests import variables
from provisioner.manifests.schema import published
from provisioner.model.notify import (
    HttpKind,
    HttpTarget,
    NotifyTarget,
    ProgramTarget,
    UnusableTarget,
)
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Mapping as MappingOf

    from provisioner.errors.problem import Place
    from provisioner.manifests.document import Document, Mapping
    from provisioner.manifests.variables import VariableText

_KINDS = ("webhook", "slack", "command")
_NEVER_IN_URLS = re.compile(r"[\\\s\x00-\x20\x7f-\x9f]")
_MIN_SECRET_PATH = 16
"""Characters of the shortest path that is masked in output; a shorter one may be a word."""


@dataclass(frozen=True, slots=True)
class DeclaredTarget:
    """A target as declared.

    Attributes:
        kind: `webhook`, `slack` or `command`.
        texts: its address, or its program and arguments.
        insecure: whether plain http to another machine is allowed.
        place: the place of its kind.
    """

    kind: str
    texts: tuple[VariableText, ...]
    insecure: bool
    place: Place = field(compare=False)


def declared_targets(
    document: Document, items: Iterable[object], problems: list[Problem]
) -> Iterator[DeclaredTarget]:
    """Yield the targets of a file that follow the schema, and add the problems of their texts."""
    for item in items:
        if published("environments").check("notifyTarget")(item):
            target = _declared(document, cast("Mapping", item), problems)
            if target is not None:
                yield target


def _declared(document: Document, item: Mapping, problems: list[Problem]) -> DeclaredTarget | None:
    kind = next(one for one in _KINDS if one in item)
    value = item[kind]
    positions = value.positions if kind == "command" else [item.value_position(kind)]
    texts = []
    for text, position in zip(value if kind == "command" else [value], positions, strict=True):
        place = document.place(position)
        try:
            template = variables.parse(text)
        except ValueError as error:
            problems.append(Problem(place, Code.VARIABLE_INVALID, str(error)))
            return None
        if kind != "command" and _is_written(template):
            message = (
                f"the address in `{kind}` is written in the file, and whoever knows it can write "
                f"to the channel: put it into a variable and write ${{{kind.upper()}_URL}}"
            )
            problems.append(Problem(place, Code.SECRET_LITERAL, message))
            return None
        texts.append(template)
    insecure = item.get("insecure") is True
    return DeclaredTarget(kind, tuple(texts), insecure, document.place(item.key_position(kind)))


def _is_written(template: VariableText) -> bool:
    """Return whether a part of an address is written in the file; an empty default is not."""
    return not template.parts or any(
        isinstance(part, str) or bool(part.default) for part in template.parts
    )


def resolve_targets(
    declared: Iterable[DeclaredTarget], values: MappingOf[str, str]
) -> tuple[NotifyTarget, ...]:
    """Return the targets of a run; those whose address has an empty default are left out.

    Args:
        declared: the targets of `Manifests.notify`.
        values: the variables, usually `os.environ`.
    """
    found = (_resolved(one, values) for one in declared)
    return tuple(one for one in found if one is not None)


def _resolved(declared: DeclaredTarget, values: MappingOf[str, str]) -> NotifyTarget | None:
    texts = []
    for template in declared.texts:
        text = template.expand(values)
        if isinstance(text, tuple):
            advice = f"Set it, or write ${{{text[0].variable.name}:-}} if the target is optional."
            return _unusable(declared, str(text[0]), advice)
        texts.append(text)
    if declared.kind == "command":
        return ProgramTarget(tuple(texts))
    if not (url := texts[0].strip()):
        return None
    return _http_target(declared, url)


def _http_target(declared: DeclaredTarget, url: str) -> NotifyTarget:
    names = " and ".join(one.name for one in declared.texts[0].variables)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in ("https", "http") or not host or _NEVER_IN_URLS.search(url):
        return _unusable(declared, f"the value of {names} is not a URL", "Correct the variable.")
    if "@" in parts.netloc:
        reason = f"the value of {names} contains credentials"
        return _unusable(declared, reason, "Remove them from the URL.")
    if parts.scheme == "http" and not declared.insecure and not is_loopback(host):
        reason = f"{names} is plain http, which anyone on the network path can read"
        return _unusable(declared, reason, "Use https, or add `insecure: true` to the target.")
    path = url.partition("://")[2].partition("/")[2]
    if len(path) >= _MIN_SECRET_PATH:
        Secret(path)  # a library may log the path without the host
    return HttpTarget(cast("HttpKind", declared.kind), Secret(url), parts.netloc.lower())


def _unusable(declared: DeclaredTarget, reason: str, remedy: str) -> UnusableTarget:
    name = f"{declared.kind} at {declared.place.file} line {declared.place.line}"
    return UnusableTarget(Failure(Code.NOT_NOTIFIED, f"{name} was not told: {reason}.", remedy))
