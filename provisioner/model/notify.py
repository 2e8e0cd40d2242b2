"""Who is told after a run, as `notify` in the environments files says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.secret import Secret

HttpKind = Literal["webhook", "slack"]
"""A server that gets JSON: our own document, or a text as Slack takes it."""


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A server that is told.

    Attributes:
        url: its address; whoever knows it can write to the channel, so it is a secret.
        host: the host of the address, with its port if it has one.
    """

    kind: HttpKind
    url: Secret
    host: str

    def __str__(self) -> str:
        return f"{self.kind} {self.host}"


@dataclass(frozen=True, slots=True)
class ProgramTarget:
    """A program that gets the document on its standard input.

    Attributes:
        argv: the program and its arguments, run without a shell.
    """

    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"command {self.argv[0]}"


@dataclass(frozen=True, slots=True)
class UnusableTarget:
    """A target that cannot be told; the failure says why."""

    failure: Failure


NotifyTarget = HttpTarget | ProgramTarget | UnusableTarget
