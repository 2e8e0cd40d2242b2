"""The sinks of `deliver`: templates taken apart, filled in for one key, and held to their vendors.

An address that a vendor could not have is a fault with its place, told before anything is sent.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

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
    """A mistake in a text of a name or a sink.

    Attributes:
        place: the place of the text.
        code: the code of the problem.
        what: what is wrong, without the keys that it is wrong for.
        advice: what to write instead.
    """

    place: Place
    code: str
    what: str
    advice: str

    def describe(self, affected: Affected) -> str:
        """Return the message of the problem."""
        # The placeholders that a sink may have depend on the key.
        named = self.code == "placeholder_unknown" and affected.keys
        keys = f" for {affected.key}" if named else affected.for_keys
        return f"{self.what}{keys}: {self.advice}"


def parts_of(text: str, known: tuple[str, ...], place: Place) -> tuple[list[str], list[Fault]]:
    """A text in turns of text and placeholder, and what is wrong with it."""
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
                variable := variables.written_in(f"${found[0]}")
            ):
                what = variables.unread(variable)
                advice = f"{variables.VALUE_ITSELF}, or ${{{{{variable}}}}} for these characters"
                faults.append(Fault(place, "variable_invalid", what, advice))
            case ("name", str() as placeholder) if placeholder.strip():
                close = difflib.get_close_matches(placeholder[:64], known, n=1)
                advice = f"did you mean {{{close[0]}}}?" if close else "add it to `matrix`,"
                what = f"the placeholder {show(placeholder)} is not known"
                advice += " or write {{ for a brace"
                faults.append(Fault(place, "placeholder_unknown", what, advice))
            case _:
                what, advice = "a brace stands alone", "write {{ or }} for the brace itself"
                faults.append(Fault(place, "placeholder_invalid", what, advice))
    parts[-1] += text[start:]
    return parts, faults


@dataclass(frozen=True, slots=True)
class PlaceholderText:
    """A text of a sink.

    Attributes:
        parts: in turns of text and placeholder.
    """

    parts: tuple[str, ...]
    place: Place

    def filled(self, values: dict[str, str]) -> str:
        """The text with the values in place of the placeholders."""
        if len(self.parts) == 1:
            return self.parts[0]
        return "".join(
            [values[part] if index % 2 else part for index, part in enumerate(self.parts)]
        )


@dataclass(frozen=True, slots=True)
class SinkTemplate:
    """One item of a `deliver`; an option with one text has one template."""

    kind: str
    texts: dict[str, tuple[PlaceholderText, ...]]
    place: Place


class _Form(NamedTuple):
    """How a value must look, and how that is said."""

    pattern: re.Pattern[str]
    want: str


class Filled:
    """The texts of a sink with the values of one key in place of the placeholders.

    Attributes:
        faults: what the sink cannot have, in the order asked for.
    """

    def __init__(self, sink: SinkTemplate, values: dict[str, str]) -> None:
        self.faults: list[Fault] = []
        self._sink = sink
        self._values = values

    def text(self, option: str, form: _Form, default: str = "") -> str:
        """The value of an option, or the default where it is not written."""
        if option in self._sink.texts:
            (template,) = self._sink.texts[option]
            return self._fit(option, form, template)
        if form.pattern.fullmatch(default) is None:
            what = f"{form.want}, not {show(default)}"
            self._refuse(self._sink.place, what, f"write `{option}`")
        return default

    def optional(self, option: str, form: _Form) -> str | None:
        """The value of an option that has no default."""
        return self.text(option, form) if option in self._sink.texts else None

    def has(self, option: str) -> bool:
        """Return whether the option is written."""
        return option in self._sink.texts

    def program(self, option: str) -> tuple[str, ...]:
        """A program and its arguments; empty where none is written."""
        return tuple(
            self._fit(option, _ARGUMENT if index else _PROGRAM, template)
            for index, template in enumerate(self._sink.texts.get(option, ()))
        )

    def enclosed(self, option: str, form: _Form) -> str:
        """A path that no placeholder leads out of its folder."""
        (template,) = self._sink.texts[option]
        for placeholder in template.parts[1::2]:
            value = self._values[placeholder]
            # What consists of dots alone may become `..` beside another dot.
            if "/" in value or "\\" in value or not value.strip("."):
                what = f"{{{placeholder}}} is {show(value)}, which leads to another folder"
                self._refuse(template.place, what, "leave it out of a path")
        return self._fit(option, form, template)

    @property
    def variable(self) -> str:
        """The name of the key as the name of a variable."""
        name = _NOT_IN_A_VARIABLE.sub("_", self._values["name"]).upper()
        return f"_{name}" if name[0].isdigit() else name

    def refuse(self, option: str, what: str, advice: str) -> None:
        """Notes what is wrong with an option beside how it looks."""
        self._refuse(self._sink.texts[option][0].place, what, advice)

    def _refuse(self, place: Place, what: str, advice: str) -> None:
        self.faults.append(Fault(place, "sink_invalid", what, advice))

    def _fit(self, option: str, form: _Form, template: PlaceholderText) -> str:
        value = template.filled(self._values)
        if form.pattern.fullmatch(value) is None:
            self._refuse(template.place, f"`{option}` cannot be {show(value)}", form.want)
        return value


def _file(sink: Filled) -> FileAddress:
    path = sink.enclosed("file", _PATH)
    ending = PurePosixPath(path).suffix.lower()
    if ending in _OTHER_FORMATS and not sink.has("format"):
        sink.refuse(
            "file",
            f"`file` ends in {ending}, which neither dotenv nor JSON does",
            "write a path that ends in .env or .json, or `format: dotenv` if you mean that",
        )
    if sink.text("format", _TEXT, "json" if ending == ".json" else "dotenv") == "json":
        return FileAddress(path, sink.text("variable", _TEXT, sink.variable), "json")
    return FileAddress(path, sink.text("variable", _VARIABLE, sink.variable))


def _command(sink: Filled) -> CommandAddress:
    return CommandAddress(sink.program("command"), sink.program("check"))


def _vault(sink: Filled) -> VaultAddress:
    mount, _, path = sink.text("vault", _VAULT_PATH).partition("/")
    return VaultAddress(mount, path, sink.text("field", _TEXT, "token"))


def _aws(sink: Filled) -> AwsAddress:
    return AwsAddress(sink.text("aws", _AWS_NAME), sink.optional("region", _AWS_REGION))


def _github(sink: Filled) -> GithubAddress:
    owner, _, repository = sink.text("github", _GITHUB_PATH).partition("/")
    secret = sink.text("secret", _GITHUB_SECRET, sink.variable)
    environment = sink.optional("environment", _TEXT)
    if environment and not repository:
        sink.refuse("environment", "an organisation has no environments", "write OWNER/REPOSITORY")
    return GithubAddress(owner, secret, repository or None, environment)


def _gitlab(sink: Filled) -> GitlabAddress:
    project = sink.text("gitlab", _GITLAB_PATH)
    return GitlabAddress(project, sink.text("variable", _GITLAB_VARIABLE, sink.variable))


def _kubernetes(sink: Filled) -> KubernetesAddress:
    namespace, _, secret = sink.text("kubernetes", _KUBERNETES_PATH).partition("/")
    return KubernetesAddress(namespace, secret, sink.text("key", _KUBERNETES_KEY, "token"))


ADDRESSES: dict[str, Callable[[Filled], Address]] = {
    "file": _file,
    "command": _command,
    "vault": _vault,
    "aws": _aws,
    "github": _github,
    "gitlab": _gitlab,
    "kubernetes": _kubernetes,
}
"""How each kind of sink becomes an address; the value under the kind's name is always there."""

