"""What a run is doing in an environment, as values for those who watch it.

Unlike the events of a run, these say nothing about its outcome, and how many there are depends on
how fast a server is. So they are shown and counted, but not written to a file of events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from provisioner.model.environment import Generation

Work = Literal["list", "create", "mint", "prove", "change"]
"""The kinds of work that a server does for a run: to list keys, to create them, to mint tokens, to
prove that it accepts a token, and to change or revoke a key."""

CredentialKind = Literal["password", "api_key", "session"]
"""What a run signs in with."""

Reason = Literal["asked", "failed", "settle"]
"""Why a run waits: the server asked it to slow down, it did not answer as it should and is asked
again, or other runs may still be at work."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """A connection to the server of an environment is about to be opened."""

    environment: str


@dataclass(frozen=True, slots=True)
class SigningIn:
    """A user is about to be signed in."""

    environment: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The server has accepted the credential.

    Attributes:
        address: of the server.
    """

    environment: str
    address: str
    generation: Generation
    credential: CredentialKind


@dataclass(frozen=True, slots=True)
class Listing:
    """The keys are being listed.

    Attributes:
        keys: how many have been read so far.
        total: how many there are, as far as the server says; None if it does not.
    """

    environment: str
    keys: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class ReadingSinks:
    """The sinks of keys are about to be read."""

    environment: str
    sinks: int


@dataclass(frozen=True, slots=True)
class CheckingSinks:
    """Sinks are about to be checked for whether they can be written."""

    environment: str
    sinks: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing is sent to an environment for some time.

    Attributes:
        seconds: from now on.
    """

    environment: str
    seconds: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete answer came back.

    Attributes:
        work: what was asked for; None for requests that a run sends only a few of.
        units: how many keys or tokens it is about.
        seconds: from the request, which may have to wait for the rate limit, to its whole answer.
        done: whether the server may have done it, so that it need not be sent again.
    """

    environment: str
    work: Work | None
    units: int
    seconds: float
    done: bool


@dataclass(frozen=True, slots=True)
class Rested:
    """Nothing more happens in an environment until the others have caught up."""

    environment: str


Activity = (
    Connecting
    | SigningIn
    | Connected
    | Listing
    | ReadingSinks
    | CheckingSinks
    | Waiting
    | Answered
    | Rested
)


class OnActivity(Protocol):
    """Receives what a run is doing, from several threads; neither waits nor raises."""

    def __call__(self, activity: Activity, /) -> None:
        """Receive one activity."""
        ...


def ignore_activity(activity: Activity, /) -> None:
    """Drop an activity that nobody watches."""
    del activity
