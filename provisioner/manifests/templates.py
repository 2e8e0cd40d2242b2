"""The sinks of `deliver`: templates, which become addresses with the values of a key.

Values that a vendor would refuse are found here, with their places, before anything is sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import closest
from provisioner.manifests import variables
from provisioner.manifests.schema_errors import show
from provisioner.model.sink_address import (
    Address,
    AwsAddress,
    CommandAddress,
    FileAddress,
    GithubAddress,
    GitlabAddress,
    KubernetesAddress,
    VaultAddress,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.errors.problem import Place
    from provisioner.manifests.causes import Affected

_BRACES = re.compile(r"(?P<left>\{\{)|(?P<right>\}\})|\{(?P<name>[^{}]*)\}|(?P<lone>[{}])")


class Fault(NamedTuple):
    """A mistake in a text with placeholders.

    Attributes:
        place: the place of the text.
        code: the code of the problem.
        what: what is wrong, without the keys that are affected.
        advice: what to write instead.
    """

    place: Place
    code: Code
    what: str
    advice: str

    def describe(self, affected: Affected) -> str:
        """Return the message of the problem."""
        # Which placeholders a sink can use depends on the key, so the first one is always named.
        named = self.code == Code.PLACEHOLDER_UNKNOWN and affected.keys
        keys = f" for {affected.key}" if named else affected.for_keys
        return f"{self.what}{keys}: {self.advice}"


def split_placeholders(
    text: str, known: tuple[str, ...], place: Place
) -> tuple[list[str], list[Fault]]:
    """Split a text into literal text and placeholders, in turns, and find its mistakes."""
    parts = [""]
    faults = []
    start = 0
    for found in _BRACES.finditer(text):
        parts[-1] += text[start : found.start()]
        start = found.end()
        match found.lastgroup, found["name"]:
            case ("left" | "right", _):
                parts[-1] += found[0][0]
            case ("name", str() as placeholder) if placeholder in known:
                parts += [placeholder, ""]
            case ("name", _) if text[: found.start()].endswith("$") and (
                variable := variables.first_variable(f"${found[0]}")
            ):
                what = variables.only_in_environments(variable)
                advice = f"{variables.WRITE_VALUE}, or ${{{{{variable}}}}} for the text itself"
                faults.append(Fault(place, Code.VARIABLE_INVALID, what, advice))
            case ("name", str() as placeholder) if placeholder.strip():
                close = closest(placeholder, known)
                advice = (
                    f"did you mean {{{close}}}? Write {{{{ for a literal brace"
                    if close
                    else "add it to `matrix`, or write {{ for a literal brace"
                )
                what = f"the placeholder {show(placeholder)} is unknown"
                faults.append(Fault(place, Code.PLACEHOLDER_UNKNOWN, what, advice))
            case _:
                what, advice = (
                    "this brace is not part of a placeholder",
                    "write {{ or }} for a literal brace",
                )
                faults.append(Fault(place, Code.PLACEHOLDER_INVALID, what, advice))
    parts[-1] += text[start:]
    return parts, faults


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
    """

    kind: str
    texts: dict[str, tuple[PlaceholderText, ...]]
    place: Place


class _Format(NamedTuple):
    """The allowed values of an option.

    Attributes:
        pattern: matches the allowed values.
        want: describes them.
    """

    pattern: re.Pattern[str]
    want: str


