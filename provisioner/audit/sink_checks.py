"""The checks of sinks and of the tokens for live keys in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.audit.check import Check
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError, WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.errors.pluralize import pluralize
from provisioner.model.sink_content import NoToken, Unreadable, token_in
from provisioner.model.token_claims import claims_of
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.model.sink_address import Address
    from provisioner.model.workspace import Workspace
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Content, OpenSink


@dataclass(frozen=True, slots=True)
class _SinkFailure:
    """A problem with one sink, or with the token in it.

    Attributes:
        warns: True if the sink can be used nevertheless.
    """

    check: Literal["sinks", "tokens"]
    failure: Failure
    key: str
    address: Address
    warns: bool = False

    @property
    def cause(self) -> tuple[str, ...]:
        """Return the grouping key of failures: everything except the key and its sink."""
        text = self.failure.text.replace(str(self.address), "").replace(repr(self.key), "")
        return (self.check, self.failure.code, text)


_SinkResult = Literal["usable", "empty", "unreadable", "accepted"] | _SinkFailure
"""The result for one sink: usable if its key is not live, else the state of its token."""

_MAX_NAMED = 5
"""The most keys that a remedy names."""


@dataclass(slots=True)
class SinkChecks:
    """The checks of the sinks of one environment's keys, and of the tokens in them.

    Attributes:
        environment: the environment of the keys.
        open_sink: opens a sink.
        stop: ends the checks; sinks that were not checked by then are failures.
    """

    environment: Environment
    open_sink: OpenSink
    stop: Cancellation
    _verify_token: Callable[[Secret], None] | None = field(default=None, init=False)
    _live_ids: dict[str, set[str]] = field(default_factory=dict, init=False)

    def verify_against(self, workspace: Workspace, observation: Observation) -> None:
        """Enable the check of tokens for live keys, which needs a usable workspace."""
        self._verify_token = workspace.verify_token
        for key in observation.keys:
            if key.live(observation.server_time):
                self._live_ids.setdefault(key.name, set()).add(key.id.lower())

    def checks(self, keys: Iterable[DesiredKey] | None) -> Iterator[Check]:
        """Yield the checks of the sinks of these keys; None if the manifests have problems."""
        if keys is None:
            message = "Not checked, because the manifests have problems."
            yield Check("sinks", "warning", message, "Run `provision validate` to list them.")
            return
        sinks = [(key.name, address) for key in keys for address in key.deliver]
        if not sinks:
            yield Check("sinks", "ok", "No key has a sink.")
            return
        with ThreadExecutor(self.environment.limits.parallel) as threads:
            results = list(threads.map(lambda one: self._check(*one), sinks))
        failures = [one for one in results if isinstance(one, _SinkFailure)]
        unusable = sum(one.check == "sinks" and not one.warns for one in failures)
        if usable := len(results) - unusable:
            yield Check("sinks", "ok", f"{pluralize(usable, 'sink')} OK.")
        if accepted := results.count("accepted"):
            yield Check("tokens", "ok", f"{pluralize(accepted, 'token')} for live keys accepted.")
        if unreadable := results.count("unreadable") + sum(map(self._is_unread, failures)):
            message = f"{pluralize(unreadable, 'token')} not checked: the sinks are write-only."
            yield Check("tokens", "not_checked", message)
        if self._verify_token is None:
            message = "Not checked, because the workspace cannot be read."
            yield Check("tokens", "not_checked", message)
        if empty := results.count("empty"):
            message = f"{pluralize(empty, 'sink')} without a token for a live key."
            remedy = "Run `provision apply` to deliver new tokens."
            yield Check("tokens", "warning", message, remedy)
        groups: dict[tuple[str, ...], list[_SinkFailure]] = {}
        for failure in failures:
            groups.setdefault(failure.cause, []).append(failure)
        yield from map(self._group, groups.values())

    def _check(self, key: str, address: Address) -> _SinkResult:
        if self.stop.requested:
            return _SinkFailure("sinks", STOPPED, key, address)
        try:
            sink = self.open_sink(address)
            sink.check()
            content = sink.read()
        except SinkError as error:
            return _SinkFailure("sinks", error.failure, key, address)
        return self._result(content, key, address)

    def _result(self, content: Content, key: str, address: Address) -> _SinkResult:
        """Return the result for a sink that can be used, by its content."""
        if isinstance(content, Unreadable) and content.no_receipt is not None:
            return _SinkFailure("sinks", content.no_receipt, key, address, warns=True)
        if key not in self._live_ids or self._verify_token is None:
            return "usable"
        match content:
            case NoToken():
                return "empty"
            case Unreadable():
                return "unreadable" if self._may_hold(content, key) else "empty"
            case StoredValue(value=value):
                failure = self._token_failure(self._verify_token, value, key, address)
                return _SinkFailure("tokens", failure, key, address) if failure else "accepted"
            case _:
                assert_never(content)

    def _is_unread(self, failure: _SinkFailure) -> bool:
        """Return whether a sink of a live key can be used, but its token cannot be checked."""
        return failure.warns and failure.key in self._live_ids and self._verify_token is not None

    def _may_hold(self, content: Unreadable, key: str) -> bool:
        """Return whether nothing shows that a sink holds no token for a live key of this name."""
        token = token_in(content)
        if token is None:
            return content.receipt is None
        return token.key.lower() in self._live_ids[key]

    def _token_failure(
        self, verify: Callable[[Secret], None], token: Secret, key: str, address: Address
    ) -> Failure | None:
        """Return why a token is not a good one for this live key; None if it is.

        The remedy is added later, for all keys of the same cause.
        """
        claims = claims_of(token)
        if claims is None or claims.key is None:
            message = f"{address} contains a value that is not a token for {key!r}."
            return Failure(Code.TOKEN_INVALID, message)
        if claims.key.lower() not in self._live_ids[key]:
            message = f"{address} contains a token for another key, not for {key!r}."
            return Failure(Code.TOKEN_DEAD, message)
        try:
            verify(token)
        except WorkspaceError as error:
            if error.code != Code.TOKEN_REFUSED:
                return error.failure
            message = f"The token for {key!r} in {address} does not work: {error.message}"
            return Failure(error.code, message)
        return None

    def _group(self, group: Sequence[_SinkFailure]) -> Check:
        """Return one check for all failures of the same cause."""
        check, failure = group[0].check, group[0].failure
        others = f" The same applies to {len(group) - 1} more." if group[1:] else ""
        message = f"{failure.message}{others}"
        remedy = failure.remedy or self._redeliver([one.key for one in group])
        if group[0].warns or failure.code == Code.PROGRAM_NOT_RUN:  # as the user asked
            return Check(check, "warning", message, remedy)
        return Check(check, "failed", message, remedy, failure.code)

    def _redeliver(self, names: list[str]) -> str:
        command = f"provision apply -e {self.environment.name} --redeliver"
        unique = dict.fromkeys(names)
        if len(unique) > _MAX_NAMED:
            return f"Run `{command}` to replace all tokens, or add `--only NAME` for one key."
        only = " ".join(f"--only {quote(escape(name))}" for name in unique)
        tokens = "it" if len(unique) == 1 else "them"
        return f"Run `{command} {only}` to replace {tokens}."
