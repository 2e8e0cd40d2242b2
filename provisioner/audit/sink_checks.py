"""What the places of tokens let a run do, and whether the tokens in them are good."""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.audit.check import Check, CheckFailed, CheckOk, CheckWarning
from provisioner.errors.exceptions import ProvisionError, SinkError, WorkspaceError
from provisioner.errors.pluralize import pluralize
from provisioner.model.token_claims import claims_of
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sinks.sink import Empty, StoredValue, WriteOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.model.sink_address import Address
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret
    from provisioner.sinks.sink import OpenSink
    from provisioner.twenty.workspace import Workspace


@dataclass(frozen=True, slots=True)
class _SinkFailure:
    """What is wrong with one sink, or with the token in it."""

    check: Literal["sinks", "tokens"]
    error: ProvisionError
    key: str
    address: Address

    @property
    def cause(self) -> tuple[str, ...]:
        """What is equal for troubles of one cause: all of it but the key and its sink."""
        texts = (self.error.message, self.error.remedy)
        stripped = (
            text.replace(str(self.address), "").replace(repr(self.key), "") for text in texts
        )
        return (self.check, self.error.code, *stripped)


_Found = Literal["usable", "empty", "unreadable", "accepted"] | _SinkFailure
"""A sink of a key that is not live, or one of a live key by what became of its token."""

_MAX_NAMED = 5
"""Keys that a remedy names one by one."""


class SinkChecks:
    """The sinks of one environment's keys, and the tokens that they hold.

    Args:
        environment: whose keys they are of.
        open_sink: opens a sink.
        stop: once it is asked for, no sink is asked any more.
    """

    def __init__(self, environment: Environment, open_sink: OpenSink, stop: Cancellation) -> None:
        self._environment = environment
        self._open_sink = open_sink
        self._stop = stop
        self._prove: Callable[[Secret], None] | None = None
        self._live: dict[str, set[str]] = {}

    def verify_against(self, workspace: Workspace, observation: Observation) -> None:
        """Has the tokens of the live keys proven, which takes a workspace that can be used."""
        self._prove = workspace.verify_token
        for key in observation.keys:
            if key.live(observation.server_time):
                self._live.setdefault(key.name, set()).add(key.id.lower())

    def checks(self, keys: Iterable[DesiredKey] | None) -> Iterator[Check]:
        """What speaks against the sinks of these keys; None where nobody knows which they are."""
        if keys is None:
            message = "They were not looked at, because the manifests have problems."
            yield CheckWarning("sinks", message, "`provision validate` lists them.")
            return
        asked = [(key.name, address) for key in keys for address in key.deliver]
        if not asked:
            yield CheckOk("sinks", "No key names one.")
            return
        with ThreadExecutor(self._environment.limits.parallel) as threads:
            found = list(threads.map(lambda one: self._check(*one), asked))
        troubles = [one for one in found if isinstance(one, _SinkFailure)]
        usable = len(found) - sum(one.check == "sinks" for one in troubles)
        if usable:
            yield CheckOk("sinks", f"Nothing speaks against {pluralize(usable, 'sink')}.")
        if found.count("accepted") or found.count("unreadable"):
            accepted = f"{pluralize(found.count('accepted'), 'token')} of live keys accepted"
            yield CheckOk("tokens", f"{accepted}, {found.count('unreadable')} cannot be read back.")
        if empty := found.count("empty"):
            message = f"{pluralize(empty, 'sink')} of live keys without a token."
            yield CheckWarning("tokens", message, "Run `provision apply`, which delivers new ones.")
        yield from self._grouped(troubles)

    def _check(self, key: str, address: Address) -> _Found:
        if self._stop.asked:
            return _SinkFailure("sinks", SinkError(STOPPED.code, STOPPED.message), key, address)
        try:
            sink = self._open_sink(address)
            sink.check()
            content = sink.read()
        except SinkError as error:
            return _SinkFailure("sinks", error, key, address)
        if key not in self._live or self._prove is None:
            return "usable"
        match content:
            case Empty():
                return "empty"
            case WriteOnly():
                return "unreadable"
            case StoredValue(value=value):
                why = self._token_error(self._prove, value, key, address)
                return "accepted" if why is None else _SinkFailure("tokens", why, key, address)
            case _:
                assert_never(content)

    def _token_error(
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
            if error.code != "token_refused":
                return error
            message = f"The token of {key!r} in {address} is not accepted."
            return _bad_token(error.code, message)
        return None

    def _grouped(self, troubles: Iterable[_SinkFailure]) -> Iterator[CheckFailed | CheckWarning]:
        """One check for all troubles of one cause, in the order of the manifests."""
        groups: dict[tuple[str, ...], list[_SinkFailure]] = {}
        for trouble in troubles:
            groups.setdefault(trouble.cause, []).append(trouble)
        for group in groups.values():
            first = group[0]
            others = f" The same holds for {len(group) - 1} more." if group[1:] else ""
            remedy = first.error.remedy or self._redeliver([one.key for one in group])
            if first.error.code == "program_not_run":  # that is what the run was told
                yield CheckWarning(first.check, f"{first.error.message}{others}", remedy)
                continue
            yield CheckFailed(
                first.check, first.error.code, f"{first.error.message}{others}", remedy
            )

    def _redeliver(self, names: list[str]) -> str:
        command = f"provision apply -e {self._environment.name} --redeliver"
        few = dict.fromkeys(names)
        if len(few) > _MAX_NAMED:
            return f"`{command}` replaces all tokens, with `--only NAME` those of one key."
        only = " ".join(f"--only {quote(escape(name))}" for name in few)
        return f"`{command} {only}` replaces it."


def _bad_token(code: str, message: str) -> WorkspaceError:
    """The remedy is a command that names all keys of one cause."""
    return WorkspaceError(code, message)
