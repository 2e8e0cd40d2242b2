"""The diagnosis: what each environment and its sinks let a run do, found by reading alone."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING, Literal, Self, assert_never

from provisioner.desired import ApiToken, SessionToken, SignIn
from provisioner.errors import ProvisionError, RefusedError, SinkError, WorkspaceError
from provisioner.fleet import one_workspace_twice
from provisioner.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.plan.diff import SOON
from provisioner.sinks.sink import Holds, Nothing, Unread
from provisioner.stop import STOPPED
from provisioner.threads import Threads
from provisioner.times import format_moment
from provisioner.token import claims_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Executor
    from types import TracebackType

    from provisioner.address import Address
    from provisioner.desired import DesiredKey, Environment, Generation, Limits
    from provisioner.fleet import Connect
    from provisioner.observed import Observation, Role, Roles
    from provisioner.secret import Secret
    from provisioner.sinks.sink import OpenSink
    from provisioner.stop import Stop
    from provisioner.twenty.terms import Terms
    from provisioner.twenty.workspace import Workspace

CheckName = Literal[
    "reached",
    "generation",
    "credential",
    "keys",
    "roles",
    "writes",
    "clock",
    "limits",
    "sinks",
    "tokens",
]
"""What is looked at: that the server answers; its dialect; what opens it; whether keys can be
listed, roles be given and keys be written; its clock; its limits; the places of tokens; the
tokens of live keys in them."""


@dataclass(frozen=True, slots=True)
class Fine:
    """Nothing to do."""

    check: CheckName
    message: str


@dataclass(frozen=True, slots=True)
class Doubtful:
    """It works, and someone should know or do something."""

    check: CheckName
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A run would fail by it.

    Attributes:
        code: as a plan or a result would say it, one of those in docs/errors.md.
    """

    check: CheckName
    code: str
    message: str
    remedy: str