_OTHER_FORMATS = frozenset({".yaml", ".yml", ".toml", ".ini", ".xml"})
"""Endings of files that a sink cannot write as what they are."""
_NOT_IN_A_VARIABLE = re.compile(r"[^A-Za-z0-9]")
_CLEAN = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
_NO_DOTS = r"(?!\.{1,2}(?:/|\Z))"
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_ARGUMENT = _Form(re.compile(r"[^\0]*"), "an argument has no NUL character")
_PROGRAM = _Form(re.compile(r"[^\0]+"), "a program has a name, without NUL characters")
_TEXT = _Form(re.compile(rf"{_CLEAN}+"), "write text without control characters")
_PATH = _Form(
    re.compile(rf"(?:{_CLEAN}*/)?{_NO_DOTS}(?:(?!/){_CLEAN})+"),
    "write the path of a file, without control characters",
)
_VARIABLE = _Form(
    re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "a variable has letters, digits and _, and starts with no digit",
)
_VAULT_PATH = _Form(
    re.compile(rf"{_NO_DOTS}(?:(?!/){_CLEAN})+(?:/{_NO_DOTS}(?:(?!/){_CLEAN})+)+"),
    "write MOUNT/PATH, as in secret/twenty/{name}",
)
_AWS_NAME = _Form(
    re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}"),
    "a name has 1 to 512 letters, digits and signs of /_+=.@-",
)
"""Source: AWS Secrets Manager API reference, CreateSecret, `Name`."""
_AWS_REGION = _Form(re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+"), "write a region, as in eu-central-1")
_GITHUB_PATH = _Form(
    re.compile(rf"{_NO_DOTS}[A-Za-z0-9_.-]+(?:/{_NO_DOTS}[A-Za-z0-9_.-]+)?"),
    "write OWNER/REPOSITORY, or an organisation",
)
_GITHUB_SECRET = _Form(
    re.compile(r"(?!(?i:GITHUB_))[A-Za-z_][A-Za-z0-9_]*"),
    "a secret has letters, digits and _, and starts with no digit and not with GITHUB_",
)
"""Source: GitHub docs, "Naming your secrets"."""
_GITLAB_PATH = _Form(
    re.compile(rf"{_NO_DOTS}[A-Za-z0-9_.-]+(?:/{_NO_DOTS}[A-Za-z0-9_.-]+)*"),
    "write the path of a project or group, as in acme/billing",
)
_GITLAB_VARIABLE = _Form(
    re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}"),
    "a variable has up to 255 letters, digits and _, and starts with no digit",
)
"""Source: GitLab docs, "Project-level CI/CD variables API", `key`; no shell has a leading digit."""
_KUBERNETES_PATH = _Form(
    re.compile(rf"(?=[^/]{{1,63}}/.{{1,253}}\Z){_LABEL}/{_LABEL}(?:\.{_LABEL})*"),
    "write NAMESPACE/SECRET in small letters, digits and -, the secret with dots too",
)
"""Source: Kubernetes docs, "Object Names and IDs": a label, and a subdomain."""
_KUBERNETES_KEY = _Form(
    re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]{1,253}"),
    "a key has 1 to 253 letters, digits, dots, - and _, and is not . and starts with no ..",
)
"""Source: Kubernetes docs, "Secrets", constraints on names and data; the API refuses dots so."""
