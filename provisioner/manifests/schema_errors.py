"""Turns the schema errors of a document into problems with a place and advice.

jsonschema reports which rule failed at which path. The message for people depends on the path, and
is looked up here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import closest
from provisioner.errors.problem import Place, Problem
from provisioner.manifests import characters, variables
from provisioner.manifests.document import (
    MAX_PROBLEMS,
    AmbiguousScalar,
    Document,
    Invalid,
    Mapping,
    Position,
    Sequence,
)
from provisioner.manifests.schema import published
from provisioner.model.expiry import parse_expiry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonschema import ValidationError

Path = tuple[str | int, ...]


def manifest_problems(document: Document, failing: list[int]) -> list[Problem]:
    """Return the problems of a manifest that its schema rejects.

    Args:
        document: the manifest.
        failing: the indexes of the keys that are rejected. Only these are passed to jsonschema, so
            that one invalid key among 100 000 costs as much as one.
    """
    value: Any = document.root
    if isinstance(value, Mapping) and isinstance(value.get("keys"), Sequence):
        # Without a failing key one valid key is kept, because an empty list is invalid too.
        failing = failing or [0][: len(value["keys"])]
        value = {**value, "keys": [value["keys"][index] for index in failing]}

    def original(path: Path) -> Path:
        match path:
            case ("keys", int() as index, *rest):
                return ("keys", failing[index], *rest)
            case _:
                return path

    return _problems(document, "manifest", value, original)


def environments_problems(document: Document) -> list[Problem]:
    """Return the problems of an environments file that its schema rejects."""
    return _problems(document, "environments", document.root, lambda path: path)


@dataclass(frozen=True, slots=True)
class _Rule:
    """The code and the advice for a rejected value.

    Attributes:
        code: the code for a value of the right type that is not allowed.
        advice: what to write.
        mistyped: the code for a value of another type; None for `yaml_surprise` or `wrong_type`.
        shown: whether the message may show the value.
    """

    code: Code
    advice: str
    mistyped: Code | None = None
    shown: bool = True


_EXPIRY = _Rule(
    Code.EXPIRY_INVALID,
    "write a date (2027-06-30), a date-time (2027-06-30T12:00:00Z), hours, days or weeks "
    "(36h, 90d, 12w) or never",
    mistyped=Code.EXPIRY_INVALID,
)
_ROLE = _Rule(Code.INVALID_VALUE, "write the label or the id of a role, or remove `role`")
_VERSION = _Rule(Code.INVALID_VALUE, "write `version: 1`")
_CLEAN = "of 1 to 1000 characters, without control characters or leading or trailing spaces"
_ENVIRONMENT = _Rule(Code.INVALID_VALUE, "write the name of an environment")


_AUTH_FORMS = (
    "write one of `token`, `token_file`, `session_token`, or `email` with `password` or "
    "`password_file`"
)
_SECRET = _Rule(
    Code.AUTH_INVALID,
    "use a variable, for example ${TWENTY_TOKEN}",
    mistyped=Code.SECRET_LITERAL,
    shown=False,
)
_SECRET_FILE = _Rule(Code.AUTH_INVALID, "write the path of a file, in quotes", shown=False)


_ROTATION: dict[tuple[str, ...], _Rule] = {
    (): _Rule(
        Code.ROTATION_INVALID,
        "write {before: 14d, overlap: 48h}, or never to turn rotation off",
        Code.ROTATION_INVALID,
    ),
    ("*",): _Rule(
        Code.ROTATION_INVALID, "write hours, days or weeks: 36h, 14d, 2w", Code.ROTATION_INVALID
    ),
}
"""The rules for `rotate` in a key and in `defaults`."""

_BOOLEAN = _Rule(Code.INVALID_VALUE, "write true or false, without quotes", Code.INVALID_VALUE)
_GLOB = _Rule(Code.INVALID_VALUE, "write a glob: svc-*")
_KIND = _Rule(
    Code.INVALID_VALUE,
    "write file, command, vault, aws, github, gitlab or kubernetes",
    Code.INVALID_VALUE,
)
_POLICY: dict[tuple[str, ...], _Rule] = {
    (): _Rule(
        Code.INVALID_VALUE, "write a mapping, for example {max_lifetime: 365d, rotation: required}"
    ),
    ("max_lifetime",): _Rule(
        Code.INVALID_VALUE,
        "write hours, days or weeks: 36h, 90d, 12w; or never",
        Code.INVALID_VALUE,
    ),
    ("rotation",): _Rule(Code.INVALID_VALUE, "write required or optional", Code.INVALID_VALUE),
    ("roles",): _Rule(Code.INVALID_VALUE, "list roles: [Integrations], or write any"),
    ("roles", "*"): _Rule(Code.INVALID_VALUE, "write the label or the id of a role"),
    ("names",): _Rule(Code.INVALID_VALUE, "write a glob or a list of globs: svc-*"),
    ("names", "*"): _GLOB,
    ("sinks",): _Rule(
        Code.INVALID_VALUE,
        "list kinds of sinks, for example [vault, github], or write optional or "
        "{forbid: [command]}",
    ),
    ("sinks", "*"): _KIND,
    ("sinks", "require"): _Rule(Code.INVALID_VALUE, "list kinds of sinks: [vault, github]"),
    ("sinks", "require", "*"): _KIND,
    ("sinks", "forbid"): _Rule(Code.INVALID_VALUE, "list kinds of sinks: [command]"),
    ("sinks", "forbid", "*"): _KIND,
}
"""The rules for `policy` in the file and in an environment."""

_PROGRAM = _Rule(
    Code.SINK_INVALID, "list a program and up to 99 arguments, for example [gh, secret, set, KEY]"
)
_SINKS: dict[tuple[str, ...], _Rule] = {
    (): _Rule(Code.INVALID_VALUE, "list up to 20 sinks: `- file: secrets/{environment}.env`"),
    ("*",): _Rule(
        Code.INVALID_VALUE, "a sink must be a mapping: write `- file: secrets/{environment}.env`"
    ),
    ("*", "format"): _Rule(
        Code.INVALID_VALUE, "write dotenv or json", Code.INVALID_VALUE, shown=False
    ),
    ("*", "command"): _PROGRAM,
    ("*", "check"): _PROGRAM,
    ("*", "*"): _Rule(Code.SINK_INVALID, "write text of 1 to 4096 characters"),
    ("*", "*", "*"): _Rule(Code.SINK_INVALID, "write text of up to 4096 characters"),
}
"""The rules for `deliver` in a key and in `defaults`."""


def _count(maximum: int) -> _Rule:
    return _Rule(
        Code.INVALID_VALUE, f"write a whole number from 1 to {maximum}", Code.INVALID_VALUE
    )


_RULES: dict[str, dict[tuple[str, ...], _Rule]] = {
    "manifest": {
        (): _Rule(Code.INVALID_VALUE, "a manifest must be a mapping: start it with `version: 1`"),
        ("version",): _VERSION,
        ("environment",): _ENVIRONMENT,
        ("environments",): _Rule(
            Code.INVALID_VALUE, "list 1 to 10000 environments: [staging, production]"
        ),
        ("environments", "*"): _ENVIRONMENT,
        ("depth",): _Rule(
            Code.DEPTH_INVALID, "write 0, 1 or 2, without quotes", Code.DEPTH_INVALID
        ),
        ("defaults",): _Rule(
            Code.INVALID_VALUE, "write a mapping: {expires: 90d, role: Integrations}"
        ),
        ("defaults", "expires"): _EXPIRY,
        ("defaults", "role"): _ROLE,
        ("keys",): _Rule(Code.INVALID_VALUE, "list at least one key: `- name: svc-billing`"),
        ("keys", "*"): _Rule(
            Code.INVALID_VALUE, "a key must be a mapping: write `- name: svc-billing`"
        ),
        ("keys", "*", "name"): _Rule(Code.NAME_INVALID, f"write a name {_CLEAN}"),
        ("keys", "*", "description"): _Rule(Code.INVALID_VALUE, "write text"),
        ("keys", "*", "expires"): _EXPIRY,
        ("keys", "*", "role"): _ROLE,
        ("keys", "*", "protect"): _BOOLEAN,
        ("keys", "*", "matrix"): _Rule(
            Code.MATRIX_EMPTY, "write 1 to 100 axes: {region: [eu, us]}"
        ),
        ("keys", "*", "matrix", "*"): _Rule(Code.MATRIX_EMPTY, "list at least one value: [eu, us]"),
        ("keys", "*", "matrix", "*", "*"): _Rule(Code.INVALID_VALUE, f"write text {_CLEAN}"),
        **{("defaults", "deliver", *path): rule for path, rule in _SINKS.items()},
        **{("keys", "*", "deliver", *path): rule for path, rule in _SINKS.items()},
        **{("defaults", "rotate", *path): rule for path, rule in _ROTATION.items()},
        **{("keys", "*", "rotate", *path): rule for path, rule in _ROTATION.items()},
    },
    "environments": {
        (): _Rule(Code.INVALID_VALUE, "this file must be a mapping: start it with `version: 1`"),
        ("version",): _VERSION,
        ("environments",): _Rule(Code.INVALID_VALUE, "declare 1 to 10000 environments by name"),
        ("environments", "*"): _Rule(
            Code.INVALID_VALUE, "an environment must be a mapping with a `url`"
        ),
        ("environments", "*", "url"): _Rule(
            Code.URL_INVALID,
            "write, for example, https://crm.example.com, or `sandbox:`",
            shown=False,
        ),
        ("environments", "*", "auth"): _Rule(Code.AUTH_INVALID, _AUTH_FORMS, shown=False),
        ("environments", "*", "auth", "token_file"): _SECRET_FILE,
        ("environments", "*", "auth", "password_file"): _SECRET_FILE,
        ("environments", "*", "auth", "*"): _SECRET,
        ("environments", "*", "headers"): _Rule(
            Code.INVALID_VALUE, "write a mapping of header names and values", shown=False
        ),
        ("environments", "*", "headers", "*"): _Rule(
            Code.HEADER_INVALID,
            "write at least one character, in quotes",
            mistyped=Code.HEADER_INVALID,
            shown=False,
        ),
        ("environments", "*", "ca_file"): _Rule(Code.INVALID_VALUE, "write the path of a PEM file"),
        ("environments", "*", "owns"): _Rule(Code.INVALID_VALUE, 'list globs: ["svc-*"]'),
        ("environments", "*", "owns", "*"): _GLOB,
        ("environments", "*", "role"): _ROLE,
        ("environments", "*", "generation"): _Rule(
            Code.INVALID_VALUE, "write auto, legacy or core", Code.INVALID_VALUE
        ),
        ("environments", "*", "workspace"): _Rule(
            Code.INVALID_VALUE, "write the id of the workspace, which is a UUID"
        ),
        ("environments", "*", "insecure"): _BOOLEAN,
        ("environments", "*", "protect"): _BOOLEAN,
        ("environments", "*", "guards"): _Rule(
            Code.INVALID_VALUE, "write a mapping: {max_revoke: 30%}"
        ),
        ("environments", "*", "guards", "max_revoke"): _Rule(
            Code.INVALID_VALUE,
            "write a whole number of keys, or a share from 0% to 100%",
            Code.INVALID_VALUE,
        ),
        ("environments", "*", "limits"): _Rule(
            Code.INVALID_VALUE, "write a mapping: {parallel: 4, timeout: 30s}"
        ),
        ("environments", "*", "limits", "requests_per_minute"): _count(1_000_000),
        ("environments", "*", "limits", "parallel"): _count(100),
        ("environments", "*", "limits", "batch"): _count(60),
        ("environments", "*", "limits", "timeout"): _Rule(
            Code.INVALID_VALUE,
            "write a time with a unit, up to 1h: 500ms, 30s, 2m",
            Code.INVALID_VALUE,
        ),
        **{("policy", *path): rule for path, rule in _POLICY.items()},
        **{("environments", "*", "policy", *path): rule for path, rule in _POLICY.items()},
    },
}
"""The rule for the value at a path; `*` is any name or index, and the first match counts."""


def _rule(kind: str, path: Path) -> _Rule:
    return next(
        rule
        for pattern, rule in _RULES[kind].items()
        if len(pattern) == len(path)
        and all(part in ("*", step) for part, step in zip(pattern, path, strict=True))
    )


def _problems(
    document: Document, kind: str, value: object, original: Callable[[Path], Path]
) -> list[Problem]:
    # One mistake can break several rules with the same message.
    found: dict[Problem, None] = {}
    for error in published(kind).errors(value):
        for problem in _explain(document, kind, original(tuple(error.absolute_path)), error):
            if len(found) == MAX_PROBLEMS:
                message = f"the file has more than {MAX_PROBLEMS} problems: the rest are not shown"
                return [*found, Problem(problem.place, Code.TOO_MANY_PROBLEMS, message)]
            found[problem] = None
    return list(found)


def _explain(
    document: Document, kind: str, path: Path, error: ValidationError
) -> Iterator[Problem]:
    """Yield the problems of one error of jsonschema."""
    node = _value_at(document, path)
    if isinstance(node, Invalid) or _follows_from_another(document, node, error):
        return
    if "propertyNames" in error.absolute_schema_path:
        yield _misnamed(document, kind, node, str(error.instance))
        return
    rule = _rule(kind, path)
    expected: Any = error.validator_value
    match str(error.validator):
        case "additionalProperties":
            yield from _unknown(document, kind, node, error.schema)
        case "required":
            yield from _missing(document, node, expected)
        case "oneOf" if kind == "manifest":
            yield from _environment_or_environments(document, node)
        case "uniqueItems":
            yield from _repeated(document, path, node)
        case "type":
            yield _mistyped(document, path, rule, node, expects_text=expected == "string")
        case "anyOf" | "pattern" if kind == "manifest" and "deliver" in path[1:3]:
            yield from _delivery(document, path, node, error)
        case "anyOf":
            yield from _choice(document, kind, path, error)
        case _:
            yield _disallowed(path, rule, document.place(_position_at(document, path)), node)


def _choice(document: Document, kind: str, path: Path, error: ValidationError) -> Iterator[Problem]:
    """Yield the problems of the branches that accept this type, or one if none does."""
    node, inner, rule = _value_at(document, path), error.context or (), _rule(kind, path)
    other = {
        each.relative_schema_path[0]
        for each in inner
        if not each.relative_path and each.validator in ("type", "const", "enum")
    }
    matching = [each for each in inner if each.relative_schema_path[0] not in other]
    for each in matching:
        yield from _explain(document, kind, (*path, *each.relative_path), each)
    if not matching and isinstance(node, (str, int)):
        yield _disallowed(path, rule, document.place(_position_at(document, path)), node)
    elif not matching:
        yield _mistyped(document, path, rule, node, expects_text=False)


def _follows_from_another(document: Document, node: object, error: ValidationError) -> bool:
    """Return whether the error follows from another one: an unread key, or a wrong type."""
    if error.validator not in ("required", "oneOf", "minProperties"):
        return False
    return not isinstance(node, Mapping) or node.position.index in document.partial


def _misnamed(document: Document, kind: str, node: Mapping, key: str) -> Problem:
    place = document.place(node.key_position(key))
    if kind == "manifest":
        code = Code.MATRIX_AXIS_INVALID
        message = (
            "this is not a valid axis name: write up to 64 letters, digits, - or _, starting "
            "with a letter, but not `environment` or `name`"
        )
    else:
        code = Code.ENVIRONMENT_NAME_INVALID
        message = (
            "this is not a valid environment name (it is also used as a file name): write "
            "up to 64 letters, digits, dots, - or _, starting with a letter or digit"
        )
    return Problem(place, code, message)


_LEVELS = {
    "manifest": {
        "the top of the manifest": ("version", "environments", "depth", "defaults", "keys"),
        "the top of the manifest or a `github` sink": ("environment",),
        "a key": ("name", "description", "protect", "matrix"),
        "a key or `defaults`": ("expires", "role", "deliver", "rotate"),
        "`rotate`": ("before", "overlap"),
        "an item of `deliver`": ("file", "command", "vault", "aws", "github", "gitlab",
                                 "kubernetes"),
        "a `file` sink": ("format",),
        "a `file` or `gitlab` sink": ("variable",),
        "a `command` sink": ("check",),
        "a `vault` sink": ("field",),
        "an `aws` sink": ("region",),
        "a `github` sink": ("secret",),
        "a `kubernetes` sink": ("key",),
    },
    "environments": {
        "the top of the file": ("version", "environments"),
        "the top of the file or an environment": ("policy",),
        "an environment": ("url", "auth", "headers", "ca_file", "owns", "role", "generation",
                           "workspace", "insecure", "limits", "protect", "guards"),
        "`guards`": ("max_revoke",),
        "`policy`": ("max_lifetime", "rotation", "roles", "names", "sinks"),
        "`sinks`": ("require", "forbid"),
        "`auth`": ("token", "token_file", "session_token", "email", "password", "password_file"),
        "`limits`": ("requests_per_minute", "parallel", "batch", "timeout"),
    },
}  # fmt: skip
_SHOWABLE = re.compile(r"[A-Za-z_-]{1,40}", re.ASCII)
"""Unknown keys that may be shown: `{token:eyJ…}` without a space is one long key."""

_FIRST_WORD = re.compile(r"([a-z_]+)[ :]")
"""The likely key if the colon, or the space after it, is missing."""

_SAME_WORD = 0.85
"""The similarity from which a key is a misspelling and not misplaced: `role` and `roles`."""


def _unknown(document: Document, kind: str, node: Mapping, schema: Any) -> Iterator[Problem]:
    known = list(schema["properties"])
    for key, position in zip(node, node.positions[::2], strict=True):
        if key in known:
            continue
        parent = next((level for level, keys in _LEVELS[kind].items() if key in keys), None)
        word = _FIRST_WORD.match(key)
        if node[key] is None and word is not None and word[1] in known:
            message = f"a colon and a space are missing after `{word[1]}`: add them"
        elif not _SHOWABLE.fullmatch(key):
            message = f"this key is unknown here: use {', '.join(known)}"
        elif parent is not None and closest(key, known, _SAME_WORD) is None:
            message = f"`{key}` is unknown here: move it to {parent}"
        elif close := closest(key, known):
            message = f"`{key}` is unknown here: did you mean `{close}`?"
        else:
            message = f"`{key}` is unknown here: use {', '.join(known)}"
        yield Problem(document.place(position), Code.UNKNOWN_KEY, message)


_MISSING = {
    "version": "start the file with `version: 1`",
    "keys": "list the keys under `keys:`",
    "name": "write `- name: svc-billing`",
    "environment": "write `environment: NAME` or `environments: [NAME]`",
    "environments": "declare them under `environments:`",
    "before": "write how long before expiry a key gets a successor: `before: 14d`",
    "url": "write the address of the workspace: `url: https://crm.example.com`",
}


def _missing(document: Document, node: Mapping, required: list[str]) -> Iterator[Problem]:
    for key in required:
        if key not in node and not _is_in_defaults(document, node, key):
            message = f"`{key}` is missing: {_MISSING[key]}"
            yield Problem(document.place(node.position), Code.MISSING_KEY, message)


def _is_in_defaults(document: Document, node: Mapping, key: str) -> bool:
    """Return whether a key of the file is in its `defaults`, where it is reported as unknown."""
    defaults = node.get("defaults") if node is document.root else None
    return isinstance(defaults, Mapping) and key in defaults


def _environment_or_environments(document: Document, node: Mapping) -> Iterator[Problem]:
    if "environment" in node and "environments" in node:
        positions = sorted(
            (node.key_position("environment"), node.key_position("environments")),
            key=lambda position: position.index,
        )
        yield Problem(
            document.place(positions[1]),
            Code.ENVIRONMENT_BOTH,
            "the manifest has both `environment` and `environments`: keep one of them",
            document.place(positions[0]),
        )
    else:
        yield from _missing(document, node, ["environment"])


def _delivery(
    document: Document, path: Path, node: Any, error: ValidationError
) -> Iterator[Problem]:
    """Yield the problems of a sink: a token in a text, no kind or several, or those of its kind."""
    if isinstance(node, str) and error.validator == "pattern":
        message = "the file contains a token: remove it, and replace that token"
        yield Problem(document.place(_position_at(document, path)), Code.SECRET_LITERAL, message)
    if not isinstance(node, Mapping):
        return  # its type is reported
    branches: Any = error.validator_value
    kinds = [branch["$ref"].rpartition("/")[2] for branch in branches]
    written = [key for key in node if key in kinds]
    if len(written) == 1:
        for inner in error.context or ():
            if inner.relative_schema_path[0] == kinds.index(written[0]):
                yield from _explain(document, "manifest", (*path, *inner.relative_path), inner)
        return
    if written:
        position, found = node.key_position(written[1]), " and ".join(f"`{key}`" for key in written)
    elif node.position.index not in document.partial:
        close = closest(next(iter(node), ""), kinds)
        position, found = node.position, f"none: did you mean `{close}`?" if close else "none"
    else:
        return  # its kind may be a key that could not be read
    listed = ", ".join(f"`{name}`" for name in kinds)
    message = f"a sink must have exactly one of {listed}, and this one has {found}"
    yield Problem(document.place(position), Code.SINK_INVALID, message)


def _repeated(document: Document, path: Path, node: Sequence) -> Iterator[Problem]:
    first: dict[str, Position] = {}
    for item, position in zip(node, node.positions, strict=True):
        if not isinstance(item, str):
            continue
        earlier = first.setdefault(item, position)
        if earlier is position:
            continue
        if path == ("environments",):
            code, message = (
                Code.ENVIRONMENT_DUPLICATE,
                f"the environment {show(item)} is listed twice",
            )
        else:
            code, message = Code.MATRIX_COLLISION, f"the value {show(item)} is listed twice"
        yield Problem(
            document.place(position), code, f"{message}: remove one", document.place(earlier)
        )


def _mistyped(
    document: Document, path: Path, rule: _Rule, node: Any, *, expects_text: bool
) -> Problem:
    """Return the problem of a value with a wrong type."""
    position = _position_at(document, path)
    place = document.place(position)
    subject = _subject(path)
    scalar = isinstance(node, (AmbiguousScalar, bool, int))
    if rule.mistyped and not (
        rule.mistyped == Code.SECRET_LITERAL and isinstance(node, (Mapping, Sequence))
    ):
        return Problem(place, rule.mistyped, f"{subject} is {_kind(node)}: {rule.advice}")
    if scalar and expects_text and rule.shown:
        text = _written(document, position, node)
        message = f'`{text}` is {_kind(node)} in YAML: write "{text}" to make it text'
        return Problem(place, Code.YAML_SURPRISE, message)
    if scalar and expects_text:
        message = f"{subject} is {_kind(node)} in YAML: put it in quotes to make it text"
        return Problem(place, Code.YAML_SURPRISE, message)
    return Problem(place, Code.WRONG_TYPE, f"{subject} is {_kind(node)}: {rule.advice}")


def _disallowed(path: Path, rule: _Rule, place: Place, node: Any) -> Problem:
    """Return the problem of a value that has the right type and is not allowed."""
    if rule is _EXPIRY and isinstance(node, str) and (found := variables.first_variable(node)):
        return Problem(place, Code.VARIABLE_INVALID, variables.not_allowed(found))
    if rule is _EXPIRY and isinstance(node, str) and len(node) <= _MAX_SHOWN:
        try:
            parse_expiry(node)
        except ValueError as error:
            return Problem(place, rule.code, str(error))
    shown = f" {show(node)}" if rule.shown and isinstance(node, (str, int)) else ""
    state = " is empty" if node in ("", [], {}) else f"{shown} is not allowed"
    # A matrix has different codes for too few and for too many values.
    code = Code.MATRIX_TOO_LARGE if rule.code == Code.MATRIX_EMPTY and node else rule.code
    return Problem(place, code, f"{_subject(path)}{state}: {rule.advice}")


def show(value: str | int) -> str:
    """Return a value for a message: on one line, and shortened."""
    text = value if isinstance(value, str) else str(value).lower()
    if len(text) > _MAX_SHOWN:
        text = text[: _MAX_SHOWN - 1] + "…"
    if not isinstance(value, str):
        return text
    hidden = not text.isprintable() or characters.first_invisible(text) is not None
    return json.dumps(text, ensure_ascii=hidden)


def _value_at(document: Document, path: Path) -> Any:
    """Return the value at a path of keys and indexes."""
    node: Any = document.root
    for step in path:
        node = node[step]
    return node


def _position_at(document: Document, path: Path) -> Position:
    if not path:
        return document.position
    parent = _value_at(document, path[:-1])
    step: Any = path[-1]
    position: Position = (
        parent.value_position(step) if isinstance(parent, Mapping) else parent.positions[step]
    )
    return position


def _subject(path: Path) -> str:
    match path:
        case ():
            return "the file"
        case (*_, "matrix", str()):
            return "this axis"
        case (*_, "environments", str()):
            return "this environment"
        case (*_, "headers", str()):
            return "this header"
        case (*_, str() as name):
            return f"`{name}`" if _SHOWABLE.fullmatch(name) else "this value"
        case _:
            return "this item"


def _kind(node: object) -> str:
    return node.kind if isinstance(node, AmbiguousScalar) else _KINDS[type(node)]


_KINDS: dict[type, str] = {
    type(None): "empty",
    bool: "a boolean",
    int: "a number",
    str: "text",
    Mapping: "a mapping",
    Sequence: "a list",
}


def _written(document: Document, position: Position, node: AmbiguousScalar | int) -> str:
    """Return a scalar as written in the file."""
    if isinstance(node, AmbiguousScalar):
        return node.text if len(node.text) <= _MAX_SHOWN else node.text[: _MAX_SHOWN - 1] + "…"
    return document.text[position.index : position.index + len(str(node))]


_MAX_SHOWN = 60
"""The number of characters of a value that a message shows."""
