"""The declaration of a kind of sink: its options in `deliver`, its address and how it is opened.

The file of a sink declares it in a constant `SINK`. `provisioner.sinks.registry` lists the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from provisioner.model.sink_address import Address
    from provisioner.runtime.process import Processes
    from provisioner.sinks.sink import Sink

A = TypeVar("A", bound="Address")

CLEAN = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
"""One character that is not a control character, as a regular expression."""

NO_DOTS = r"(?!\.{1,2}(?:/|\Z))"
"""The start of a part of a path that is not `.` or `..`, as a regular expression."""


class Allowed(NamedTuple):
    """The values that an option may have.

    Attributes:
        pattern: matches these values.
        advice: describes them, after "write".
    """

    pattern: re.Pattern[str]
    advice: str


TEXT = Allowed(re.compile(rf"{CLEAN}+"), "text without control characters")
VARIABLE = Allowed(
    re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), "letters, digits and _, not starting with a digit"
)
DEFAULT_VARIABLE = (
    "The default is the key's name in capitals, with _ for every character that is not a letter or "
    "digit."
)
"""The end of the description of an option whose default is `OptionValues.variable`."""

_PROGRAM = Allowed(re.compile(r"[^\0]+"), "the name of a program, without NUL characters")
_ARGUMENT = Allowed(re.compile(r"[^\0]*"), "an argument without NUL characters")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a sink in `deliver`.

    Attributes:
        name: its name in the manifest.
        title: its name for people, in the schema.
        description: its description in the schema.
        allowed: the values that it may have, with its placeholders filled in.
        default: its value if it is not written, if that is always the same.
        examples: examples for the schema.
        choices: all values that it may have, if they are few; then it has no placeholders.
        is_path: True if placeholders may not lead to another folder.
        is_program: True for a list of a program and its arguments.
        is_list: True for a list of texts.
        can_be_off: True if `false` may be written instead of text.
    """

    name: str
    title: str
    description: str
    allowed: Allowed = TEXT
    default: str | None = None
    examples: tuple[object, ...] = ()
    choices: tuple[str, ...] = ()
    is_path: bool = False
    is_program: bool = False
    is_list: bool = False
    can_be_off: bool = False


class Rejection(NamedTuple):
    """A value that an option cannot have.

    Attributes:
        option: the name of the option.
        position: the index in a list; otherwise 0.
        value: the value; empty if `reason` says what is wrong.
        advice: what to write, after "write".
        reason: what is wrong, if the value does not show it.
    """

    option: str
    position: int
    value: str
    advice: str
    reason: str = ""


class OptionValues:
    """The options of one sink of one key, with the placeholders filled in.

    Attributes:
        rejections: the values that the sink cannot have, in the order in which they were read.
        variable: the key's name as the name of a variable.
        environment: the name of the key's environment.
    """

    def __init__(
        self,
        kind: SinkKind[Any],
        written: Mapping[str, tuple[str, ...]],
        key_name: str,
        environment: str,
    ) -> None:
        self.rejections: list[Rejection] = []
        self.environment = environment
        self.variable = re.sub(r"[^A-Za-z0-9]", "_", key_name).upper()
        if self.variable[0].isdigit():
            self.variable = f"_{self.variable}"
        self._kind = kind
        self._written = written

    def text(self, name: str, default: str = "", allowed: Allowed | None = None) -> str:
        """Return the value of an option, or its default.

        Args:
            name: the name of the option.
            default: the value if the option is not written and declares no default itself.
            allowed: the values that it may have, if they depend on another option.
        """
        option = next(one for one in self._kind.options if one.name == name)
        value = self._written[name][0] if name in self._written else option.default or default
        return self._checked(name, 0, value, allowed or option.allowed)

    def optional(self, name: str) -> str | None:
        """Return the value of an option; None if it is not written."""
        return self.text(name) if name in self._written else None

    def texts(self, name: str, default: str) -> tuple[str, ...]:
        """Return the texts of a list; only the default if the option is not written."""
        option = next(one for one in self._kind.options if one.name == name)
        return tuple(
            self._checked(name, index, value, option.allowed)
            for index, value in enumerate(self._written.get(name, (default,)))
        )

    def is_off(self, name: str) -> bool:
        """Return whether `false` is written for an option."""
        return self._written.get(name) == ()

    def program(self, name: str) -> tuple[str, ...]:
        """Return a program and its arguments; empty if the option is not written."""
        return tuple(
            self._checked(name, index, value, _ARGUMENT if index else _PROGRAM)
            for index, value in enumerate(self._written.get(name, ()))
        )

    def reject(self, name: str, reason: str, advice: str) -> None:
        """Reject a written option for a reason other than its allowed values."""
        self.rejections.append(Rejection(name, 0, "", advice, reason))

    def _checked(self, name: str, position: int, value: str, allowed: Allowed) -> str:
        if allowed.pattern.fullmatch(value) is None:
            self.rejections.append(Rejection(name, position, value, allowed.advice))
        return value


@dataclass(frozen=True, slots=True)
class SinkContext:
    """The parts of a run that its sinks use.

    Attributes:
        root: the folder that relative paths start from.
        environ: the environment variables with the credentials of the vendors.
        wait: waits for a number of seconds, or until the run is stopped.
        processes: the programs of the run.
        declared: every address in the manifests.
        urls: the URL of each environment of the run, by its name.
    """

    root: Path
    environ: Mapping[str, str]
    wait: Callable[[float], None]
    processes: Processes
    declared: Iterable[Address] = ()
    urls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind(Generic[A]):
    """A kind of sink.

    Attributes:
        title: its name in the schema.
        description: its description in the schema.
        options: its options; the first one is required, and its name is the name of the kind.
        address: returns the address for the values of the options.
        connect: called once a run; returns the function that opens the sink of an address.
        server_of: returns the URL of the server for the environment variables and the `server`
            of an address; empty if there is none, or none that can be reached.
        program_of: returns the program that the sink or its credential needs; None without one.
        aliases: returns other names of the target, which `--allow-sink` must allow too.
    """

    title: str
    description: str
    options: tuple[Option, ...]
    address: Callable[[OptionValues], A]
    connect: Callable[[SinkContext], Callable[[A], Sink]]
    server_of: Callable[[Mapping[str, str], str | None], str] = lambda _environ, _server: ""
    program_of: Callable[[A, Mapping[str, str]], str | None] = lambda _address, _environ: None
    aliases: Callable[[A, Path], tuple[str, ...]] = lambda _address, _root: ()

    @property
    def name(self) -> str:
        """Return the name of the kind."""
        return self.options[0].name
