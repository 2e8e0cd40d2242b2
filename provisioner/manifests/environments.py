"""The environments of the environments files: declared offline, then resolved for a run.

The same code checks the values in both cases. Offline it skips values that depend on a variable or
a file; in a run it expands the variables and reads the files. No message shows the value of a
variable, because it may be a secret in the wrong variable.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.problem import Place, Problem
from provisioner.http_client.loopback import is_loopback
from provisioner.manifests import characters, variables
from provisioner.manifests.causes import Affected, Cause, Causes, identified
from provisioner.manifests.document import Document, Mapping, Position, Sequence
from provisioner.manifests.document import read as read_document
from provisioner.manifests.matrix import EnvironmentsFile, Expanded, ValueLists, expand, fill
from provisioner.manifests.notify import DeclaredTarget, declared_targets
from provisioner.manifests.policy_check import DeclaredPolicy, PolicyCheck, policy_of, rules_of
from provisioner.manifests.schema import published
from provisioner.manifests.schema_errors import schema_problems
from provisioner.manifests.secret_text import password_in, secret_in
from provisioner.manifests.text import MAX_BYTES, read_bytes, reason
from provisioner.manifests.variables import Variable, VariableText
from provisioner.model.environment import (
    Credential,
    Environment,
    Guards,
    Limits,
    Share,
    StoredCredential,
    credential_of,
)
from provisioner.model.globs import covers
from provisioner.model.uuids import is_uuid
from provisioner.secret import Secret
from provisioner.sinks.kind import OptionValues
from provisioner.sinks.registry import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Mapping as MappingOf
    from pathlib import Path

    from provisioner.manifests.policy_check import Breach, Rule
    from provisioner.model.environment import Generation
    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address

_T = TypeVar("_T")

SANDBOX = ("sandbox:", "sandbox:core", "sandbox:core-1", "sandbox:core-newest", "sandbox:legacy")
"""The URLs of the embedded Twenty."""

MAX_DECLARED = 10_000
"""The limit of declarations in one file, as in the schema."""

MAX_ENVIRONMENTS = 100_000
"""The limit of environments in all files together."""

MAX_SECRET_BYTES = 64 * 2**10
"""The size limit of a token or password file."""


@dataclass(frozen=True, slots=True)
class DeclaredEnvironment:
    """An environment as declared, before variables and files are read.

    Attributes:
        name: its name.
        place: the place of its name.
        policy: its own rules, and the rules of the file that it does not override; None without
            any.
        document: the file.
        body: its values as written.
        matrix: the values of the placeholders in its texts, by axis; empty without a matrix.
    """

    name: str
    place: Place
    policy: DeclaredPolicy | None
    document: Document = field(repr=False)
    body: Mapping = field(repr=False)
    matrix: dict[str, str] = field(default_factory=dict)

    def place_of(self, key: str) -> Place:
        """Return the place of a value; that of the environment if it is missing."""
        if key not in self.body:
            return self.place
        return self.document.place(self.body.value_position(key))


@dataclass(frozen=True, slots=True)
class EnvironmentNames:
    """The names of all environments, and what manifests and `-e` may write for them.

    Attributes:
        all: the names, with or without problems, in the order of the files.
        of_matrix: the names that a matrix gives, by the name as written: `crm-{customer}`.
    """

    all: MappingOf[str, object]
    of_matrix: MappingOf[str, tuple[str, ...]] = field(default_factory=dict)

    def as_written(self) -> list[str]:
        """Return the names as written, one for each matrix."""
        expanded = {name for names in self.of_matrix.values() for name in names}
        return [one for one in (*self.all, *self.of_matrix) if one not in expanded]

    def matching(self, written: str) -> tuple[str, ...]:
        """Return the environments of a name, of a matrix by its name as written, or of a glob."""
        if written in self.all:
            return (written,)
        if written in self.of_matrix:
            return self.of_matrix[written]
        if not _GLOB.search(written):
            return ()
        return tuple(one for one in self.all if fnmatchcase(one, written))


class Declarations(NamedTuple):
    """The content of the environments files.

    Attributes:
        names: the names of all environments, with or without problems; None if they are not known.
        environments: the environments without problems, in the order of the files.
        policy_checks: their requirements for keys, without those that depend on variables.
        notify: who is told after a run, each once.
    """

    names: EnvironmentNames | None
    environments: tuple[DeclaredEnvironment, ...]
    policy_checks: dict[str, PolicyCheck]
    notify: tuple[DeclaredTarget, ...]


def declare(
    files: Iterable[EnvironmentsFile], lists: ValueLists, problems: list[Problem]
) -> Declarations:
    """Return the environments of all files, and add all problems that need no variable.

    Args:
        files: the files; the `policy` of the first holds for the environments of all.
        lists: the lists of values that the files name.
        problems: gets the problems.
    """
    found = _Declared(lists, problems)
    for file in files:
        found.add(file)
    problems += found.duplicates.problems()
    names = EnvironmentNames(found.places, found.of_matrix)
    known = names if found.complete and found.places else None
    targets = tuple(dict.fromkeys(found.notify))
    return Declarations(known, tuple(found.environments), found.policy_checks, targets)


class _Declared:
    """The environments of several files, whose names differ.

    Attributes:
        places: the place of each name.
        of_matrix: the names that a matrix gives, by the name as written.
        complete: whether all names are known.
        environments: the environments without problems.
        policy_checks: their requirements for keys.
        notify: who is told after a run.
        duplicates: the names that are declared twice.
    """

    def __init__(self, lists: ValueLists, problems: list[Problem]) -> None:
        self.places: dict[str, Place] = {}
        self.of_matrix: dict[str, tuple[str, ...]] = {}
        self.complete = True
        self.environments: list[DeclaredEnvironment] = []
        self.policy_checks: dict[str, PolicyCheck] = {}
        self.notify: list[DeclaredTarget] = []
        self.duplicates = Causes()
        self._lists = lists
        self._problems = problems
        self._common: dict[str, Rule] | None = None

    def add(self, file: EnvironmentsFile) -> None:
        """Add the environments and the problems of one file."""
        document, found = file.document, list[Problem]()
        root = document.root
        if not published("environments").check()(root):
            found += schema_problems(document, "environments")
        content = root if isinstance(root, Mapping) else Mapping()
        own, faults = rules_of(document, content.get("policy"))
        found += faults
        targets = content.get("notify")
        if isinstance(targets, Sequence):
            self.notify += declared_targets(document, targets, found)
        self._problems += found
        self._common = own if self._common is None else self._common
        common = {**self._common, **own}
        listed = content.get("environments")
        if not isinstance(listed, Mapping) or not listed:
            self.complete = False
            return
        # A partial mapping may have had names that could not be read.
        self.complete &= listed.position.index not in document.partial
        reported = {(problem.place, problem.code) for problem in found}
        for (name, body), position in zip(listed.items(), listed.positions[::2], strict=True):
            if not isinstance(body, Mapping) or len(listed) > MAX_DECLARED:
                self._add_name(name, document.place(position))
                continue
            # An environment that its schema rejects is checked too, to report all problems at once.
            self._problems += (
                fault
                for fault in self._add_environments(file, name, position, body, common)
                if (fault.place, fault.code) not in reported
            )

    def _add_environments(
        self,
        file: EnvironmentsFile,
        name: str,
        position: Position,
        body: Mapping,
        common: dict[str, Rule],
    ) -> Iterator[Problem]:
        """Add the environments of one declaration, and yield its problems."""
        document, place = file.document, file.document.place(position)
        expanded: tuple[Expanded, ...] = (Expanded(name, {}),)
        if "matrix" in body or "{" in name:
            expanded, problems = expand(file, name, position, body, self._lists)
            yield from problems
            if len(self.places) + len(expanded) > MAX_ENVIRONMENTS:
                message = (
                    f"all files declare more than {MAX_ENVIRONMENTS} environments: remove some"
                )
                yield Problem(place, Code.MATRIX_TOO_LARGE, message)
                expanded = ()
            self.complete &= bool(expanded)
            self.of_matrix[name] = tuple(one.name for one in expanded)
        rules, problems = rules_of(document, body.get("policy"))
        yield from problems
        policy = policy_of({**common, **rules})
        is_valid = published("environments").check("environment")(body) and not problems
        causes = Causes()
        for one in expanded:
            self._add_name(one.name, place)
            declared = DeclaredEnvironment(one.name, place, policy, document, body, one.values)
            builder = _Builder(declared, None, None)
            builder.environment()
            for cause in builder.found:
                causes.add(cause._replace(identity=None)).add(None, "", one.name)
            if is_valid and not builder.found:
                self.environments.append(declared)
                self.policy_checks[one.name] = builder.policy_check()
        yield from causes.problems()

    def _add_name(self, name: str, place: Place) -> None:
        """Add the name of an environment, and report one that another declaration has."""
        first = self.places.setdefault(name, place)
        if first != place:
            cause = Cause(Code.ENVIRONMENT_DUPLICATE, place, partial(_two, name, first), first)
            self.duplicates.add(cause).add(None, "", name)


def _two(name: str, first: Place, affected: Affected) -> str:
    return (
        f"{name}{affected.other_environments} is declared twice, first in {first.file} line "
        f"{first.line}: rename or remove one"
    )


_NO_KEYS: MappingOf[str, tuple[DesiredKey, ...]] = MappingProxyType({})


def url_of(declared: DeclaredEnvironment, values: MappingOf[str, str]) -> str | None:
    """Return the URL of an environment without reading a credential; None if it has a problem."""
    return _Builder(declared, values, None).url()


def resolve(
    declared: Iterable[DeclaredEnvironment],
    values: MappingOf[str, str],
    root: Path,
    desired: MappingOf[str, Iterable[DesiredKey]] = _NO_KEYS,
    *,
    secrets: bool = True,
) -> tuple[tuple[Environment, ...], tuple[Problem, ...]]:
    """Return the environments of a run without a problem, and the problems of the others.

    Args:
        declared: environments that `load` returned.
        values: the variables, usually `os.environ`.
        root: the directory that relative paths start at: `Manifests.environments_root`.
        desired: the keys by environment, checked against what depends on variables.
        secrets: False to leave out credentials, headers and certificates, and read no file.
    """
    environments: list[Environment] = []
    causes = Causes()
    for one in declared:
        builder = _Builder(one, values, root if secrets else None, secrets=secrets)
        environment = builder.environment()
        for cause in sorted(builder.found, key=lambda found: found.place):
            causes.add(cause).add(None, "", one.name)
        if builder.found:
            continue
        environments.append(environment)
        texts = (*builder.owns, *builder.ignore, builder.role)
        if any(text.template.variables for text in texts):
            check = builder.policy_check()
            for key, identity in identified(desired.get(one.name, ())):
                # `load` compares dates with the policy, if it is given the time.
                for breach in check.breaches(key, None):
                    causes.add(builder.cause(key, breach)).add(
                        identity, key.name, one.name, breach.rule
                    )
    return tuple(environments), tuple(causes.problems())


_SECRET_PARTS = ("auth", "headers", "ca_file", "client_cert_file", "client_key_file")


def secrets_declared(declared: DeclaredEnvironment, environment: Environment) -> str:
    """Return what `with_secrets` needs of a declaration: variables and paths, none of them read.

    Args:
        declared: the environment as written.
        environment: the same, resolved without secrets.
    """
    parts = {
        name: _filled(declared.body[name], declared)
        for name in _SECRET_PARTS
        if name in declared.body
    }
    # The URL is one that was accepted, and may not depend on the variables of another machine.
    body = {"url": environment.url.replace("$", "$$"), "insecure": True, **parts}
    return json.dumps({"version": 1, "environments": {declared.name: body}})


def _filled(value: object, declared: DeclaredEnvironment) -> object:
    """Return a part of a declaration with the values of its matrix, which has no mistakes."""
    match value:
        case str() if declared.matrix:
            return fill(value, declared.matrix, declared.place)[0]
        case Mapping():
            return {name: _filled(part, declared) for name, part in value.items()}
        case Sequence():
            return [_filled(part, declared) for part in value]
        case _:
            return value


def with_secrets(
    environment: Environment, declaration: str, values: MappingOf[str, str], root: Path
) -> Environment | tuple[Problem, ...]:
    """Return an environment with its credential, headers and certificates, or their problems.

    Args:
        environment: resolved without secrets, maybe on another machine.
        declaration: what `secrets_declared` returned.
        values: the variables of this machine.
        root: the directory that relative paths start at.
    """
    problems: list[Problem] = []
    document, _ = read_document(declaration, environment.name)
    files = () if document is None else (EnvironmentsFile(document, root),)
    lists = ValueLists(root, lambda _path, _place: None, problems)
    declared = declare(files, lists, problems).environments
    resolved, faults = resolve(declared, values, root)
    if problems or faults:
        return (*problems, *faults)
    (own,) = resolved
    return replace(
        environment,
        credential=own.credential,
        headers=own.headers,
        ca_file=own.ca_file,
        client_cert_file=own.client_cert_file,
        client_key_file=own.client_key_file,
    )


def _in_environments(message: str, affected: Affected) -> str:
    return f"{message}{affected.in_environments}"


@dataclass(frozen=True, slots=True)
class _Text:
    """A text of an environment.

    Attributes:
        text: the text as written; None if it is missing or has another type.
        place: its place, or that of the environment if it is missing.
        template: its literal parts and its variables; one unknown variable if it is invalid, which
            has been reported.
        value: the text with its variables expanded, maybe a secret; None if that is not possible.
    """

    text: str | None
    place: Place
    template: VariableText
    value: str | None = field(repr=False)


_UNKNOWN = VariableText((Variable(""),))
_GLOB = re.compile(r"[*?\[]")
_VARIABLES = {
    "token": "TWENTY_TOKEN",
    "session_token": "TWENTY_SESSION_TOKEN",
    "email": "TWENTY_EMAIL",
    "password": "TWENTY_PASSWORD",
    "totp": "TWENTY_TOTP_SECRET",
}
_STORES = ("vault", "aws", "kubernetes", "command")
"""The kinds of sinks that a credential can be read from."""
_SECRET_HEADER = re.compile(r"auth|token|secret|key|cookie|passw|credential|session", re.IGNORECASE)
_SCHEME = re.compile(r"(?:Basic|Bearer|Token) ", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t ]*[!-~\xa1-\xac\xae-\xff][\t -~\xa1-\xac\xae-\xff]*")
"""Printable characters of Latin-1; spaces around them are not sent."""
_TIMEOUT = re.compile(r"([0-9]{1,9})(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SANDBOXES = ", ".join(SANDBOX)
_NEVER_IN_URLS = re.compile(r"[\\\s\x00-\x20\x7f-\x9f]")
_API_PATH = re.compile(
    r"/(?:rest(?=$|/+(?:apiKeys|batch|metadata|open-api)(?:/|$))|(?:graphql|metadata)$)",
    re.IGNORECASE,
)
"""The path of Twenty's API at the end of a URL; requests add it."""
_SHARE = re.compile(r"([0-9]{1,3})%", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_MAXIMUMS = {"requests_per_minute": 1_000_000, "parallel": 100, "batch": 60}


class _Builder:
    """Builds one environment from its declaration, and collects the problems of its values.

    Args:
        declared: the environment as written.
        values: the values of the variables; None offline, to skip everything that needs one.
        root: the directory where relative paths start; None offline, to read no file.
        secrets: False to leave out credentials and headers.

    Attributes:
        found: the problems.
        owns: the globs of the keys that the environment owns.
        ignore: the globs of the keys that it ignores.
        role: the role of keys that have none.
    """

    def __init__(
        self,
        declared: DeclaredEnvironment,
        values: MappingOf[str, str] | None,
        root: Path | None,
        *,
        secrets: bool = True,
    ) -> None:
        self.found: list[Cause] = []
        self._secrets = secrets
        self._declared = declared
        self._body = declared.body
        self._values = values
        self._root = root
        self.owns, self.ignore = self._globs("owns"), self._globs("ignore")
        self.role = self._text("role")

    def environment(self) -> Environment:
        """Return the environment, which is complete if no problem was found."""
        declared, body = self._declared, self._body
        url = self.url()
        credential = self._credential(url) if self._secrets else None
        headers = self._headers() if self._secrets else ()
        named = [("a glob of `owns`", glob) for glob in self.owns]
        named += [("a glob of `ignore`", glob) for glob in self.ignore]
        for subject, text in (*named, ("`role`", self.role)):
            if text.text and (advice := characters.advice("the text", text.text)):
                self._problem(text.place, Code.CHARACTER_UNSEEN, advice)
            self._require(text, str.strip, f"{subject} is empty: write text, or remove it")
        self._check_owned_are_not_ignored()
        ca_file = self._file(self._text("ca_file"), _ca_file, Code.CA_FILE_UNREADABLE)
        client_cert_file, client_key_file = self._client_cert()
        generation = self._require(
            self._text("generation"),
            ("auto", "legacy", "core").__contains__,
            "`generation` is not valid: write auto, legacy or core",
        )
        workspace = self._require(
            self._text("workspace"),
            is_uuid,
            "`workspace` is not a UUID: write the id of the workspace",
        )
        return Environment(
            name=declared.name,
            url=url or "",
            credential=credential,
            origin=self._origin(),
            headers=headers,
            ca_file=ca_file,
            client_cert_file=client_cert_file,
            client_key_file=client_key_file,
            owns=tuple(glob.value for glob in self.owns if glob.value),
            ignore=tuple(glob.value for glob in self.ignore if glob.value),
            role=self.role.value,
            generation=None if generation == "auto" else cast("Generation | None", generation),
            workspace=workspace and workspace.lower(),
            limits=self._limits(),
            protect=body.get("protect") is True,
            guards=_guards(body.get("guards")),
            policy=None if declared.policy is None else declared.policy.policy,
        )

    def url(self) -> str | None:
        """Return the URL; None if it is missing or invalid."""
        text = self._text("url")
        if text.value is None:
            return None
        found = _url(text.value, insecure=self._body.get("insecure") is True)
        if isinstance(found, str):
            if not (api := _API_PATH.search(found, found.find("://") + 3)):  # a host is no path
                return found
            # The value of a variable is not shown.
            advice = (
                f"remove {api[0]} and everything after it"
                if text.template.variables
                else f"write {found[: api.start()].rstrip('/')}"
            )
            message = f"the URL ends in a path of Twenty's API ({api[0]}), which is added: {advice}"
            found = Code.URL_INVALID, message
        self._problem(text, *found)
        return None

    def _origin(self) -> str | None:
        """Return the address by which the workspace knows itself, if it is declared."""
        text = self._text("origin")
        if text.value is None:
            return None
        found = _url(text.value, insecure=True)  # nothing is sent to it
        if isinstance(found, str):
            if text.value not in SANDBOX and not urlsplit(found).path:
                return found
            message = "`origin` has a path: write only scheme and host, https://crm.example.com"
            found = Code.URL_INVALID, message
        self._problem(text, *found)
        return None

    def policy_check(self) -> PolicyCheck:
        """Return the requirements for keys that are known."""
        owns = tuple(glob.value for glob in self.owns if glob.value is not None)
        return PolicyCheck(
            environment=self._declared.name,
            owns=owns if len(owns) == len(self.owns) else None,
            owns_place=self.owns[0].place if self.owns else self._declared.place,
            ignore={glob.value: glob.place for glob in self.ignore if glob.value is not None},
            role=self.role.value,
            role_place=self.role.place,
            policy=self._declared.policy,
        )

    def cause(self, key: DesiredKey, breach: Breach) -> Cause:
        """Return the variable that makes a key break a requirement."""
        cause = breach.cause
        if cause.code == Code.ROTATION_UNOWNED:
            globs = tuple(glob.text for glob in self.owns)
            place = cause.related or cause.place
            return cause._replace(place=place, identity=globs, single=key.place)
        if cause.code == Code.POLICY_ROLE and key.role is None:
            return cause._replace(place=self.role.place, identity=self.role.text)
        return cause

    def _problem(self, at: Place | _Text, code: Code, message: str) -> None:
        """Record a problem; a text that is written in several places is one cause."""
        place, identity = (at.place, (at.text, message)) if isinstance(at, _Text) else (at, None)
        describe = partial(_in_environments, message)
        self.found.append(Cause(code, place, describe, identity=identity))

    def _require(
        self,
        text: _Text,
        accepts: Callable[[str], object],
        message: str,
        code: Code = Code.INVALID_VALUE,
    ) -> str | None:
        """Return the value of a text, and report it if it is known and not accepted."""
        if text.value is not None and not accepts(text.value):
            self._problem(text, code, message)
        return text.value

    def _expanded(self, value: object, position: Position) -> _Text:
        """Return a value of the body as text, and report its variables that have no value."""
        place = self._declared.document.place(position)
        if not isinstance(value, str):
            return _Text(None, place, _UNKNOWN, None)
        filled = value
        if self._declared.matrix:
            filled, faults = fill(value, self._declared.matrix, place)
            if faults:
                self.found += faults
                return _Text(value, place, _UNKNOWN, None)
        try:
            template = variables.parse(filled)
        except ValueError as error:
            self._problem(place, Code.VARIABLE_INVALID, str(error))
            return _Text(value, place, _UNKNOWN, None)
        if self._values is None:
            return _Text(value, place, template, template.constant)
        expanded = template.expand(self._values)
        if isinstance(expanded, str):
            return _Text(value, place, template, expanded)
        for missing in expanded:
            self.found.append(
                Cause(
                    Code.VARIABLE_MISSING,
                    place,
                    partial(_in_environments, str(missing)),
                    identity=missing.variable.name,
                    # Of several places, prefer one that has a message of its own.
                    rank=0 if missing.variable.message else 1,
                )
            )
        return _Text(value, place, template, None)

    def _globs(self, key: str) -> list[_Text]:
        """Return the globs in a list of the body; none if it is missing or not a list."""
        globs = self._body.get(key)
        listed = zip(globs, globs.positions, strict=True) if isinstance(globs, Sequence) else ()
        return [self._expanded(glob, position) for glob, position in listed]

    def _check_owned_are_not_ignored(self) -> None:
        """Report a glob of `owns` that can own nothing, because all its names are ignored."""
        for own in self.owns:
            found = next((one for one in self.ignore if _covers(one, own)), None)
            if found is not None:
                message = (
                    f"`ignore` (line {found.place.line}) matches every name that this glob of "
                    "`owns` matches, and ignored keys are never touched: remove one of the two"
                )
                self._problem(own, Code.OWNS_IGNORED, message)

    def _text(self, key: str) -> _Text:
        """Return the text of a key."""
        body = self._body
        if key not in body:
            return _Text(None, self._declared.place, VariableText(()), None)
        return self._expanded(body[key], body.value_position(key))

    def _texts(self, key: str) -> dict[str, _Text]:
        """Return the texts of `auth`, `headers` or `limits` by name; empty if it is missing."""
        node = self._body.get(key)
        if not isinstance(node, Mapping):
            return {}
        # A number in `limits` is like the value of a variable.
        values = [str(value) if type(value) is int else value for value in node.values()]
        return dict(zip(node, map(self._expanded, values, node.positions[1::2]), strict=True))

    def _key_place(self, node: Mapping, key: str) -> Place:
        """Return the place of a key, or of the mapping if it has no such key."""
        position = node.key_position(key) if key in node else node.position
        return self._declared.document.place(position)

    def _credential(self, url: str | None) -> Credential | StoredCredential | None:
        texts = self._texts("auth")
        place = self._key_place(self._body, "auth")
        for name, text in texts.items():
            if name in _VARIABLES and text.template.literal:
                self._problem(
                    text,
                    Code.SECRET_LITERAL,
                    f"`{name}` is written in the file: put it into a variable and write "
                    f"${{{_VARIABLES[name]}}}, without a default",
                )
        if url in SANDBOX:
            if "auth" in self._body:
                message = "the embedded Twenty needs no credentials: remove `auth`"
                self._problem(place, Code.AUTH_INVALID, message)
            return None
        if url is not None and "auth" not in self._body:
            message = (
                '`auth` is missing: write `auth: {token: "${TWENTY_TOKEN}"}` and set the variable '
                "to the token of an API key"
            )
            self._problem(place, Code.AUTH_MISSING, message)
        secrets: dict[str, Secret] = {}
        stored: dict[str, Address] = {}
        for name, text in texts.items():
            if isinstance(store := self._body["auth"][name], Mapping):
                if (address := self._store(name, store)) is not None:
                    stored[name] = address
            elif (secret := self._secret(name, text)) is not None:
                secrets[name.removesuffix("_file")] = secret
        return StoredCredential({**secrets, **stored}) if stored else credential_of(secrets)

    def _store(self, name: str, store: Mapping) -> Address | None:
        """Return the address of a secret in a store; None if it is unknown or has a problem."""
        if not published("environments").check("store")(store):
            return None  # its problems are reported
        written: dict[str, tuple[_Text, ...]] = {}
        for option, value in store.items():
            at = store.value_position(option)
            several = isinstance(value, Sequence)
            listed = zip(value, value.positions, strict=True) if several else [(value, at)]
            written[option] = tuple(self._expanded(*one) for one in listed)
        values = {
            option: tuple(text.value for text in texts if text.value is not None)
            for option, texts in written.items()
        }
        if any(len(values[option]) < len(written[option]) for option in written):
            return None
        kind = kind_of(next(one for one in _STORES if one in store))
        # A program that prints the secret is the `check` of a sink.
        values |= {"check": values["command"]} if "command" in values else {}
        default = {"vault": "field", "kubernetes": "key"}.get(kind.name)
        if default is not None:
            values.setdefault(default, (name,))
        options = OptionValues(kind, values, name, self._declared.name)
        address = kind.address(options)
        for option, position, _, advice, fault in options.rejections:
            # The value may come from a variable, so it is not shown.
            message = f"{fault or f'`{option}` is not valid'}: write {advice}"
            self._problem(written[option][position], Code.AUTH_INVALID, message)
        return None if options.rejections else address

    def _secret(self, name: str, text: _Text) -> Secret | None:
        """Return a secret of `auth`; None if it is unknown or has a problem."""
        value, source = text.value, "the value"
        written_in = " and ".join(one.name for one in text.template.variables)
        if name.endswith("_file"):
            value = self._file(text, _secret_in, Code.SECRET_FILE_UNREADABLE)
            source = f"the content of the file {f'in {written_in}' if written_in else text.value}"
        elif written_in:
            source = f"the value of {written_in}"
        if value is None:
            return None
        try:
            return Secret(secret_in(name, value))
        except ValueError as error:
            self._problem(text, Code.AUTH_INVALID, f"{source} {error}")
            return None

    def _file(self, path: _Text, read: Callable[[Path], _T], code: Code) -> _T | None:
        """Return the content of a file; None if it has a problem, and offline."""
        if path.value is None or self._root is None:
            return None
        try:
            return read(self._root / path.value)
        except OSError as error:
            fault = f"cannot be read: {reason(error)}"
        except ValueError as error:
            fault = str(error)
        # A path from a variable is not shown, because it may be the secret itself.
        file = "the file" if path.template.variables else f"the file {path.value}"
        self._problem(path, code, f"{file} {fault}")
        return None

    def _client_cert(self) -> tuple[Path | None, Path | None]:
        """Return the files of the client certificate and of its private key, if it has its own."""
        cert, key = self._text("client_cert_file"), self._text("client_key_file")
        own_key = "client_key_file" in self._body
        if own_key and "client_cert_file" not in self._body:
            message = "this key has no certificate: add `client_cert_file`, or remove this line"
            self._problem(key, Code.CLIENT_CERT_INVALID, message)
        read_cert = partial(_pem_file, certificate=True, key=not own_key)
        read_key = partial(_pem_file, certificate=False, key=True)
        cert_file = self._file(cert, read_cert, Code.CLIENT_CERT_INVALID)
        key_file = self._file(key, read_key, Code.CLIENT_CERT_INVALID)
        if cert_file is not None and (key_file is not None or not own_key):
            from provisioner.http_client.tls import (  # noqa: PLC0415 - few environments have one
                client_cert_fault,
            )

            if fault := client_cert_fault(cert_file, key_file):
                self._problem(key if own_key else cert, Code.CLIENT_CERT_INVALID, fault)
        return cert_file, key_file

    def _headers(self) -> tuple[tuple[str, Secret], ...]:
        found: dict[str, tuple[str, Secret]] = {}
        for written_name, text in self._texts("headers").items():
            name = written_name.lower()
            message = None
            if not _HEADER_NAME.fullmatch(name):
                message = "the name of a header may contain only letters, digits and -"
            elif name == "authorization":
                message = "`Authorization` is set from `auth`: remove this header"
            elif name in found:
                message = (
                    f"`{written_name}` is set twice, because header names are case-insensitive: "
                    "keep one"
                )
            if message is not None:
                place = self._key_place(self._body["headers"], written_name)
                self._problem(place, Code.HEADER_INVALID, message)
            if _SECRET_HEADER.search(name) and _is_literal(text.template):
                self._problem(
                    text,
                    Code.SECRET_LITERAL,
                    "the name of this header suggests a secret, and its value is written in the "
                    "file: put the whole value into a variable, without a default",
                )
            self._require(
                text,
                _HEADER_VALUE.fullmatch,
                "the value is empty, or contains characters that a header cannot have",
                Code.HEADER_INVALID,
            )
            found[name] = (written_name, Secret((text.value or "").strip()))
        return tuple(found.values())

    def _limits(self) -> Limits:
        found: dict[str, Any] = {}
        for name, text in self._texts("limits").items():
            if text.value is None or name not in (*_MAXIMUMS, "timeout"):
                continue
            if name == "timeout":
                parsed = _TIMEOUT.fullmatch(text.value)
                found[name] = int(parsed[1]) * _SECONDS[parsed[2]] if parsed else 0.0
                maximum, advice = (
                    _SECONDS["h"],
                    "write a time with a unit, up to 1h: 500ms, 30s, 2m",
                )
            else:
                found[name] = int(text.value) if _COUNT.fullmatch(text.value) else 0
                maximum = _MAXIMUMS[name]
                advice = f"write a whole number from 1 to {maximum}"
            if not 0 < found[name] <= maximum:
                self._problem(text, Code.INVALID_VALUE, f"`{name}` is not valid: {advice}")
        return Limits(**found)


def _covers(ignored: _Text, owned: _Text) -> bool:
    """Return whether every name that the second glob matches is ignored, as far as is known."""
    if ignored.value is None or owned.value is None:
        return False
    return covers(ignored.value, owned.value)


def _secret_in(file: Path) -> str:
    """Return the content of a secret file, without the line break at its end."""
    data = read_bytes(file, MAX_SECRET_BYTES)
    if data is None:
        raise ValueError(f"is larger than {MAX_SECRET_BYTES} bytes")
    try:
        return password_in(data.decode())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def _ca_file(file: Path) -> Path:
    if not read_bytes(file, MAX_BYTES):
        raise ValueError("is empty or too large")
    return file


def _pem_file(file: Path, *, certificate: bool, key: bool) -> Path:
    content = read_bytes(file, MAX_SECRET_BYTES)
    if content is None:
        raise ValueError(f"is larger than {MAX_SECRET_BYTES} bytes")
    if certificate and b"CERTIFICATE-----" not in content:
        raise ValueError("contains no certificate in the PEM format")
    if key and b"PRIVATE KEY-----" not in content:
        advice = ": name the file that does in `client_key_file`" if certificate else ""
        raise ValueError(f"contains no private key in the PEM format{advice}")
    if key and b"ENCRYPTED" in content:
        raise ValueError(
            "contains an encrypted private key: write it without a passphrase, with `openssl pkey`"
        )
    return file


def _is_literal(template: VariableText) -> bool:
    """Return whether a header has text other than variables and a scheme such as `Bearer `."""
    match template.parts:
        case (str() as first, *rest) if _SCHEME.fullmatch(first):
            return VariableText(tuple(rest)).literal
        case _:
            return template.literal


def _guards(node: object) -> Guards:
    match node.get("max_revoke") if isinstance(node, Mapping) else None:
        case int() as count:
            return Guards(count)
        case str() as text if found := _SHARE.fullmatch(text):
            return Guards(Share(int(found[1])))
        case _:
            return Guards()


def _url(text: str, *, insecure: bool) -> str | tuple[Code, str]:
    """Return the URL in the form of `Environment`, or its problem, which does not show it."""
    if text in SANDBOX:
        return text
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return Code.URL_INVALID, "the host or port of the URL is not valid: correct it"
    if "@" in parts.netloc:
        message = "the URL contains credentials: remove them, and use `auth` with variables"
        return Code.URL_CREDENTIALS, message
    faults = {
        f"this is not a valid sandbox URL: write one of {_SANDBOXES}": text.startswith("sandbox:"),
        "the URL contains a space, a backslash or a control character: remove it": (
            _NEVER_IN_URLS.search(text)
        ),
        "the URL has no scheme: write https:// before the host": "://" not in text,
        "the scheme of the URL is unknown: write https://": parts.scheme not in ("https", "http"),
        "the URL has no host: write, for example, https://crm.example.com": not host,
        "the URL has a query or a fragment: remove the ? or # and everything after it": (
            "?" in text or "#" in text
        ),
    }
    for message, is_wrong in faults.items():
        if is_wrong:
            return Code.URL_INVALID, message
    if parts.scheme == "http" and not insecure and not is_loopback(host):
        message = (
            "anyone on the network path can read credentials sent over plain http: write https://, "
            "or `insecure: true` if you trust the network"
        )
        return Code.URL_INSECURE, message
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"