class FilledSink:
    """The texts of a sink with the values of one key in place of the placeholders.

    Attributes:
        faults: the values that the sink cannot have, in the order in which they were read.
    """

    def __init__(self, sink: SinkTemplate, values: dict[str, str]) -> None:
        self.faults: list[Fault] = []
        self._sink = sink
        self._values = values

    def text(self, option: str, allowed: _Format, default: str = "") -> str:
        """Return the value of an option, or its default."""
        if option in self._sink.texts:
            (template,) = self._sink.texts[option]
            return self._checked(option, allowed, template)
        if allowed.pattern.fullmatch(default) is None:
            what = f"`{option}` cannot be {show(default)}, the default derived from the key's name"
            self._refuse(self._sink.place, what, f"write `{option}` with {allowed.want}")
        return default

    def optional(self, option: str, allowed: _Format) -> str | None:
        """Return the value of an option without a default."""
        return self.text(option, allowed) if option in self._sink.texts else None

    def has(self, option: str) -> bool:
        """Return whether the option is written."""
        return option in self._sink.texts

    def program(self, option: str) -> tuple[str, ...]:
        """Return a program and its arguments; empty if the option is not written."""
        return tuple(
            self._checked(option, _ARGUMENT if index else _PROGRAM, template)
            for index, template in enumerate(self._sink.texts.get(option, ()))
        )

    def path(self, option: str, allowed: _Format) -> str:
        """Return a path, whose placeholders may not lead to another folder."""
        (template,) = self._sink.texts[option]
        for placeholder in template.parts[1::2]:
            value = self._values[placeholder]
            # Dots may become `..` next to another dot.
            if "/" in value or "\\" in value or not value.strip("."):
                what = f"{{{placeholder}}} is {show(value)}, which leads to another folder"
                self._refuse(template.place, what, "do not use it in a path")
        return self._checked(option, allowed, template)

    @property
    def variable(self) -> str:
        """Return the key's name as the name of a variable."""
        name = _NOT_IN_A_VARIABLE.sub("_", self._values["name"]).upper()
        return f"_{name}" if name[0].isdigit() else name

    def refuse(self, option: str, what: str, advice: str) -> None:
        """Record a mistake in an option other than its format."""
        self._refuse(self._sink.texts[option][0].place, what, advice)

    def _refuse(self, place: Place, what: str, advice: str) -> None:
        self.faults.append(Fault(place, Code.SINK_INVALID, what, advice))

    def _checked(self, option: str, allowed: _Format, template: PlaceholderText) -> str:
        value = template.filled(self._values)
        if allowed.pattern.fullmatch(value) is None:
            what = f"`{option}` cannot be {show(value)}"
            self._refuse(template.place, what, f"write {allowed.want}")
        return value


def _file(sink: FilledSink) -> FileAddress:
    path = sink.path("file", _PATH)
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _OTHER_FORMATS and not sink.has("format"):
        sink.refuse(
            "file",
            f"`file` ends in {suffix}, which is neither dotenv nor JSON",
            "write a path that ends in .env or .json, or add `format: dotenv` if that is what "
            "you mean",
        )
    if sink.text("format", _TEXT, "json" if suffix == ".json" else "dotenv") == "json":
        return FileAddress(path, sink.text("variable", _TEXT, sink.variable), "json")
    return FileAddress(path, sink.text("variable", _VARIABLE, sink.variable))


def _command(sink: FilledSink) -> CommandAddress:
    return CommandAddress(sink.program("command"), sink.program("check"))


def _vault(sink: FilledSink) -> VaultAddress:
    mount, _, path = sink.text("vault", _VAULT_PATH).partition("/")
    return VaultAddress(mount, path, sink.text("field", _TEXT, "token"))


def _aws(sink: FilledSink) -> AwsAddress:
    return AwsAddress(sink.text("aws", _AWS_NAME), sink.optional("region", _AWS_REGION))


def _github(sink: FilledSink) -> GithubAddress:
    owner, _, repository = sink.text("github", _GITHUB_PATH).partition("/")
    secret = sink.text("secret", _GITHUB_SECRET, sink.variable)
    environment = sink.optional("environment", _TEXT)
    if environment and not repository:
        sink.refuse("environment", "an organisation has no environments", "write OWNER/REPOSITORY")
    return GithubAddress(owner, secret, repository or None, environment)


def _gitlab(sink: FilledSink) -> GitlabAddress:
    project = sink.text("gitlab", _GITLAB_PATH)
    return GitlabAddress(project, sink.text("variable", _GITLAB_VARIABLE, sink.variable))