Check = Fine | Doubtful | Broken


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found of one environment.

    Attributes:
        generation: None where it was not reached.
        workspace: its id, None where that is not known.
    """

    environment: str
    url: str
    generation: Generation | None
    checks: tuple[Check, ...]
    workspace: str | None = None

    @property
    def failed(self) -> bool:
        """Whether anything is broken."""
        return any(isinstance(check, Broken) for check in self.checks)


class Doctor:
    """Examines environments, one unit of work each; writes nothing.

    Attributes:
        surprise: the first bug that an environment met; the others went on.

    Args:
        connect: opens a workspace.
        open_sink: opens a sink.
        executor: runs one unit of work for each environment.
        stop: ends the examination early.
    """

    def __init__(
        self, connect: Connect, open_sink: OpenSink, executor: Executor, stop: Stop
    ) -> None:
        self._connect = connect
        self._open_sink = open_sink
        self._executor = executor
        self._stop = stop
        self._stack = ExitStack()
        self.surprise: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # No workspace is closed under a unit that is still at work, but for one left behind.
        self._executor.shutdown(wait=not self._stop.asked, cancel_futures=True)
        self._stack.close()

    def examine(
        self,
        environments: tuple[Environment, ...],
        desired: Mapping[str, tuple[DesiredKey, ...]] | None,
        only: tuple[str, ...] = (),
    ) -> tuple[Diagnosis, ...]:
        """Looks at every environment and at the sinks of its keys.

        Args:
            environments: whatever happens to one does not stop the others.
            desired: the desired keys by environment; None where the manifests have problems.
            only: globs of key names that bound the sinks looked at; none means all.
        """

        def keys_of(environment: Environment) -> tuple[DesiredKey, ...] | None:
            if desired is None:
                return None
            keys = desired.get(environment.name, ())
            return tuple(key for key in keys if not only or _matches(key.name, only))

        futures = [self._executor.submit(self._examined, one, keys_of(one)) for one in environments]
        self._stop.wait_for(futures, graceful=False)
        stopped = WorkspaceError(STOPPED.code, STOPPED.message)
        found = (
            future.result() if future.done() else _undone(environment, stopped)
            for environment, future in zip(environments, futures, strict=True)
        )
        return tuple(_told_of_shared(environments, tuple(found)))

    def _examined(self, environment: Environment, keys: tuple[DesiredKey, ...] | None) -> Diagnosis:
        try:
            return self._examine(environment, keys)
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            self.surprise = self.surprise or error
            bug = WorkspaceError(
                "internal_error",
                f"A bug ended the look at {environment.name} ({type(error).__name__}).",
                remedy="Please report it.",
            )
            return _undone(environment, bug)

    def _examine(self, environment: Environment, keys: tuple[DesiredKey, ...] | None) -> Diagnosis:
        places = _Places(environment, self._open_sink, self._stop)
        generation = None
        workspace_id = None
        try:
            workspace = self._connect(environment, self._stack)
            observation = workspace.observe()
            checks = list(_of_server(environment, observation, workspace.terms()))
        except (WorkspaceError, RefusedError) as error:
            checks = list(_unusable(environment, error))
        else:
            generation, workspace_id = workspace.generation, observation.workspace
            places.hold_against(workspace, observation)
        checks += places.checks(keys)
        return Diagnosis(environment.name, environment.url, generation, tuple(checks), workspace_id)


def _told_of_shared(
    environments: tuple[Environment, ...], diagnoses: tuple[Diagnosis, ...]
) -> Iterator[Diagnosis]:
    """The diagnoses, those of one workspace told so."""
    workspaces = zip(environments, (one.workspace for one in diagnoses), strict=True)
    shared = {
        name: _broken("credential", error)
        for names, error in one_workspace_twice(workspaces)
        for name in names
    }
    for one in diagnoses:
        broken = shared.get(one.environment)
        yield one if broken is None else replace(one, checks=(*one.checks, broken))


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _undone(environment: Environment, error: ProvisionError) -> Diagnosis:
    return Diagnosis(environment.name, environment.url, None, (_broken("reached", error),))


def _broken(check: CheckName, error: ProvisionError) -> Broken:
    return Broken(check, error.slug, error.message, error.remedy)


# The workspace

_MISMATCHES = ("workspace_mismatch", "workspace_unknown", "auth_missing")
"""What is known before the server was asked for anything."""


def _unusable(environment: Environment, error: ProvisionError) -> Iterator[Check]:
    """What a workspace that cannot be used is broken by; whoever refuses was reached."""
    concern = _concern(error.slug)
    if concern != "reached" and error.slug not in _MISMATCHES:
        yield _reached(environment)
    yield _broken(concern, error)


def _concern(code: str) -> CheckName:
    """The check that an error of a whole workspace belongs to."""
    if code in _MISMATCHES or code == "sign_in_failed" or code.startswith("credential_"):
        return "credential"
    if code in ("unexpected_answer", "rejected"):
        return "generation"
    return "keys" if code == "permission_denied" else "reached"


def _of_server(environment: Environment, observation: Observation, terms: Terms) -> Iterator[Check]:
    """The checks of a workspace that could be looked at."""
    session = _is_session(environment, terms)
    yield _reached(environment)
    yield Fine("generation", _release(observation.generation, terms))
    yield _credential(environment, observation, terms, session=session)
    live = sum(key.live(observation.server_time) for key in observation.keys)
    yield Fine("keys", f"{_count(len(observation.keys), 'key')} listed, {live} live.")
    yield _roles(environment, observation.roles)
    yield _writes(observation, terms, session=session)
    yield _clock(terms)
    yield _limits(environment.limits, terms)


def _reached(environment: Environment) -> Fine:
    what = "The embedded Twenty" if environment.embedded else environment.url
    return Fine("reached", f"{what} answers.")


def _release(generation: Generation, terms: Terms) -> str:
    match generation, terms.release:
        case "legacy", _:
            return "Legacy: Twenty up to 1.2."
        case "core", None:
            return "Core: Twenty 1.3 or later; its answers do not tell whether 1.x or 2.x."
        case "core", release:
            return f"Core: Twenty {release}."
        case _:
            assert_never(generation)


def _is_session(environment: Environment, terms: Terms) -> bool:
    """Whether the credential is a user's: by its own claims, else by how it is declared."""
    kind = None if terms.claims is None else terms.claims.kind
    if kind in ("API_KEY", "ACCESS"):
        return kind == "ACCESS"
    return not isinstance(environment.credential, ApiToken)


