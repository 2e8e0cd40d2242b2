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
class DeclaredText:
    """A value as written, and its place."""

    template: VariableText
    place: Place


@dataclass(frozen=True, slots=True)
class DeclaredEntry:
    """A name and its value: a header, a part of `auth` or a limit."""

    name: str
    name_place: Place
    value: DeclaredText


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredEnvironment:
    """An environment as declared in environments.yaml, before variables and files are read.

    Attributes:
        place: the place of its name.
        auth: the parts of `auth`, in one of the forms that the schema allows; None without `auth`.
        auth_place: the place of `auth`, or of the environment's mapping if it has none.
        limits: the limits by name, with numbers as text.
        policy: its own rules, and the rules of the file that it does not override; None without
            any.
    """

    name: str
    place: Place
    url: DeclaredText
    auth: tuple[DeclaredEntry, ...] | None = None
    auth_place: Place
    headers: tuple[DeclaredEntry, ...] = ()
    ca_file: DeclaredText | None = None
    owns: tuple[DeclaredText, ...] = ()
    role: DeclaredText | None = None
    generation: DeclaredText | None = None
    workspace: DeclaredText | None = None
    insecure: bool = False
    limits: tuple[DeclaredEntry, ...] = ()
    protect: bool = False
    guards: Guards = field(default_factory=Guards)
    policy: DeclaredPolicy | None = None

    @property
    def policy_check(self) -> PolicyCheck:
        """Return its requirements for keys, without those that depend on variables."""
        known = all(not glob.template.variables for glob in self.owns)
        return PolicyCheck(
            environment=self.name,
            owns=tuple(_value_without_variables(glob) or "" for glob in self.owns)
            if known
            else None,
            owns_place=self.owns[0].place if self.owns else self.place,
            role=_value_without_variables(self.role),
            role_place=self.role.place if self.role else self.place,
            policy=self.policy,
        )

    @property
    def policy_check_varies(self) -> bool:
        """Return whether its requirements for keys depend on variables."""
        return any(written and written.template.variables for written in (*self.owns, self.role))


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
        declared, faults = _declared(document, name, document.place(position), body, common)
        faults += _check(declared)
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
    return _Resolver(values, None).url(declared)


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
        resolver = _Resolver(values, root)
        environment = resolver.environment(one)
        for problem, identity, rank in resolver.found:
            cause = Cause(problem.code, problem.place, identity)
            causes.add(cause, partial(_in_environments, problem.message), rank=rank).add(
                None, "", one.name
            )
        if environment is None or resolver.found:
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
        globs = tuple(glob.template for glob in declared.owns)
        return Cause(code, check.owns_place, globs, single=key.place)
    if code == Code.POLICY_ROLE and key.role is None and declared.role is not None:
        return Cause(code, check.role_place, declared.role.template)
    return Cause(code, key.place)


def _in_environments(message: str, affected: Affected) -> str:
    return f"{message}{affected.in_environments}"


def _check(declared: DeclaredEnvironment) -> list[Problem]:
    """Return the problems of an environment that no variable can change."""
    resolver = _Resolver(None, None)
    resolver.environment(declared)
    for part in declared.auth or ():
        if part.name in _VARIABLES and part.value.template.literal:
            resolver.problem(
                part.value,
                Code.SECRET_LITERAL,
                f"`{part.name}` is written in the file: put it into a variable and write "
                f"${{{_VARIABLES[part.name]}}}, without a default",
            )
    for header in declared.headers:
        if _SECRET_HEADER.search(header.name) and _literal_header(header.value.template):
            resolver.problem(
                header.value,
                Code.SECRET_LITERAL,
                "the name of this header suggests a secret, and its value is written in the file: "
                "put the whole value into a variable, without a default",
            )
    return resolver.problems


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


def _value_without_variables(written: DeclaredText | None) -> str | None:
    """Return a value that contains no variables; None if it does or is missing."""
    text = None if written is None else written.template.expand({})
    return text if isinstance(text, str) and written and not written.template.variables else None