def _kubernetes(sink: FilledSink) -> KubernetesAddress:
    namespace, _, secret = sink.text("kubernetes", _KUBERNETES_PATH).partition("/")
    return KubernetesAddress(namespace, secret, sink.text("key", _KUBERNETES_KEY, "token"))


ADDRESSES: dict[str, Callable[[FilledSink], Address]] = {
    "file": _file,
    "command": _command,
    "vault": _vault,
    "aws": _aws,
    "github": _github,
    "gitlab": _gitlab,
    "kubernetes": _kubernetes,
}
"""The function that makes an address of each kind of sink, whose own option is always written."""

_OTHER_FORMATS = frozenset({".yaml", ".yml", ".toml", ".ini", ".xml"})
"""Suffixes of file formats that a sink cannot write."""
_NOT_IN_A_VARIABLE = re.compile(r"[^A-Za-z0-9]")
_CLEAN = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
_NO_DOTS = r"(?!\.{1,2}(?:/|\Z))"
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_ARGUMENT = _Format(re.compile(r"[^\0]*"), "an argument without NUL characters")
_PROGRAM = _Format(re.compile(r"[^\0]+"), "the name of a program, without NUL characters")
_TEXT = _Format(re.compile(rf"{_CLEAN}+"), "text without control characters")
_PATH = _Format(
    re.compile(rf"(?:{_CLEAN}*/)?{_NO_DOTS}(?:(?!/){_CLEAN})+"),
    "the path of a file, without control characters",
)
_VARIABLE = _Format(
    re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "letters, digits and _, not starting with a digit",
)
_VAULT_PATH = _Format(
    re.compile(rf"{_NO_DOTS}(?:(?!/){_CLEAN})+(?:/{_NO_DOTS}(?:(?!/){_CLEAN})+)+"),
    "MOUNT/PATH, such as secret/twenty/{name}",
)
_AWS_NAME = _Format(
    re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}"),
    "1 to 512 letters, digits or characters of /_+=.@-",
)
"""Source: AWS Secrets Manager API reference, CreateSecret, `Name`."""
_AWS_REGION = _Format(re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+"), "a region, such as eu-central-1")
_GITHUB_PATH = _Format(
    re.compile(rf"{_NO_DOTS}[A-Za-z0-9_.-]+(?:/{_NO_DOTS}[A-Za-z0-9_.-]+)?"),
    "OWNER/REPOSITORY, or an organisation",
)
_GITHUB_SECRET = _Format(
    re.compile(r"(?!(?i:GITHUB_))[A-Za-z_][A-Za-z0-9_]*"),
    "letters, digits and _, not starting with a digit or GITHUB_",
)
"""Source: GitHub docs, "Naming your secrets"."""
_GITLAB_PATH = _Format(
    re.compile(rf"{_NO_DOTS}[A-Za-z0-9_.-]+(?:/{_NO_DOTS}[A-Za-z0-9_.-]+)*"),
    "the path of a project or group, such as acme/billing",
)
_GITLAB_VARIABLE = _Format(
    re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}"),
    "up to 255 letters, digits and _, not starting with a digit",
)
"""Source: GitLab docs, "Project-level CI/CD variables API", `key`; shells allow no digit first."""
_KUBERNETES_PATH = _Format(
    re.compile(rf"(?=[^/]{{1,63}}/.{{1,253}}\Z){_LABEL}/{_LABEL}(?:\.{_LABEL})*"),
    "NAMESPACE/SECRET, in lowercase letters, digits and `-`; SECRET may also contain dots",
)
"""Source: Kubernetes docs, "Object Names and IDs": a label, and a subdomain."""
_KUBERNETES_KEY = _Format(
    re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]{1,253}"),
    "1 to 253 letters, digits, dots, - and _, but not . and not starting with ..",
)
"""Source: Kubernetes docs, "Secrets", constraints on names and data; the API refuses these dots."""
