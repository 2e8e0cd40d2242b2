"""The exceptions that end a command: each class has an exit code, each error a code and a remedy.

An expected failure of one key or one environment is a value instead (`provisioner.errors.failure`).
`docs/errors.md` explains every code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.pluralize import pluralize

if TYPE_CHECKING:
    from provisioner.errors.problem import Problem


class ProvisionError(Exception):
    """An error that ends the command.

    Attributes:
        exit_code: the process exit code (section "Exit codes" of docs/errors.md).
        failure: what happened, and what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: Code, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.failure = Failure(code, message, remedy)

    @classmethod
    def of(cls, failure: Failure) -> Self:
        """Return the error of a failure."""
        return cls(failure.code, failure.message, remedy=failure.remedy)

    @property
    def code(self) -> Code:
        """Return the code of the failure."""
        return self.failure.code

    @property
    def message(self) -> str:
        """Return what happened."""
        return self.failure.message

    @property
    def remedy(self) -> str:
        """Return what to do about it; may be empty."""
        return self.failure.remedy


class InvalidInputError(ProvisionError):
    """Manifests, configuration or a request body are not valid; nothing was sent to any server.

    Attributes:
        problems: the problems, in order.
        sources: every file that was read, including files without a problem.
    """

    exit_code = 3

    def __init__(self, problems: tuple[Problem, ...], sources: tuple[str, ...] = ()) -> None:
        super().__init__(Code.INVALID_INPUT, f"{pluralize(len(problems), 'problem')} found")
        self.problems = problems
        self.sources = sources


class WrongUsageError(ProvisionError):
    """The command line is not valid."""

    exit_code = 64


class RefusedError(ProvisionError):
    """A guard stopped the run before the first write; nothing was changed anywhere."""

    exit_code = 5


class StalePlanError(RefusedError):
    """The plan is not the reviewed one any more; nothing was changed anywhere."""

    exit_code = 6


class WorkspaceError(ProvisionError):
    """A workspace cannot be used; other environments continue."""

    exit_code = 4


class SinkError(ProvisionError):
    """A sink cannot be used; keys with other sinks continue."""

    exit_code = 4


class OutputError(ProvisionError):
    """The report could not be written; the changes were made regardless."""