def _credential(
    environment: Environment, observation: Observation, terms: Terms, *, session: bool
) -> Check:
    """What opens the workspace, until when, and which workspace that is."""
    ends = None if terms.claims is None else terms.claims.ends
    match environment.credential:
        case None:
            kind, ends = "The embedded Twenty's own session", None
        case SignIn():
            kind = "A sign-in with e-mail and password"
            kind += f" (its session until {format_moment(ends)} is renewed)" if ends else ""
            ends = None
        case ApiToken() | SessionToken():
            kind = "A user's session token" if session else "The token of an API key"
            kind += f" until {format_moment(ends)}" if ends else " that shows no end"
        case _:
            assert_never(environment.credential)
    message = f"{kind}, {_pin(environment, observation.workspace)}."
    if ends is None or ends - observation.server_time > SOON:
        return Fine("credential", message)
    renewed = "Sign in with an email and a password, which needs no new token, or put a new one"
    remedy = f"{renewed if session else 'Put a new token'} where `auth` names it, before that."
    return Doubtful("credential", f"{message} It ends within {SOON.days} days.", remedy)


def _pin(environment: Environment, workspace: str | None) -> str:
    if workspace is None:
        return "which does not show its workspace"
    if environment.workspace is not None:
        return f"of workspace {workspace}, as pinned"
    hint = "" if environment.embedded else ", which `workspace` does not pin"
    return f"of workspace {workspace}{hint}"


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def _roles(environment: Environment, roles: Roles) -> Check:
    """Whether keys can be given roles, the environment's own among them."""
    role = environment.role
    match roles:
        case NoRoles():
            ignored = "" if role is None else f", so the environment's role {role!r} is ignored"
            return Fine("roles", f"Keys of this generation have none{ignored}.")
        case HiddenRoles():
            remedy = "Give the role of the credential the permission for roles, or write ids."
            message = (
                "They are hidden from this credential, so that a role must be written as an id"
            )
            if role is None or _UUID.fullmatch(role):
                return Doubtful("roles", f"{message}.", remedy)
            return Broken("roles", "role_unknown", f"{message}, which {role!r} is not.", remedy)
        case KnownRoles(roles=known):
            return _known_roles(role, known)
        case _:
            assert_never(roles)


def _known_roles(role: str | None, roles: tuple[Role, ...]) -> Check:
    labels = ", ".join(sorted(repr(one.label) for one in roles if one.assignable))
    allow = "Allow API keys to have it in Twenty's settings, or write another role."
    if not labels:
        return Broken("roles", "role_not_assignable", "API keys may have none of them.", allow)
    offer = f"API keys may have {labels}"
    if role is None:
        return Fine("roles", f"{offer}; the environment has no role of its own.")
    found = [one for one in roles if role == one.id] or [one for one in roles if role == one.label]
    named = f"environment's role {role!r}"
    if len(found) != 1:
        what = "is not there" if not found else "is the label of several"
        remedy = "Write the label or the id of one of these as `role`."
        return Broken("roles", "role_unknown", f"The {named} {what}; {offer}.", remedy)
    if not found[0].assignable:
        message = f"API keys may not have the {named}; {offer}."
        return Broken("roles", "role_not_assignable", message, allow)
    return Fine("roles", f"{offer}; the {named} is one of them.")


_SESSION = "Give `auth` an email and a password, or a session_token."


