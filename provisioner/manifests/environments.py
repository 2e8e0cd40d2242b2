"""The environments of environments.yaml: declared offline, then resolved for a run.

The same code checks the values in both cases. Offline it skips values that depend on a variable or
a file; in a run it expands the variables and reads the files. No message shows the value of a
variable, because it may be a secret in the wrong variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.problem import Place, Problem
from provisioner.http_client.loopback import is_loopback
from provisioner.manifests import characters, variables
from provisioner.manifests.causes import Cause, Causes, identified
from provisioner.manifests.document import Document, Mapping, Position, Sequence
from provisioner.manifests.policy_check import DeclaredPolicy, PolicyCheck, policy_of, rules_of
from provisioner.manifests.schema import published
from provisioner.manifests.schema_errors import environments_problems
from provisioner.manifests.text import MAX_BYTES, read_bytes, reason
from provisioner.manifests.variables import Variable, VariableText
from provisioner.model.environment import (
    ApiToken,
    Credential,
    Environment,
    Guards,
    Limits,
    SessionToken,
    Share,
    SignIn,
)
from provisioner.model.uuids import is_uuid
from provisioner.secret import Secret

if TYPE_CHECKING:
    import collections.abc
    from collections.abc import Hashable
    from pathlib import Path

    from provisioner.manifests.causes import Affected
    from provisioner.manifests.policy_check import Rule
    from provisioner.model.environment import Generation
    from provisioner.model.key import DesiredKey

SANDBOX = ("sandbox:", "sandbox:core", "sandbox:core-1", "sandbox:legacy")
"""The URLs of the embedded Twenty."""

MAX_ENVIRONMENTS = 10_000
"""The limit of environments in one file, as in the schema."""

MAX_SECRET_BYTES = 64 * 2**10
"""The size limit of a token or password file."""


@dataclass(frozen=True, slots=True)
class DeclaredEnvironment:
    """An environment as declared in environments.yaml, before variables and files are read.

    Attributes:
        name: its name.
        place: the place of its name.
        policy: its own rules, and the rules of the file that it does not override; None without
            any.
        document: the file.
        body: its values as written.
    """

    name: str
    place: Place
    policy: DeclaredPolicy | None
    document: Document = field(repr=False)
    body: Mapping = field(repr=False)

    @property
    def policy_check(self) -> PolicyCheck:
        """Return its requirements for keys, without those that depend on variables."""
        owns, role = self.owns, self.role
        values = [glob.without_variables for glob in owns]
        return PolicyCheck(
            environment=self.name,
            owns=None if None in values else tuple(filter(None, values)),
            owns_place=owns[0].place if owns else self.place,
            role=role.without_variables if role else None,
            role_place=role.place if role else self.place,
            policy=self.policy,
        )

    @property
    def policy_check_varies(self) -> bool:
        """Return whether its requirements for keys depend on variables."""
        return any(written and written.template.variables for written in (*self.owns, self.role))

    @property
    def owns(self) -> tuple[WrittenText, ...]:
        """Return the globs of the keys that it owns."""
        owns = self.body.get("owns")
        if not isinstance(owns, Sequence):
            return ()
        return tuple(map(self.written, owns, owns.positions))

    @property
    def url(self) -> WrittenText:
        """Return the URL."""
        return self.text("url") or WrittenText(None, self.place)

    @property
    def role(self) -> WrittenText | None:
        """Return the role of keys that have none, or None."""
        return self.text("role")

    def text(self, key: str) -> WrittenText | None:
        """Return the text of a key; None if it is missing."""
        body = self.body
        return self.written(body[key], body.value_position(key)) if key in body else None

    def written(self, value: object, position: Position) -> WrittenText:
        """Return a value in the body as text."""
        text = value if isinstance(value, str) else None
        return WrittenText(text, self.document.place(position))


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A text as written, with its place.

    Attributes:
        text: the text; None if the value has another type, which has been reported.
    """

    text: str | None
    place: Place

    @property
    def template(self) -> VariableText:
        """Return its literal parts and its variables, or one unknown variable if it is invalid."""
        try:
            return _UNKNOWN if self.text is None else variables.parse(self.text)
        except ValueError:
            return _UNKNOWN

    @property
    def without_variables(self) -> str | None:
        """Return the value if it depends on no variable, or None."""
        template = self.template
        expanded = template.expand({})
        return expanded if isinstance(expanded, str) and not template.variables else None