def _declared(
    document: Document, name: str, place: Place, body: Mapping, common: dict[str, Rule]
) -> tuple[DeclaredEnvironment, list[Problem]]:
    """Return one environment, without values of a wrong type, and its invalid variables."""
    problems: list[Problem] = []

    def text(value: object, position: Position) -> DeclaredText:
        template = _UNKNOWN
        at = document.place(position)
        if isinstance(value, str):
            try:
                template = variables.parse(value)
            except ValueError as error:
                problems.append(Problem(at, Code.VARIABLE_INVALID, str(error)))
        return DeclaredText(template, at)

    def visible_text(value: object, position: Position) -> DeclaredText:
        if isinstance(value, str) and (message := characters.advice("the text", value)):
            problems.append(Problem(document.place(position), Code.CHARACTER_UNSEEN, message))
        return text(value, position)

    def value_of(key: str) -> DeclaredText | None:
        return text(body[key], body.value_position(key)) if key in body else None

    def entries_of(key: str) -> tuple[DeclaredEntry, ...]:
        node = body.get(key)
        if not isinstance(node, Mapping):
            return ()
        places = map(document.place, node.positions[::2])
        values = map(text, map(_text_of, node.values()), node.positions[1::2])
        return tuple(map(DeclaredEntry, node, places, values))

    owns = body.get("owns")
    rules, faults = _rules(document, body.get("policy"))
    problems += faults
    declared = DeclaredEnvironment(
        name=name,
        place=place,
        url=value_of("url") or DeclaredText(_UNKNOWN, place),
        auth=entries_of("auth") if "auth" in body else None,
        auth_place=document.place(body.key_position("auth") if "auth" in body else body.position),
        headers=entries_of("headers"),
        ca_file=value_of("ca_file"),
        owns=tuple(map(visible_text, owns, owns.positions)) if isinstance(owns, Sequence) else (),
        role=visible_text(body["role"], body.value_position("role")) if "role" in body else None,
        generation=value_of("generation"),
        workspace=value_of("workspace"),
        insecure=body.get("insecure") is True,
        limits=entries_of("limits"),
        protect=body.get("protect") is True,
        guards=_guards(body.get("guards")),
        policy=policy_of({**common, **rules}),
    )
    return declared, problems


def _text_of(value: object) -> object:
    """Return a number of `limits` as text, like the value of a variable."""
    return str(value) if type(value) is int else value