def _writes(  # noqa: PLR0911 - one for each meaning
    observation: Observation, terms: Terms, *, session: bool
) -> Check:
    """Who may write, by generation (docs/twenty-api.md, "Generations")."""
    if observation.generation == "legacy":
        return Fine(
            "writes",
            "Keys may be made with any credential of the workspace; no read tells whether tokens "
            "may be minted.",
        )
    if not session and terms.release == "2.x":
        message = "Twenty 2.x lets only a signed-in user write keys, not an API key."
        return Broken("writes", "session_required", message, _SESSION)
    permit = "Give the role of the credential the permission for API keys and webhooks."
    match terms.permitted:
        case False:
            message = "The role of the credential has no permission for API keys."
            return Broken("writes", "permission_denied", message, permit)
        case None:
            message = "Not known: the server does not tell what the role of the credential may do."
            return Doubtful("writes", message, permit)
        case True:
            pass
    if not session and terms.release is None:
        message = "Not known: Twenty 1.x lets an API key write keys, 2.x does not."
        return Doubtful("writes", message, _SESSION)
    if terms.release != "1.x" and isinstance(observation.roles, HiddenRoles):
        return Doubtful(
            "writes",
            "Allowed by 2.21; later releases create keys only with the permission for roles.",
            "Give the role of the credential the permission for roles.",
        )
    return Fine("writes", "The role of the credential has the permission for API keys.")


_MOST_APART = timedelta(minutes=1)


def _clock(terms: Terms) -> Check:
    """Durations count from our clock, and the server's judges what is live."""
    if terms.ahead is None:
        return Doubtful(
            "clock",
            "The server sends no Date, so that our clock judges which keys are live.",
            "Have the proxy in front pass the Date header on.",
        )
    if abs(terms.ahead) <= _MOST_APART:
        return Fine("clock", "Ours and the server's agree to the minute.")
    seconds = round(terms.ahead.total_seconds())
    way = "behind" if seconds > 0 else "ahead of"
    return Doubtful(
        "clock",
        f"Ours is {abs(seconds)} s {way} the server's, and durations count from ours.",
        "Have this machine, or the server, set its clock by a time server.",
    )


def _limits(limits: Limits, terms: Terms) -> Check:
    """The pace that is declared, held against what the server says of its own."""
    declared = limits.requests_per_minute
    if declared is None:
        paced = (
            "No requests_per_minute: the first throttling sets the pace (hosted Twenty allows 50 "
            "to 100 a minute)"
        )
    else:
        paced = f"{_count(declared, 'request')} a minute"
    told = "the server names no limit" if terms.limit is None else f"it allows {terms.limit}"
    message = f"{paced}, {limits.parallel} at once; {told}."
    if declared is None or terms.limit is None or declared <= terms.limit:
        return Fine("limits", message)
    return Doubtful("limits", message, f"Write `requests_per_minute: {terms.limit}` or less.")