@dataclass(frozen=True, slots=True)
class Declarations:
    """The content of an environments file.

    Attributes:
        names: the names of all environments, with or without problems; None if they are not known.
        environments: the environments without problems, in the order of the file.
        problems: all problems that can be found offline.
    """

    names: tuple[str, ...] | None
    environments: tuple[DeclaredEnvironment, ...]
    problems: tuple[Problem, ...]


def declare(document: Document) -> Declarations:
    """Return the environments of a document, and all problems that need no variable."""
    schema = published("environments")
    problems = [] if schema.check()(document.root) else environments_problems(document)
    root = document.root
    listed, policy = (
        (root.get("environments"), root.get("policy"))
        if isinstance(root, Mapping)
        else (None, None)
    )
    common, faults = _rules(document, policy)
    problems += faults
    if not isinstance(listed, Mapping):
        return Declarations(None, (), tuple(problems))
    check = schema.check("environment")
    reported = {(problem.place, problem.code) for problem in problems}
    environments: list[DeclaredEnvironment] = []
    for (name, body), position in zip(listed.items(), listed.positions[::2], strict=True):
        if not isinstance(body, Mapping) or len(listed) > MAX_ENVIRONMENTS:
            continue
        rules, faults = _rules(document, body.get("policy"))
        own_policy = policy_of({**common, **rules})
        declared = DeclaredEnvironment(name, document.place(position), own_policy, document, body)
        builder = _Builder(declared, None, None)
        builder.environment()
        faults += builder.problems
        # An environment that its schema rejects is checked too, to report all problems at once.
        problems += (fault for fault in faults if (fault.place, fault.code) not in reported)
        if check(body) and not faults:
            environments.append(declared)
    # A partial mapping may have had names that could not be read.
    known = listed and listed.position.index not in document.partial
    return Declarations(tuple(listed) if known else None, tuple(environments), tuple(problems))


_NO_KEYS: collections.abc.Mapping[str, tuple[DesiredKey, ...]] = MappingProxyType({})


def url_of(declared: DeclaredEnvironment, values: collections.abc.Mapping[str, str]) -> str | None:
    """Return the URL of an environment without reading a credential; None if it has a problem."""
    return _Builder(declared, values, None).url()


def resolve(
    declared: collections.abc.Iterable[DeclaredEnvironment],
    values: collections.abc.Mapping[str, str],
    root: Path,
    desired: collections.abc.Mapping[str, collections.abc.Iterable[DesiredKey]] = _NO_KEYS,
) -> tuple[tuple[Environment, ...], tuple[Problem, ...]]:
    """Return the environments of a run without a problem, and the problems of the others.

    Args:
        declared: environments that `load` returned.
        values: the variables, usually `os.environ`.
        root: the directory that relative paths start at: `Manifests.environments_root`.
        desired: the keys by environment, checked against what depends on variables.
    """
    environments: list[Environment] = []
    causes = Causes()
    for one in declared:
        builder = _Builder(one, values, root)
        environment = builder.environment()
        for problem, identity, rank in builder.found:
            cause = Cause(problem.code, problem.place, identity)
            causes.add(cause, partial(_in_environments, problem.message), rank=rank).add(
                None, "", one.name
            )
        if environment is None or builder.found:
            continue
        environments.append(environment)
        if one.policy_check_varies:
            check = replace(one.policy_check, owns=environment.owns, role=environment.role)
            for key, identity in identified(desired.get(one.name, ())):
                # `load` compares dates with the policy, if it is given the time.
                for breach in check.breaches(key, None):
                    causes.add(_cause(one, key, breach.code), breach.describe, breach.related).add(
                        identity, key.name, one.name, breach.rule
                    )
    return tuple(environments), tuple(causes.problems())


def _cause(declared: DeclaredEnvironment, key: DesiredKey, code: Code) -> Cause:
    """Return the variable that makes a key break a rule of its environment."""
    check = declared.policy_check
    if code == Code.ROTATION_UNOWNED:
        globs = tuple(glob.text for glob in declared.owns)
        return Cause(code, check.owns_place, globs, single=key.place)
    if code == Code.POLICY_ROLE and key.role is None and declared.role is not None:
        return Cause(code, check.role_place, declared.role.text)
    return Cause(code, key.place)


def _in_environments(message: str, affected: Affected) -> str:
    return f"{message}{affected.in_environments}"


_UNKNOWN = VariableText((Variable(""),))
"""Replaces an invalid value, which has been reported; offline it is like any variable."""

