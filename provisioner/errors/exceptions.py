"""The one tree of exceptions: each class knows its exit code, each error its code and remedy.

What can be expected of one key or one environment is a value (`provisioner.errors.failure`); what
ends a whole command is one of these. `docs/errors.md` has a paragraph for every code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from provisioner.errors.problem import Problem


class ProvisionError(Exception):
    """Something that ends the command.

    Attributes:
        exit_code: the process exit code (section "Exit codes" of docs/errors.md).
        code: the stable name of the error, its heading in docs/errors.md.
        message: what happened, one sentence, without a secret.
        remedy: what to do about it, one sentence, or empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


class InvalidInputError(ProvisionError):
    """Manifests, configuration or a body cannot be used; nothing was sent to any server.

    Attributes:
        problems: why, in their order.
        sources: the files that were read, those without a problem too.
    """

    exit_code = 3

    def __init__(self, problems: tuple[Problem, ...], sources: tuple[str, ...] = ()) -> None:
        count = len(problems)
        super().__init__("invalid_input", f"{count} problem{'s' if count != 1 else ''} found")
        self.problems = problems
        self.sources = sources


class WrongUsageError(ProvisionError):
    """The command line asks for something that cannot be."""

    exit_code = 64


class RefusedError(ProvisionError):
    """A guard stopped the run before the first write; nothing was changed anywhere."""

    exit_code = 5


class StalePlanError(RefusedError):
    """What would be done is not what was reviewed; nothing was changed anywhere."""

    exit_code = 6


class WorkspaceError(ProvisionError):
    """One workspace cannot be used as a whole; other environments go on."""

    exit_code = 4


class SinkError(ProvisionError):
    """One sink cannot be used; keys with other sinks go on."""

    exit_code = 4


class OutputError(ProvisionError):
    """The report could not be written, whatever was done."""
