"""Text to a document with positions: a strict reader of YAML over libyaml's events.

Documents are plain data: `dict` and `list` with the position of every key and value beside,
text, whole numbers, booleans, and `Odd` for whatever YAML would quietly turn into something
else. Positions are the marks that libyaml makes anyway, kept by reference: 100 000 keys cost
one list per mapping, no object per scalar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol

from yaml import CSafeLoader, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from provisioner.errors.problem import Place, Problem
from provisioner.manifests.text import place_at

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 64
"""Levels of nesting. Real manifests have 6; libyaml before 0.2.6 takes a process down at 50 000."""

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

MAX_EVENTS = 2_000_000
"""Scalars, and starts and ends of mappings and lists: 300 000 keys; bounds memory and time."""

MAX_PROBLEMS = 10_000
"""Problems of one kind of look at one file, before the rest of it is left out."""


_WIDE = 50
"""From how many keys on a mapping keeps an index of their order, so that no look is quadratic."""


class Position(Protocol):
    """A position as libyaml gives it: all three count from 0, in code points."""

    index: int
    line: int
    column: int


class Mapping(dict[str, Any]):
    """A mapping with positions.

    Attributes:
        position: where it starts; in block style its first key.
        positions: of each key and its value in turn, in the order of the keys.
    """

    __slots__ = ("_order", "position", "positions")
    position: Position
    positions: list[Position]
    _order: dict[str, int]

    def key_position(self, key: str) -> Position:
        """Where the key stands."""
        return self.positions[2 * self._index(key)]

    def value_position(self, key: str) -> Position:
        """Where the key's value starts."""
        return self.positions[2 * self._index(key) + 1]

    def _index(self, key: str) -> int:
        if len(self) < _WIDE:
            return list(self).index(key)
        # Made when first asked for, and again after the mapping grew.
        if len(getattr(self, "_order", ())) != len(self):
            self._order = {name: index for index, name in enumerate(self)}
        return self._order[key]


class Sequence(list[Any]):
    """A list with positions.

    Attributes:
        position: where it starts.
        positions: of each item.
    """

    __slots__ = ("position", "positions")
    position: Position
    positions: list[Position]


@dataclass(frozen=True, slots=True)
class AmbiguousScalar:
    """A plain scalar that YAML reads as something else than text.

    Attributes:
        text: as written.
        kind: what YAML 1.1 or 1.2 takes it for, with its article.
    """

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """A value that a problem was already told about: nothing more is said of it."""


Value = str | int | bool | AmbiguousScalar | Invalid | Mapping | Sequence | None
"""None is an empty value (`name:` and nothing after it); a written `null` is Odd."""


@dataclass(frozen=True, slots=True)
class Document:
    """What one file holds.

    Attributes:
        file: the path as the user would type it.
        text: of the file.
        root: the outermost value.
        position: where that starts.
        partial: where mappings start that lost a key to a problem (a merge key, a key that is
            not text): what they seem to lack may have been in it.
    """

    file: str
    text: str
    root: Value
    position: Position
    partial: frozenset[int]

    def place(self, position: Position) -> Place:
        """A mark as people count."""
        # libyaml ends a text without a line break with one of its own, and counts that line.
        if position.index >= len(self.text):
            return place_at(self.text, len(self.text), self.file)
        return Place(self.file, position.line + 1, position.column + 1)


def read(
    text: str, file: str, *, dates: frozenset[str] = frozenset()
) -> tuple[Document | None, list[Problem]]:
    """Reads one YAML document and everything that is wrong with it as YAML.

    Args:
        text: of the file.
        file: what places call it.
        dates: keys whose values may be dates without quotes: whatever looks odd there is text.

    Returns:
        The document, None when there is none or it could not be read to its end, and the
        problems in the order of the file.
    """
    if (conflict := _merge_marker(text, file)) is not None:
        return None, [conflict]
    breakless, stand_ins = _breakless(text)
    reader = _Reader(text, file, dates)
    try:
        document = reader.run(breakless, stand_ins)
    except YAMLError as error:
        reader.problems.append(_syntax(error, breakless, file))
        document = None
    except _StopReadingError:
        document = None
    return document, reader.problems