# The places of tokens


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What is wrong with one sink, or with the token in it."""

    check: Literal["sinks", "tokens"]
    error: ProvisionError
    key: str
    address: Address

    @property
    def sort(self) -> tuple[str, ...]:
        """What is equal for troubles of one cause: all of it but the key and its sink."""
        texts = (self.error.message, self.error.remedy)
        stripped = (
            text.replace(str(self.address), "").replace(repr(self.key), "") for text in texts
        )
        return (self.check, self.error.slug, *stripped)


_Found = Literal["usable", "empty", "unreadable", "accepted"] | _Trouble
"""A sink of a key that is not live, or one of a live key by what became of its token."""

_NAMED = 5
"""Keys that a remedy names one by one."""


class _Places:
    """The sinks of one environment's keys, and the tokens that they hold.

    Args:
        environment: whose keys they are of.
        open_sink: opens a sink.
        stop: once it is asked for, no sink is asked any more.
    """

    def __init__(self, environment: Environment, open_sink: OpenSink, stop: Stop) -> None:
        self._environment = environment
        self._open_sink = open_sink
        self._stop = stop
        self._prove: Callable[[Secret], None] | None = None
        self._live: dict[str, set[str]] = {}

    def hold_against(self, workspace: Workspace, observation: Observation) -> None:
        """Has the tokens of the live keys proven, which takes a workspace that can be used."""
        self._prove = workspace.prove
        for key in observation.keys:
            if key.live(observation.server_time):
                self._live.setdefault(key.name, set()).add(key.id.lower())

    def checks(self, keys: Iterable[DesiredKey] | None) -> Iterator[Check]:
        """What speaks against the sinks of these keys; None where nobody knows which they are."""
        if keys is None:
            message = "They were not looked at, because the manifests have problems."
            yield Doubtful("sinks", message, "`provision validate` lists them.")
            return
        asked = [(key.name, address) for key in keys for address in key.deliver]
        if not asked:
            yield Fine("sinks", "No key names one.")
            return
        with Threads(self._environment.limits.parallel) as threads:
            found = list(threads.map(lambda one: self._ask(*one), asked))
        troubles = [one for one in found if isinstance(one, _Trouble)]
        usable = len(found) - sum(one.check == "sinks" for one in troubles)
        if usable:
            yield Fine("sinks", f"Nothing speaks against {_count(usable, 'sink')}.")
        if found.count("accepted") or found.count("unreadable"):
            accepted = f"{_count(found.count('accepted'), 'token')} of live keys accepted"
            yield Fine("tokens", f"{accepted}, {found.count('unreadable')} cannot be read back.")
        if empty := found.count("empty"):
            message = f"{_count(empty, 'sink')} of live keys without a token."
            yield Doubtful("tokens", message, "Run `provision apply`, which delivers new ones.")
        yield from self._grouped(troubles)

    def _ask(self, key: str, address: Address) -> _Found:
        if self._stop.asked:
            return _Trouble("sinks", SinkError(STOPPED.code, STOPPED.message), key, address)
        try:
            sink = self._open_sink(address)
            sink.prepare()
            content = sink.read()
        except SinkError as error:
            return _Trouble("sinks", error, key, address)
        if key not in self._live or self._prove is None:
            return "usable"
        match content:
            case Nothing():
                return "empty"
            case Unread():
                return "unreadable"
            case Holds(value=value):
                why = self._refusal(self._prove, value, key, address)
                return "accepted" if why is None else _Trouble("tokens", why, key, address)
            case _:
                assert_never(content)

    def _refusal(
        self, prove: Callable[[Secret], None], token: Secret, key: str, address: Address
    ) -> WorkspaceError | None:
        """Why a token is no good one of this live key."""
        claims = claims_of(token)
        if claims is None or claims.key is None:
            return _bad_token(
                "token_invalid", f"{address} holds something that is no token of {key!r}."
            )
        if claims.key.lower() not in self._live[key]:
            return _bad_token(
                "token_dead", f"{address} holds a token of another key than the live {key!r}."
            )
        try:
            prove(token)
        except WorkspaceError as error:
            if error.slug != "token_refused":
                return error
            message = f"The token of {key!r} in {address} is not accepted."
            return _bad_token(error.slug, message)
        return None

    def _grouped(self, troubles: Iterable[_Trouble]) -> Iterator[Broken]:
        """One check for all troubles of one cause, in the order of the manifests."""
        groups: dict[tuple[str, ...], list[_Trouble]] = {}
        for trouble in troubles:
            groups.setdefault(trouble.sort, []).append(trouble)
        for group in groups.values():
            first = group[0]
            others = f" The same holds for {len(group) - 1} more." if group[1:] else ""
            remedy = first.error.remedy or self._redeliver([one.key for one in group])
            yield Broken(first.check, first.error.slug, f"{first.error.message}{others}", remedy)

    def _redeliver(self, names: list[str]) -> str:
        command = f"provision apply -e {self._environment.name} --redeliver"
        few = dict.fromkeys(names)
        if len(few) > _NAMED:
            return f"`{command}` replaces all tokens, with `--only NAME` those of one key."
        only = " ".join(f"--only {quote(escape(name))}" for name in few)
        return f"`{command} {only}` replaces it."


def _bad_token(code: str, message: str) -> WorkspaceError:
    """The remedy is a command that names all keys of one cause."""
    return WorkspaceError(code, message)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