_VARIABLES = {
    "token": "TWENTY_TOKEN",
    "session_token": "TWENTY_SESSION_TOKEN",
    "email": "TWENTY_EMAIL",
    "password": "TWENTY_PASSWORD",
}
_SECRET_HEADER = re.compile(r"auth|token|secret|key|cookie|passw|credential|session", re.IGNORECASE)
_SCHEME = re.compile(r"(?:Basic|Bearer|Token) ", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_TIMEOUT = re.compile(r"([0-9]{1,9})(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NEVER_IN_URLS = re.compile(r"[\\\s\x00-\x20\x7f-\x9f]")
_SHARE = re.compile(r"([0-9]{1,3})%", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_MAXIMUMS = {"requests_per_minute": 1_000_000, "parallel": 100, "batch": 60}


def _literal_header(template: VariableText) -> bool:
    """Return whether a header has text other than variables and a scheme such as `Bearer `."""
    match template.parts:
        case (str() as first, _, *_) if _SCHEME.fullmatch(first):
            return VariableText(template.parts[1:]).literal
        case _:
            return template.literal


def _rules(document: Document, node: object) -> tuple[dict[str, Rule], list[Problem]]:
    """Return the rules of a `policy`; none if it is missing or invalid."""
    if isinstance(node, Mapping) and published("environments").check("policy")(node):
        return rules_of(document, node)
    return {}, []


def _guards(node: object) -> Guards:
    match node.get("max_revoke") if isinstance(node, Mapping) else None:
        case int() as count:
            return Guards(count)
        case str() as text if found := _SHARE.fullmatch(text):
            return Guards(Share(int(found[1])))
        case _:
            return Guards()


class _Builder:
    """Builds one environment from its declaration, and collects the problems of its values.

    Args:
        declared: the environment as written.
        values: the values of the variables; None offline, to skip everything that needs one.
        root: the directory where relative paths start; None offline, to read no file.

    Attributes:
        found: each problem with the identity and the rank of its cause.
    """

    def __init__(
        self,
        declared: DeclaredEnvironment,
        values: collections.abc.Mapping[str, str] | None,
        root: Path | None,
    ) -> None:
        self.found: list[tuple[Problem, Hashable, int]] = []
        self._declared = declared
        self._body = declared.body
        self._values = values
        self._root = root

    def environment(self) -> Environment | None:
        """Return the environment; None if it has no valid URL."""
        declared, body = self._declared, self._body
        for written in (*declared.owns, declared.role):
            self._check_characters(written)
        url = self.url()
        credential = self._credential(url)
        headers = self._headers()
        ca_file = self._ca_file()
        globs = (self._nonempty(glob, "a glob of `owns`") for glob in declared.owns)
        owns = tuple(filter(None, globs))
        role = self._nonempty(declared.role, "`role`")
        generation = self._generation()
        workspace = self._workspace()
        limits = self._limits()
        if url is None:
            return None
        return Environment(
            name=declared.name,
            url=url,
            credential=credential,
            headers=headers,
            ca_file=ca_file,
            owns=owns,
            role=role,
            generation=generation,
            workspace=workspace,
            limits=limits,
            protect=body.get("protect") is True,
            guards=_guards(body.get("guards")),
            policy=None if declared.policy is None else declared.policy.policy,
        )

    @property
    def problems(self) -> list[Problem]:
        """Return the problems that were found."""
        return [problem for problem, _, _ in self.found]

    def url(self) -> str | None:
        """Return the URL; None if it is missing or invalid."""
        written = self._declared.url
        text = self._value(written)
        if text is None:
            return None
        found = _url(text, written.place, insecure=self._body.get("insecure") is True)
        if isinstance(found, str):
            return found
        self._problem(written, found.code, found.message)
        return None

    def _problem(self, at: Place | WrittenText, code: Code, message: str) -> None:
        """Record a problem; a text that is written in several places is one cause."""
        if isinstance(at, WrittenText):
            self.found.append((Problem(at.place, code, message), (at.text, message), 0))
        else:
            self.found.append((Problem(at, code, message), None, 0))

    def _check_characters(self, written: WrittenText | None) -> None:
        if written and written.text and (advice := characters.advice("the text", written.text)):
            self._problem(written.place, Code.CHARACTER_UNSEEN, advice)

    def _value(self, written: WrittenText | None) -> str | None:
        """Return the expanded value; None if it is missing or depends on a missing variable."""
        if written is None or written.text is None:
            return None
        try:
            template = variables.parse(written.text)
        except ValueError as error:
            self._problem(written.place, Code.VARIABLE_INVALID, str(error))
            return None
        if self._values is None and template.variables:
            return None
        expanded = template.expand(self._values or {})
        if isinstance(expanded, str):
            return expanded
        for missing in expanded:
            # Of several places, prefer one that has a message of its own.
            problem = Problem(written.place, Code.VARIABLE_MISSING, str(missing))
            rank = 0 if missing.variable.message else 1
            self.found.append((problem, missing.variable.name, rank))
        return None

    def _nonempty(self, written: WrittenText | None, subject: str) -> str | None:
        text = self._value(written)
        if written is not None and text is not None and not text.strip():
            message = f"{subject} is empty: write text, or remove it"
            self._problem(written, Code.INVALID_VALUE, message)
            return None
        return text

    def _entries(self, key: str) -> dict[str, WrittenText]:
        """Return the texts of `auth`, `headers` or `limits` by name; empty if it is missing."""
        node = self._body.get(key)
        if not isinstance(node, Mapping):
            return {}
        # A number in `limits` is like the value of a variable.
        texts = [str(value) if type(value) is int else value for value in node.values()]
        written = map(self._declared.written, texts, node.positions[1::2])
        return dict(zip(node, written, strict=True))

    def _key_place(self, node: Mapping, key: str) -> Place:
        """Return the place of a key, or of the mapping if it has no such key."""
        position = node.key_position(key) if key in node else node.position
        return self._declared.document.place(position)

    def _credential(self, url: str | None) -> Credential | None:
        parts = self._entries("auth")
        place = self._key_place(self._body, "auth")
        for name, written in parts.items():
            if name in _VARIABLES and written.template.literal:
                self._problem(
                    written,
                    Code.SECRET_LITERAL,
                    f"`{name}` is written in the file: put it into a variable and write "
                    f"${{{_VARIABLES[name]}}}, without a default",
                )
        if url in SANDBOX and "auth" in self._body:
            message = "the embedded Twenty needs no credentials: remove `auth`"
            self._problem(place, Code.AUTH_INVALID, message)
            return None
        if url is not None and url not in SANDBOX and "auth" not in self._body:
            message = (
                '`auth` is missing: write `auth: {token: "${TWENTY_TOKEN}"}` and set the variable '
                "to the token of an API key"
            )
            self._problem(place, Code.AUTH_MISSING, message)
        values = {
            name: self._file(written) if name.endswith("_file") else self._value(written)
            for name, written in parts.items()
        }
        match values:
            case {"token": text} | {"token_file": text}:
                return self._token(ApiToken, parts, text)
            case {"session_token": text}:
                return self._token(SessionToken, parts, text)
            case {"email": str() as email, "password": str() as password} | {
                "email": str() as email,
                "password_file": str() as password,
            }:
                return SignIn(Secret(email.strip()), Secret(password))
            case _:
                return None

    def _token(
        self,
        kind: type[ApiToken | SessionToken],
        parts: dict[str, WrittenText],
        text: str | None,
    ) -> ApiToken | SessionToken | None:
        if text is None:
            return None
        # Many shells and files add a line break.
        token = text.strip()
        if token and all("!" <= character <= "~" for character in token):
            return kind(Secret(token))
        message = (
            "this is not a token: it is empty, or contains characters that a token cannot have. "
            "Write only the token, without `Bearer`"
        )
        self._problem(next(iter(parts.values())), Code.AUTH_INVALID, message)
        return None

    def _file(self, written: WrittenText) -> str | None:
        """Return the content of a secret file, without the line break at its end."""
        name = self._value(written)
        if name is None or self._root is None:
            return None
        # A path from a variable is not shown, because it may be the secret itself.
        file = "the file" if written.template.variables else f"the file {name}"
        try:
            data = read_bytes(self._root / name, MAX_SECRET_BYTES)
            text = None if data is None else data.decode().removesuffix("\n").removesuffix("\r")
        except OSError as error:
            fault = f"cannot be read: {reason(error)}"
        except UnicodeDecodeError:
            fault = "is not UTF-8 text"
        else:
            if text:
                return text
            fault = "is empty" if text is not None else f"is larger than {MAX_SECRET_BYTES} bytes"
        self._problem(written, Code.SECRET_FILE_UNREADABLE, f"{file} {fault}")
        return None

    def _headers(self) -> tuple[tuple[str, Secret], ...]:
        found: dict[str, tuple[str, Secret]] = {}
        for written_name, written in self._entries("headers").items():
            name = written_name.lower()
            place = self._key_place(self._body["headers"], written_name)
            if not _HEADER_NAME.fullmatch(name):
                message = "the name of a header may contain only letters, digits and -"
                self._problem(place, Code.HEADER_INVALID, message)
            elif name == "authorization":
                message = "`Authorization` is set from `auth`: remove this header"
                self._problem(place, Code.HEADER_INVALID, message)
            elif name in found:
                message = (
                    f"`{written_name}` is set twice, because header names are case-insensitive: "
                    "keep one"
                )
                self._problem(place, Code.HEADER_INVALID, message)
            if _SECRET_HEADER.search(name) and _literal_header(written.template):
                self._problem(
                    written,
                    Code.SECRET_LITERAL,
                    "the name of this header suggests a secret, and its value is written in the "
                    "file: put the whole value into a variable, without a default",
                )
            value = self._value(written)
            if value is not None and not _sendable(value):
                message = "the value is empty, or contains characters that a header cannot have"
                self._problem(written, Code.HEADER_INVALID, message)
            found[name] = (written_name, Secret((value or "").strip()))
        return tuple(found.values())

    def _ca_file(self) -> Path | None:
        written = self._declared.text("ca_file")
        name = self._value(written)
        if written is None or name is None or self._root is None:
            return None
        path = self._root / name
        file = "the file" if written.template.variables else f"the file {name}"
        try:
            if read_bytes(path, MAX_BYTES):
                return path
            fault = "is empty or too large"
        except OSError as error:
            fault = f"cannot be read: {reason(error)}"
        self._problem(written, Code.CA_FILE_UNREADABLE, f"{file} {fault}")
        return None

    def _generation(self) -> Generation | None:
        written = self._declared.text("generation")
        text = self._value(written)
        if written is None or text is None or text == "auto":
            return None
        if text not in ("legacy", "core"):
            message = "`generation` is not valid: write auto, legacy or core"
            self._problem(written, Code.INVALID_VALUE, message)
            return None
        return cast("Generation", text)

    def _workspace(self) -> str | None:
        written = self._declared.text("workspace")
        text = self._value(written)
        if written is None or text is None:
            return None
        if not is_uuid(text):
            message = "`workspace` is not a UUID: write the id of the workspace"
            self._problem(written, Code.INVALID_VALUE, message)
            return None
        return text.lower()

    def _limits(self) -> Limits:
        found: dict[str, Any] = {}
        for name, written in self._entries("limits").items():
            text = self._value(written)
            if text is None or name not in (*_MAXIMUMS, "timeout"):
                continue
            if name == "timeout":
                parsed = _TIMEOUT.fullmatch(text)
                seconds = int(parsed[1]) * _SECONDS[parsed[2]] if parsed else 0.0
                if 0 < seconds <= _SECONDS["h"]:
                    found["timeout"] = seconds
                    continue
                advice = "write a time with a unit, up to 1h: 500ms, 30s, 2m"
            else:
                maximum = _MAXIMUMS[name]
                if _COUNT.fullmatch(text) and 1 <= int(text) <= maximum:
                    found[name] = int(text)
                    continue
                advice = f"write a whole number from 1 to {maximum}"
            self._problem(written, Code.INVALID_VALUE, f"`{name}` is not valid: {advice}")
        return replace(Limits(), **found)


def _url(text: str, place: Place, *, insecure: bool) -> str | Problem:
    """Return the URL in the form of `Environment`, or its problem, which does not show it."""
    if text in SANDBOX:
        return text
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return Problem(
            place, Code.URL_INVALID, "the host or port of the URL is not valid: correct it"
        )
    if "@" in parts.netloc:
        message = "the URL contains credentials: remove them, and use `auth` with variables"
        return Problem(place, Code.URL_CREDENTIALS, message)
    for wrong, message in (
        (
            text.startswith("sandbox:"),
            f"this is not a valid sandbox URL: write one of {', '.join(SANDBOX)}",
        ),
        (
            _NEVER_IN_URLS.search(text),
            "the URL contains a space, a backslash or a control character: remove it",
        ),
        ("://" not in text, "the URL has no scheme: write https:// before the host"),
        (parts.scheme not in ("https", "http"), "the scheme of the URL is unknown: write https://"),
        (not host, "the URL has no host: write, for example, https://crm.example.com"),
        (
            "?" in text or "#" in text,
            "the URL has a query or a fragment: remove the ? or # and everything after it",
        ),
    ):
        if wrong:
            return Problem(place, Code.URL_INVALID, message)
    if parts.scheme == "http" and not insecure and not is_loopback(host):
        message = (
            "anyone on the network path can read credentials sent over plain http: write https://, "
            "or `insecure: true` if you trust the network"
        )
        return Problem(place, Code.URL_INSECURE, message)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _sendable(value: str) -> bool:
    """Return whether a header can have this value; spaces around it are not sent."""
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return bool(value.strip()) and all(c.isprintable() or c == "\t" for c in value)