class _Resolver:
    """Resolves the values of one environment and collects their problems.

    Args:
        values: the values of the variables; None offline, to skip everything that needs one.
        root: the directory where relative paths start; None offline, to read no file.

    Attributes:
        found: each problem with the identity and the rank of its cause.
    """

    def __init__(self, values: collections.abc.Mapping[str, str] | None, root: Path | None) -> None:
        self.found: list[tuple[Problem, Hashable, int]] = []
        self._values = values
        self._root = root

    def environment(self, declared: DeclaredEnvironment) -> Environment | None:
        """Return the environment; None if it has no valid URL."""
        url = self.url(declared)
        credential = self._credential(declared, url)
        headers = self._headers(declared.headers)
        ca_file = self._ca_file(declared.ca_file)
        globs = (self._nonempty(glob, "a glob of `owns`") for glob in declared.owns)
        owns = tuple(filter(None, globs))
        role = self._nonempty(declared.role, "`role`")
        generation = self._generation(declared.generation)
        workspace = self._workspace(declared.workspace)
        limits = self._limits(declared.limits)
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
            protect=declared.protect,
            guards=declared.guards,
            policy=None if declared.policy is None else declared.policy.policy,
        )

    @property
    def problems(self) -> list[Problem]:
        """Return the problems that were found."""
        return [problem for problem, _, _ in self.found]

    def problem(self, at: Place | DeclaredText, code: Code, message: str) -> None:
        """Record a problem; a text that is written in several places is one cause."""
        if isinstance(at, DeclaredText):
            self._record(Problem(at.place, code, message), (at.template, message))
        else:
            self._record(Problem(at, code, message))

    def _record(self, problem: Problem, identity: Hashable = None, rank: int = 0) -> None:
        """Record a problem.

        Args:
            problem: the problem.
            identity: what identifies its cause; None for its place.
            rank: of several problems with one cause, the lowest rank gives the message.
        """
        self.found.append((problem, identity, rank))

    def _text(self, written: DeclaredText | None) -> str | None:
        """Return the expanded value; None if it is missing or depends on a missing variable."""
        if written is None:
            return None
        if self._values is None:
            expanded = written.template.expand({}) if not written.template.variables else ()
        else:
            expanded = written.template.expand(self._values)
        if isinstance(expanded, str):
            return expanded
        for missing in expanded:
            # Prefer a place that has a message of its own.
            self._record(
                Problem(written.place, Code.VARIABLE_MISSING, str(missing)),
                missing.variable.name,
                rank=0 if missing.variable.message else 1,
            )
        return None

    def _nonempty(self, written: DeclaredText | None, subject: str) -> str | None:
        text = self._text(written)
        if written is not None and text is not None and not text.strip():
            message = f"{subject} is empty: write text, or remove it"
            self.problem(written, Code.INVALID_VALUE, message)
            return None
        return text

    def url(self, declared: DeclaredEnvironment) -> str | None:
        """Return the URL; None if it is missing or invalid."""
        text = self._text(declared.url)
        if text is None:
            return None
        found = _url(text, declared.url.place, insecure=declared.insecure)
        if isinstance(found, str):
            return found
        self.problem(declared.url, found.code, found.message)
        return None

    def _credential(self, declared: DeclaredEnvironment, url: str | None) -> Credential | None:
        parts = {part.name: part.value for part in declared.auth or ()}
        if url in SANDBOX and declared.auth is not None:
            message = "the embedded Twenty needs no credentials: remove `auth`"
            self.problem(declared.auth_place, Code.AUTH_INVALID, message)
            parts = {}
        elif url is not None and url not in SANDBOX and declared.auth is None:
            message = (
                '`auth` is missing: write `auth: {token: "${TWENTY_TOKEN}"}` and set the variable '
                "to the token of an API key"
            )
            self.problem(declared.auth_place, Code.AUTH_MISSING, message)
        match parts:
            case {"token": written}:
                return self._token(ApiToken, written, self._text(written))
            case {"token_file": written}:
                return self._token(ApiToken, written, self._file(written))
            case {"session_token": written}:
                return self._token(SessionToken, written, self._text(written))
            case {"email": email, "password": written}:
                return _sign_in(self._text(email), self._text(written))
            case {"email": email, "password_file": written}:
                return _sign_in(self._text(email), self._file(written))
            case _:
                return None

    def _token(
        self, kind: type[ApiToken | SessionToken], written: DeclaredText, text: str | None
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
        self.problem(written, Code.AUTH_INVALID, message)
        return None

    def _file(self, written: DeclaredText) -> str | None:
        """Return the content of a secret file, without the line break at its end."""
        name = self._text(written)
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
        self.problem(written, Code.SECRET_FILE_UNREADABLE, f"{file} {fault}")
        return None

    def _headers(self, headers: tuple[DeclaredEntry, ...]) -> tuple[tuple[str, Secret], ...]:
        found: dict[str, tuple[str, Secret]] = {}
        for header in headers:
            name = header.name.lower()
            if not _HEADER_NAME.fullmatch(name):
                message = "the name of a header may contain only letters, digits and -"
                self.problem(header.name_place, Code.HEADER_INVALID, message)
            elif name == "authorization":
                message = "`Authorization` is set from `auth`: remove this header"
                self.problem(header.name_place, Code.HEADER_INVALID, message)
            elif name in found:
                message = (
                    f"`{header.name}` is set twice, because header names are case-insensitive: "
                    "keep one"
                )
                self.problem(header.name_place, Code.HEADER_INVALID, message)
            value = self._text(header.value)
            if value is not None and not _sendable(value):
                message = "the value is empty, or contains characters that a header cannot have"
                self.problem(header.value, Code.HEADER_INVALID, message)
            found[name] = (header.name, Secret((value or "").strip()))
        return tuple(found.values())

    def _ca_file(self, written: DeclaredText | None) -> Path | None:
        name = self._text(written)
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
        self.problem(written, Code.CA_FILE_UNREADABLE, f"{file} {fault}")
        return None

    def _generation(self, written: DeclaredText | None) -> Generation | None:
        text = self._text(written)
        if written is None or text is None or text == "auto":
            return None
        if text not in ("legacy", "core"):
            message = "`generation` is not valid: write auto, legacy or core"
            self.problem(written, Code.INVALID_VALUE, message)
            return None
        return cast("Generation", text)

    def _workspace(self, written: DeclaredText | None) -> str | None:
        text = self._text(written)
        if written is None or text is None:
            return None
        if not is_uuid(text):
            message = "`workspace` is not a UUID: write the id of the workspace"
            self.problem(written, Code.INVALID_VALUE, message)
            return None
        return text.lower()

    def _limits(self, limits: tuple[DeclaredEntry, ...]) -> Limits:
        found: dict[str, Any] = {}
        for limit in limits:
            text = self._text(limit.value)
            if text is None or limit.name not in (*_MAXIMUMS, "timeout"):
                continue
            if limit.name == "timeout":
                parsed = _TIMEOUT.fullmatch(text)
                seconds = int(parsed[1]) * _SECONDS[parsed[2]] if parsed else 0.0
                if 0 < seconds <= _SECONDS["h"]:
                    found["timeout"] = seconds
                    continue
                advice = "write a time with a unit, up to 1h: 500ms, 30s, 2m"
            else:
                maximum = _MAXIMUMS[limit.name]
                if _COUNT.fullmatch(text) and 1 <= int(text) <= maximum:
                    found[limit.name] = int(text)
                    continue
                advice = f"write a whole number from 1 to {maximum}"
            self.problem(limit.value, Code.INVALID_VALUE, f"`{limit.name}` is not valid: {advice}")
        return replace(Limits(), **found)


def _sign_in(email: str | None, password: str | None) -> SignIn | None:
    if email is None or password is None:
        return None
    return SignIn(Secret(email.strip()), Secret(password))


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