@lru_cache(maxsize=8192)
def resolve(text: str) -> str | int | bool | AmbiguousScalar | None:
    """What a plain scalar is, in YAML 1.1 and in 1.2: text only when both say so."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if found := _ODD.fullmatch(text):
        return AmbiguousScalar(text, _KINDS[found.lastgroup or ""])
    return text


class _StopReadingError(Exception):
    """The rest of the file is not looked at; the problem that says so is noted."""


class _State(Enum):
    KEY = "a key is awaited"
    ITEM = "an item of a list is awaited"
    DROPPED = "the value of a key that a problem was told about is awaited"


_WORDS: dict[str, bool | AmbiguousScalar | None] = {
    "": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    "=": AmbiguousScalar("=", "a special sign"),
    "<<": AmbiguousScalar("<<", "a merge key"),
}
_WORDS.update(
    (word, AmbiguousScalar(word, "an empty value")) for word in ("~", "null", "Null", "NULL")
)
_WORDS.update(
    (case, AmbiguousScalar(case, "a boolean"))
    for word in ("yes", "no", "on", "off", "y", "n")
    for case in (word, word.capitalize(), word.upper())
)

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
"""What is a whole number in every YAML, as people write it."""

_KINDS = {"number": "a number", "time": "a number (hours in base 60)", "date": "a date"}
_ODD = re.compile(
    r"(?P<number>[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*"
    r"|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))"
    r"|(?P<time>[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)"
    r"|(?P<date>[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
    r"(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?"
    r"(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?)?)",
    re.ASCII,
)
_SUSPECT = frozenset({word[:1] for word in _WORDS} | set("0123456789+-."))
"""How everything starts that may be something else than text."""


class _Reader:
    """One pass over the events of one text."""

    def __init__(self, text: str, file: str, dates: frozenset[str]) -> None:
        self.problems: list[Problem] = []
        self._text = text
        self._file = file
        self._dates = dates
        self._partial: set[int] = set()
        self._keys: dict[str, str] = {}

    def run(  # noqa: C901, PLR0912, PLR0915 - one loop, or 30 % slower
        self, breakless: str, stand_ins: dict[int, str]
    ) -> Document | None:
        """The document, or None for an empty file.

        Args:
            breakless: the text with stand-ins for what only libyaml takes for the end of a line.
            stand_ins: what each of them stands for.

        Raises:
            YAMLError: the text is not YAML.
            _StopReadingError: the rest is not to be read.
        """
        get_event = CSafeLoader(breakless).get_event
        if stand_ins:
            get_event = _restoring(get_event, stand_ins)
        # Two looks at every event are saved where the text cannot hold an anchor or a tag.
        adorned = "&" in self._text or "!" in self._text
        keys = self._keys
        awaits_key, awaits_item, dropped = _State.KEY, _State.ITEM, _State.DROPPED
        holder = Sequence()
        holder.positions = []
        node: Any = holder
        positions = holder.positions
        key: str | _State = awaits_item
        key_position: Any = None
        stack: list[tuple[Any, list[Position], str | _State]] = []
        started = False
        event: Any
        value: Any

        for _ in repeat(None, MAX_EVENTS):
            event = get_event()
            kind = event.__class__
            if kind is ScalarEvent:
                position = event.start_mark
                value = event.value
                if key is awaits_key:
                    known = keys.get(value)
                    if known is None or (
                        adorned and (event.anchor is not None or event.tag is not None)
                    ):
                        known = self._key(event, node)
                    if known is None:
                        key = dropped
                    elif known in node:
                        self._duplicate(known, position, node)
                        key = dropped
                    else:
                        key, key_position = known, position
                    continue
                if adorned and (event.anchor is not None or event.tag is not None):
                    value = self._adorned(event)
                elif value[:1] in _SUSPECT and not event.style:
                    value = resolve(value)
                    if value.__class__ is AmbiguousScalar and key in self._dates:
                        value = value.text
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                node, positions, key = stack.pop()
                continue
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                position = event.start_mark
                if adorned and (event.anchor is not None or event.tag is not None):
                    self._adorned(event)
                if len(stack) == MAX_DEPTH:
                    self._stop(position, "yaml_too_deep", _TOO_DEEP)
                value = Mapping() if kind is MappingStartEvent else Sequence()
                value.position = position
                value.positions = []
            elif kind is AliasEvent:
                position = event.start_mark
                self._problem(
                    position,
                    "yaml_alias",
                    "aliases (`*name`) are not read here: write the value again",
                )
                value = Invalid()
            elif kind is StreamEndEvent:
                break
            elif kind is DocumentStartEvent and started:
                self._problem(
                    event.start_mark,
                    "yaml_multiple_documents",
                    "one document a file: put what follows this `---` into a file of its own",
                )
                break
            else:
                started = started or kind is DocumentStartEvent
                continue

            # A value is complete, or a container starts: it goes into the node around it.
            if key.__class__ is str:
                node[key] = value
                positions.append(key_position)
                positions.append(position)
                after = awaits_key
            elif key is awaits_item:
                node.append(value)
                positions.append(position)
                after = awaits_item
            elif key is dropped:
                after = awaits_key
            else:
                self._lost_key(
                    position,
                    node,
                    "yaml_key_type",
                    "a key is text: this one is a list or a mapping",
                )
                after = dropped
            if kind is MappingStartEvent or kind is SequenceStartEvent:
                stack.append((node, positions, after))
                node, positions = value, value.positions
                key = awaits_key if kind is MappingStartEvent else awaits_item
            else:
                key = after
        else:
            self._stop(
                event.start_mark,
                "file_too_large",
                "more values than one file may hold: split it",
            )
        return self._finished(holder)

    def _finished(self, holder: Sequence) -> Document | None:
        if not holder or holder[0] is None:
            message = "the file is empty: delete it, or start it with `version: 1`"
            self.problems.append(Problem(Place(self._file), "file_empty", message))
            return None
        return Document(
            self._file, self._text, holder[0], holder.positions[0], frozenset(self._partial)
        )

    def _key(self, event: Any, node: Any) -> str | None:
        """The key, or None for one that cannot be used."""
        text: str = event.value
        if event.anchor is not None or event.tag is not None:
            self._adorned(event)
        if event.tag is not None:
            self._partial.add(node.position.index)
            return None
        meant = text if event.style else resolve(text)
        if isinstance(meant, str):
            if not event.style or isinstance(resolve(text), str):
                self._keys[text] = text
            return meant
        if text == "<<":
            self._lost_key(
                event.start_mark,
                node,
                "yaml_merge_key",
                "merge keys (`<<`) are not read here: write the keys out, or use `defaults`",
            )
        else:
            shown = f'write "{text}" in quotes' if text.isalpha() else "put it in quotes"
            said = meant.kind if isinstance(meant, AmbiguousScalar) else _KIND_OF[type(meant)]
            self._lost_key(
                event.start_mark,
                node,
                "yaml_key_type",
                f"a key is text, and this is {said} in YAML: {shown} to mean the text",
            )
        return None

    def _adorned(self, event: Any) -> Value:
        """Tells of an anchor and a tag; neither is shown, a password may look like one."""
        if event.anchor is not None:
            self._problem(
                event.start_mark, "yaml_anchor", "anchors (`&name`) are not read here: remove it"
            )
        if event.tag is not None:
            self._problem(
                event.start_mark,
                "yaml_tag",
                "tags (`!name`) are not read here: remove it, and put text that starts with "
                "an exclamation mark in quotes",
            )
        if event.tag is None and isinstance(event, ScalarEvent):
            return event.value if event.style else resolve(event.value)
        return Invalid()

    def _duplicate(self, key: str, position: Position, node: Any) -> None:
        first: Position = node.key_position(key)
        shown = f"`{key}`" if _PLAIN_KEY.fullmatch(key) else "this key"
        self._problem(
            position,
            "yaml_duplicate_key",
            f"{shown} stands twice in one mapping, first in line {first.line + 1}: keep one",
            related=Place(self._file, first.line + 1, first.column + 1),
        )

    def _lost_key(self, position: Position, node: Any, code: str, message: str) -> None:
        self._partial.add(node.position.index)
        self._problem(position, code, message)

    def _stop(self, position: Position, code: str, message: str) -> None:
        self.problems.append(
            Problem(Place(self._file, position.line + 1, position.column + 1), code, message)
        )
        raise _StopReadingError

    def _problem(
        self, position: Position, code: str, message: str, *, related: Place | None = None
    ) -> None:
        if len(self.problems) == MAX_PROBLEMS:
            self._stop(
                position,
                "too_many_problems",
                f"more than {MAX_PROBLEMS} problems: the rest of the file was not read",
            )
        place = Place(self._file, position.line + 1, position.column + 1)
        self.problems.append(Problem(place, code, message, related))


_BREAKS = re.compile("[\x85\u2028\u2029]")
"""What ends a line for YAML 1.1 and so for libyaml; YAML 1.2, git and editors go on with it."""

_STAND_INS = range(0xF0000, 0xFFFFE)
"""Characters for private use, which libyaml reads like letters."""

_PRIVATE = re.compile("[\U000f0000-\U000ffffd]")
_ESCAPED = re.compile(r"\\U(000[fF][0-9a-fA-F]{4})")


def _breakless(text: str) -> tuple[str, dict[int, str]]:
    """Return the text with a stand-in for each break of YAML 1.1, and what each stands for."""
    breaks = sorted(set(_BREAKS.findall(text)))
    if not breaks:
        return text, {}
    # One that is written as an escape would come back as a break.
    taken = set(map(ord, _PRIVATE.findall(text)))
    taken.update(int(digits, 16) for digits in _ESCAPED.findall(text))
    free = (code for code in _STAND_INS if code not in taken)
    stand_ins = dict(zip(free, breaks, strict=False))
    return text.translate({ord(each): code for code, each in stand_ins.items()}), stand_ins


def _restoring(get_event: Callable[[], Any], stand_ins: dict[int, str]) -> Callable[[], Any]:
    """Return what gets events with the characters that stand-ins stand for in their scalars."""

    def get() -> Any:
        event = get_event()
        if event.__class__ is ScalarEvent:
            event.value = event.value.translate(stand_ins)
        return event

    return get


_KIND_OF: dict[type, str] = {bool: "a boolean", int: "a number", type(None): "an empty value"}
_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
"""What may be shown of a key: `{token:eyJ…}` without a blank is one long key in YAML."""


def _syntax(error: YAMLError, text: str, file: str) -> Problem:
    """Return the mistake that is made most often where libyaml stops, or its own words."""
    if isinstance(error, ReaderError):
        index = len(text.encode()[: error.position].decode(errors="ignore"))
        message = f"the control character U+{error.character:04X} cannot stand in YAML"
    else:
        position = getattr(error, "problem_mark", None)
        index = len(text) if position is None else position.index
        said = str(getattr(error, "problem", "it cannot be read"))
        if said == _TOO_DEEP_FOR_LIBYAML:
            return Problem(place_at(text, index, file), "yaml_too_deep", _TOO_DEEP)
        begun = getattr(error, "context_mark", None)
        found = _mistake(said, text, index, index if begun is None else begun.index)
        index, message = found or (index, f"{said}{_ADVICE.get(said, '')}")
    return Problem(place_at(text, index, file), "yaml_syntax", f"this is not YAML: {message}")


def _mistake(said: str, text: str, index: int, begun: int) -> tuple[int, str] | None:
    """Return where a mistake that people make is and what it is, where it is a known one."""
    char = text[index : index + 1]
    if char == "\t" and said in _OF_TABS:
        return index, "a tab stands where spaces belong: indent with spaces"
    if char == "{" and said in _OF_BRACES:
        if text[index - 1 : index] == "$":
            return index - 1, 'put a variable inside {…} or […] in quotes: "${NAME}"'
        return index, "put text with a brace inside {…} or […] in quotes"
    if said == _NO_COLON:
        return begun, _COLON_MISSING
    if said in (_COLON_TOO_MANY, _NO_ITEM):
        return _colon_missing_before(text, text.find(":", index))
    return None


def _colon_missing_before(text: str, index: int) -> tuple[int, str] | None:
    """Return the line before that of an unexpected colon, where that has none and needs one."""
    start = text.rfind("\n", 0, index) + 1
    if not _KEY.fullmatch(text[start:index]):
        return None
    for line in reversed(text[:start].split("\n")[-_LINES_BACK:-1]):
        if not (content := line.strip()) or content.startswith("#"):
            start -= len(line) + 1
            continue
        start -= len(line) + 1
        if _HAS_COLON.search(line) or '"' in line or "'" in line:
            return None
        return start + len(line) - len(line.lstrip(" -")), _COLON_MISSING
    return None


_NO_COLON = "could not find expected ':'"
_COLON_TOO_MANY = "mapping values are not allowed in this context"
_NO_ITEM = "did not find expected '-' indicator"
_COLON_MISSING = "a colon and a space are missing in this line, as in `name: svc-billing`"
_OF_TABS = (
    "found character that cannot start any token",
    "found a tab character that violates indentation",
)
_OF_BRACES = ("did not find expected ',' or '}'", "did not find expected ',' or ']'")
_KEY = re.compile(r"[ -]*[^\s:#\"']+")
_HAS_COLON = re.compile(r":(?:\s|\Z)")
_LINES_BACK = 100
"""Lines that are looked through for the one that lacks a colon; comments may stand between."""

_MERGE_MARKER = re.compile(r"^(?:<{7} |>{7} |\|{7} |={7}\r?$)", re.MULTILINE)
"""What git writes into a file where two branches do not go together."""


def _merge_marker(text: str, file: str) -> Problem | None:
    """Return the first marker of a merge that nobody resolved, as a problem."""
    if not any(marker in text for marker in ("<<<<<<<", "=======", ">>>>>>>")):
        return None
    if (found := _MERGE_MARKER.search(text)) is None:
        return None
    message = f"`{found[0].strip()}` marks a merge conflict: resolve it and remove its markers"
    return Problem(place_at(text, found.start(), file), "yaml_syntax", message)


_TOO_DEEP_FOR_LIBYAML = "exceeded maximum nesting depth"
"""At 1000 levels, since 0.2.6; it reads ahead so far where brackets follow on each other."""

_ADVICE = {
    "found character that cannot start any token": " (put text that starts with a sign in quotes)",
    _COLON_TOO_MANY: " (put text with a colon in quotes; check the indentation)",
    "did not find expected key": (
        " (put text that starts with a brace in quotes; check the indentation)"
    ),
    "found unexpected ':'": " (put text with a colon in quotes)",
    "found unexpected end of stream": " (is a quote not closed in one of the lines before?)",
    _NO_ITEM: " (check the indentation)",
    "found invalid Unicode character escape code": (
        " (write the character itself, not as two halves)"
    ),
}
