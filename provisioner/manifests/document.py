"""A strict YAML reader on top of libyaml's events, which keeps all positions.

A document consists of `Mapping` and `Sequence`, which have the positions of their keys and values,
of text, whole numbers and booleans, and of `AmbiguousScalar` for text that YAML would silently
convert. Positions are libyaml's own marks, kept by reference: 100 000 keys need one list for each
mapping and no object for a scalar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat, starmap
from typing import TYPE_CHECKING, Any, Protocol

from yaml import CSafeLoader, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from provisioner.errors.codes import Code
from provisioner.errors.problem import Place, Problem
from provisioner.manifests.text import place_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DEPTH = 64
"""The limit of nesting. Real manifests have 6 levels; libyaml before 0.2.6 crashes at 50 000."""

_TOO_DEEP = f"this is nested deeper than {MAX_DEPTH} levels: use fewer"

MAX_EVENTS = 2_000_000
"""The limit of YAML events in a file, about 300 000 keys; it limits memory and time."""

MAX_PROBLEMS = 10_000
"""The number of problems of a file after which its rest is not checked."""

_WIDE = 50
"""The number of keys from which a mapping indexes their order, so that lookups stay linear."""


class Position(Protocol):
    """A position as in libyaml: index, line and column count from 0, in code points."""

    index: int
    line: int
    column: int


class Mapping(dict[str, Any]):
    """A mapping with positions.

    Attributes:
        position: where the mapping starts; in block style its first key.
        positions: the positions of each key and its value, in turns, in the order of the keys.
    """

    __slots__ = ("_order", "position", "positions")
    position: Position
    positions: list[Position]
    _order: dict[str, int]

    def key_position(self, key: str) -> Position:
        """Return the position of a key."""
        return self.positions[2 * self._index(key)]

    def value_position(self, key: str) -> Position:
        """Return the position of a key's value."""
        return self.positions[2 * self._index(key) + 1]

    def _index(self, key: str) -> int:
        if len(self) < _WIDE:
            return list(self).index(key)
        # Built on first use, and again after the mapping has grown.
        if len(getattr(self, "_order", ())) != len(self):
            self._order = {name: index for index, name in enumerate(self)}
        return self._order[key]


class Sequence(list[Any]):
    """A list with positions.

    Attributes:
        position: where the list starts.
        positions: the position of each item.
    """

    __slots__ = ("position", "positions")
    position: Position
    positions: list[Position]


@dataclass(frozen=True, slots=True)
class AmbiguousScalar:
    """A plain scalar that YAML does not read as text.

    Attributes:
        text: the scalar as written.
        kind: its type in YAML 1.1 or 1.2, with an article.
    """

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """A value with a problem that has been reported; there are no further problems about it."""


Value = str | int | bool | AmbiguousScalar | Invalid | Mapping | Sequence | None
"""None is an empty value (`name:` without text); a written `null` is ambiguous."""


@dataclass(frozen=True, slots=True)
class Document:
    """The content of a file.

    Attributes:
        file: the path as the user would type it.
        text: the text of the file.
        root: the outermost value.
        position: where the outermost value starts.
        partial: the starts of mappings with a key that could not be read (a merge key, or a key
            that is not text), which may have been one that now seems to be missing.
    """

    file: str
    text: str
    root: Value
    position: Position
    partial: frozenset[int]

    def place(self, position: Position) -> Place:
        """Return the place of a position, which counts from 1."""
        # libyaml adds a line break to a text without one, and counts the line after it.
        if position.index >= len(self.text):
            return place_at(self.text, len(self.text), self.file)
        return Place(self.file, position.line + 1, position.column + 1)


def read(
    text: str, file: str, *, dates: frozenset[str] = frozenset()
) -> tuple[Document | None, list[Problem]]:
    """Read one YAML document and find its YAML problems.

    Args:
        text: the text of the file.
        file: the path of the file in problems.
        dates: keys whose values may be dates without quotes; all ambiguous scalars are text there.

    Returns:
        The document, None if there is none or it could not be read completely, and the problems in
        the order of the file.
    """
    if (conflict := _merge_conflict(text, file)) is not None:
        return None, [conflict]
    substituted, substitutes = _substitute_breaks(text)
    reader = _Reader(text, file, dates)
    try:
        get_event = CSafeLoader(substituted).get_event
        document = reader.run(_restoring(get_event, substitutes) if substitutes else get_event)
    except YAMLError as error:
        reader.problems.append(_syntax_problem(error, substituted, file))
        document = None
    except _StopReadingError as last:
        place = Place(file, last.position.line + 1, last.position.column + 1)
        reader.problems.append(Problem(place, last.code, str(last)))
        document = None
    return document, reader.problems


def resolve(text: str) -> str | int | bool | AmbiguousScalar | None:
    """Return the value of a plain scalar: text only if YAML 1.1 and 1.2 both read it as text."""
    if text in _WORDS:
        return _WORDS[text]
    return _number_or_date(text) if text[0] in _NUMERIC else text


@lru_cache(maxsize=8192)
def _number_or_date(text: str) -> str | int | AmbiguousScalar:
    if _INTEGER.fullmatch(text):
        return int(text)
    if found := _AMBIGUOUS.fullmatch(text):
        return AmbiguousScalar(text, _KINDS[found.lastgroup or ""])
    return text


class _StopReadingError(Exception):
    """The last problem of a file whose rest must not be read."""

    def __init__(self, position: Position, code: Code, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.code = code


_WORDS: dict[str, bool | AmbiguousScalar | None] = {
    "": None,
    "=": AmbiguousScalar("=", "a special character"),
    "<<": AmbiguousScalar("<<", "a merge key"),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{word: AmbiguousScalar(word, "an empty value") for word in ("~", "null", "Null", "NULL")},
    **{
        case: AmbiguousScalar(case, "a boolean")
        for word in ("yes", "no", "on", "off", "y", "n")
        for case in (word, word.capitalize(), word.upper())
    },
}
_NUMERIC = frozenset("0123456789+-.")
"""The first characters of all numbers and dates."""

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
"""Whole numbers in all versions of YAML, as people write them."""

_KINDS = {"number": "a number", "time": "a number (hours in base 60)", "date": "a date"}
_AMBIGUOUS = re.compile(
    r"(?P<number>[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*"
    r"|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))"
    r"|(?P<time>[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)"
    r"|(?P<date>[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
    r"(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?"
    r"(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?)?)",
    re.ASCII,
)
_SUSPECT = _NUMERIC.union(word[:1] for word in _WORDS)
"""The first characters of all scalars that may not be text."""


class _Reader:
    """Reads the events of one text in one pass, by recursive descent.

    Args:
        text: the text of the file.
        file: the path of the file in problems.
        dates: keys whose values may be dates without quotes.
    """

    def __init__(self, text: str, file: str, dates: frozenset[str]) -> None:
        self.problems: list[Problem] = []
        self._text = text
        self._file = file
        self._dates = dates
        # Without these characters there are no anchors or tags, and events need no check.
        self._decorated = "&" in text or "!" in text
        self._partial: set[int] = set()
        self._known_keys: dict[str, str] = {}
        self._depth = 0
        self._events: Iterator[Any] = iter(())

    def run(self, get_event: Callable[[], Any]) -> Document | None:
        """Return the document, or None for an empty file.

        Args:
            get_event: returns the next event of libyaml.

        Raises:
            YAMLError: The text is not YAML.
            _StopReadingError: The rest of the file must not be read.
        """
        # Iterating costs less than a call for each event.
        events = starmap(get_event, repeat((), MAX_EVENTS - 1))
        self._events = chain(events, _last_event(get_event))
        next(self._events)  # the start of the stream
        following: Any = next(self._events)
        root: Any = None
        position: Any = None
        if following.__class__ is not StreamEndEvent:
            event = next(self._events)
            root, position = self._value(event, None), event.start_mark
            next(self._events)  # the end of the document
            following = next(self._events)
        kind: type = following.__class__
        if kind is DocumentStartEvent:
            self._problem(
                following.start_mark,
                Code.YAML_MULTIPLE_DOCUMENTS,
                "a file can have only one document: move what follows this `---` into another file",
            )
        if root is None:
            message = "the file is empty: remove it, or start it with `version: 1`"
            self.problems.append(Problem(Place(self._file), Code.FILE_EMPTY, message))
            return None
        return Document(self._file, self._text, root, position, frozenset(self._partial))

    def _value(self, event: Any, key: str | None) -> Any:
        """Return the value that starts with an event.

        Args:
            event: the first event of the value.
            key: the key of a value in a mapping; None in a list.
        """
        kind = event.__class__
        if kind is AliasEvent:
            self._problem(
                event.start_mark,
                Code.YAML_ALIAS,
                "aliases (`*name`) are not supported: write the value again",
            )
            return Invalid()
        if self._decorated and (event.anchor is not None or event.tag is not None):
            self._report_decoration(event)
            if kind is ScalarEvent and event.tag is not None:
                return Invalid()
        if kind is ScalarEvent:
            return event.value if event.style else self._scalar(event, key)
        if self._depth == MAX_DEPTH:
            raise _StopReadingError(event.start_mark, Code.YAML_TOO_DEEP, _TOO_DEEP)
        self._depth += 1
        value = self._mapping(event) if kind is MappingStartEvent else self._sequence(event)
        self._depth -= 1
        return value

    def _scalar(self, event: Any, key: str | None) -> Any:
        """Return the value of a plain scalar."""
        value = resolve(event.value)
        is_date = key in self._dates and event.anchor is None
        return value.text if is_date and value.__class__ is AmbiguousScalar else value

    def _sequence(self, start: Any) -> Sequence:
        node = Sequence()
        node.position = start.start_mark
        node.positions = []
        for event in self._events:
            if event.__class__ is SequenceEndEvent:
                break
            node.append(self._value(event, None))
            node.positions.append(event.start_mark)
        return node

    def _mapping(self, start: Any) -> Mapping:
        node = Mapping()
        node.position = start.start_mark
        node.positions = positions = []
        events, known_keys, decorated = self._events, self._known_keys, self._decorated
        for event in events:
            if event.__class__ is MappingEndEvent:
                break
            if decorated or event.__class__ is not ScalarEvent:
                key = self._key(event, node)
            else:
                key = known_keys.get(event.value) or self._key(event, node)
            value_event = next(events)
            if value_event.__class__ is ScalarEvent and not decorated:
                # Most values are text, and a call for each of them takes time.
                value = value_event.value
                if value[:1] in _SUSPECT and not value_event.style:
                    value = self._scalar(value_event, key)
            else:
                value = self._value(value_event, key)
            if key is None:
                continue
            if key in node:
                self._report_duplicate(key, event.start_mark, node)
                continue
            node[key] = value
            positions.append(event.start_mark)
            positions.append(value_event.start_mark)
        return node

    def _key(self, event: Any, node: Mapping) -> str | None:
        """Return a key that was not read before, or None if it is invalid."""
        kind: type = event.__class__
        if kind is not ScalarEvent:
            self._partial.add(node.position.index)
            if kind is not AliasEvent:
                message = "this key is a list or a mapping: write text"
                self._problem(event.start_mark, Code.YAML_KEY_TYPE, message)
            self._value(event, None)
            return None
        text: str = event.value
        if event.anchor is not None or event.tag is not None:
            self._report_decoration(event)
        value = text if event.style else resolve(text)
        if event.tag is not None:
            pass
        elif isinstance(value, str):
            # A quoted key such as "no" is text only in quotes.
            if not event.style or isinstance(resolve(text), str):
                self._known_keys[text] = text
            return value
        elif text == "<<":
            message = "merge keys (`<<`) are not supported: write the keys out, or use `defaults`"
            self._problem(event.start_mark, Code.YAML_MERGE_KEY, message)
        else:
            advice = f'write "{text}" in quotes' if text.isalpha() else "put it in quotes"
            what = value.kind if isinstance(value, AmbiguousScalar) else _KIND_OF[type(value)]
            message = f"this key is {what} in YAML: {advice} to make it text"
            self._problem(event.start_mark, Code.YAML_KEY_TYPE, message)
        self._partial.add(node.position.index)
        return None

    def _report_decoration(self, event: Any) -> None:
        """Report an anchor and a tag; neither is shown, because it may be part of a password."""
        if event.anchor is not None:
            message = "anchors (`&name`) are not supported: remove the anchor"
            self._problem(event.start_mark, Code.YAML_ANCHOR, message)
        if event.tag is not None:
            message = (
                "tags (`!name`) are not supported: remove the tag, or put text that starts with an "
                "exclamation mark in quotes"
            )
            self._problem(event.start_mark, Code.YAML_TAG, message)

    def _report_duplicate(self, key: str, position: Position, node: Mapping) -> None:
        first = self._place(node.key_position(key))
        shown = f"`{key}`" if _PLAIN_KEY.fullmatch(key) else "this key"
        message = f"{shown} is written twice, first on line {first.line}: keep one"
        self._problem(position, Code.YAML_DUPLICATE_KEY, message, related=first)

    def _problem(
        self, position: Position, code: Code, message: str, *, related: Place | None = None
    ) -> None:
        if len(self.problems) == MAX_PROBLEMS:
            message = (
                f"the file has more than {MAX_PROBLEMS} problems: the rest of the file was not read"
            )
            raise _StopReadingError(position, Code.TOO_MANY_PROBLEMS, message)
        self.problems.append(Problem(self._place(position), code, message, related))

    def _place(self, position: Position) -> Place:
        return Place(self._file, position.line + 1, position.column + 1)


def _last_event(get_event: Callable[[], Any]) -> Iterator[Any]:
    """Yield the last event that a file may have, which must be the end of the file."""
    event = get_event()
    if event.__class__ is not StreamEndEvent:
        message = "the file has too many values: split it"
        raise _StopReadingError(event.start_mark, Code.FILE_TOO_LARGE, message)
    yield event


_BREAKS = "\x85\u2028\u2029"
"""Line breaks in YAML 1.1 and libyaml, but not in YAML 1.2, git and editors."""

_SUBSTITUTES = range(0xF0000, 0xFFFFE)
"""Private-use characters, which libyaml reads like letters."""

_PRIVATE = re.compile("[\U000f0000-\U000ffffd]")
_ESCAPED = re.compile(r"\\U(000[fF][0-9a-fA-F]{4})")


def _substitute_breaks(text: str) -> tuple[str, dict[int, str]]:
    """Return the text with a substitute for each YAML 1.1 line break, and the substitutes."""
    breaks = [each for each in _BREAKS if each in text]
    if not breaks:
        return text, {}
    # A private-use character that is written as an escape must not become a line break.
    taken = set(map(ord, _PRIVATE.findall(text)))
    taken.update(int(digits, 16) for digits in _ESCAPED.findall(text))
    free = (code for code in _SUBSTITUTES if code not in taken)
    substitutes = dict(zip(free, breaks, strict=False))
    return text.translate({ord(each): code for code, each in substitutes.items()}), substitutes


def _restoring(get_event: Callable[[], Any], substitutes: dict[int, str]) -> Callable[[], Any]:
    """Return a function that gets the same events, with the original line breaks."""

    def get() -> Any:
        event = get_event()
        if event.__class__ is ScalarEvent:
            event.value = event.value.translate(substitutes)
        return event

    return get


_KIND_OF: dict[type, str] = {bool: "a boolean", int: "a number", type(None): "an empty value"}
_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
"""Keys that may be shown: `{token:eyJ…}` without a space is one long key in YAML."""


def _syntax_problem(error: YAMLError, text: str, file: str) -> Problem:
    """Return the most likely mistake where libyaml stops, or libyaml's message."""
    if isinstance(error, ReaderError):
        index = len(text.encode()[: error.position].decode(errors="ignore"))
        message = f"remove the control character U+{error.character:04X}"
    else:
        position = getattr(error, "problem_mark", None)
        index = len(text) if position is None else position.index
        reason = str(getattr(error, "problem", "it cannot be read"))
        if reason == _TOO_DEEP_FOR_LIBYAML:
            return Problem(place_at(text, index, file), Code.YAML_TOO_DEEP, _TOO_DEEP)
        context = getattr(error, "context_mark", None)
        found = _known_mistake(reason, text, index, index if context is None else context.index)
        index, message = found or (index, f"{reason}{_ADVICE.get(reason, '')}")
    return Problem(place_at(text, index, file), Code.YAML_SYNTAX, f"this is not YAML: {message}")


def _known_mistake(reason: str, text: str, index: int, context: int) -> tuple[int, str] | None:
    """Return the index and the message of a mistake that people often make; None for others."""
    char = text[index : index + 1]
    if char == "\t" and reason in _REASONS_OF_TABS:
        return index, "indent with spaces instead of this tab"
    if char == "{" and reason in _REASONS_OF_BRACES:
        if text[index - 1 : index] == "$":
            return index - 1, 'inside {…} or […], put variables in quotes: "${NAME}"'
        return index, "inside {…} or […], put text that contains a brace in quotes"
    if reason == _NO_COLON:
        return context, _COLON_MISSING
    if reason in (_COLON_TOO_MANY, _NO_ITEM, _NO_KEY):
        return _misplaced(text, index)
    return None


def _misplaced(text: str, index: int) -> tuple[int, str] | None:
    """Return the index and the message of the mistake where something else was expected."""
    colon = text.find(":", index)
    if colon >= 0 and "\n" not in text[index:colon]:
        return _misplaced_line(text, colon)
    if text[:index].rstrip(" ").endswith(("'", '"')):
        return index, _AFTER_QUOTE
    return None


def _misplaced_line(text: str, index: int) -> tuple[int, str] | None:
    """Return the index and the message of the mistake before an unexpected colon, if it is known.

    Either the line before has no colon, or the line of this colon is not indented like others.
    """
    start = text.rfind("\n", 0, index) + 1
    key = text[start:index]
    if not _KEY.fullmatch(key):
        return None
    own = start + len(key) - len(key.lstrip(" "))
    for line in reversed(text[:start].split("\n")[-_LINES_BACK:-1]):
        if not (content := line.strip()) or content.startswith("#"):
            start -= len(line) + 1
            continue
        start -= len(line) + 1
        if _HAS_COLON.search(line):
            return own, _NOT_ALIGNED
        if '"' in line or "'" in line:
            return None
        return start + len(line) - len(line.lstrip(" -")), _COLON_MISSING
    return None


_NO_COLON = "could not find expected ':'"
_COLON_TOO_MANY = "mapping values are not allowed in this context"
_NO_ITEM = "did not find expected '-' indicator"
_NO_KEY = "did not find expected key"
_COLON_MISSING = (
    "a colon and a space are missing in this line: write, for example, `name: svc-billing`"
)
_AFTER_QUOTE = "this text comes after the closing quote: put all of it inside the quotes"
_NOT_ALIGNED = (
    "this line is not indented like the lines that it belongs with: begin it in the same column"
)
_REASONS_OF_TABS = (
    "found character that cannot start any token",
    "found a tab character that violates indentation",
)
_REASONS_OF_BRACES = ("did not find expected ',' or '}'", "did not find expected ',' or ']'")
_KEY = re.compile(r"[ -]*[^\s:#\"']+")
_HAS_COLON = re.compile(r":(?:\s|\Z)")
_LINES_BACK = 100
"""The number of lines that are searched for the one without a colon, including comments."""

_MERGE_MARKER = re.compile(r"^(?:<{7} |>{7} |\|{7} |={7}\r?$)", re.MULTILINE)
"""The lines that git writes into a file for a merge conflict."""


def _merge_conflict(text: str, file: str) -> Problem | None:
    """Return a problem for the first marker of an unresolved merge conflict."""
    if not any(marker in text for marker in ("<<<<<<<", "=======", ">>>>>>>")):
        return None
    if (found := _MERGE_MARKER.search(text)) is None:
        return None
    message = f"`{found[0].strip()}` marks a merge conflict: resolve it, and remove its markers"
    return Problem(place_at(text, found.start(), file), Code.YAML_SYNTAX, message)


_TOO_DEEP_FOR_LIBYAML = "exceeded maximum nesting depth"
"""libyaml's own limit of 1000 levels, since 0.2.6, which it reaches when it reads ahead."""

_ADVICE = {
    "found character that cannot start any token": (
        " (put text that starts with a special character in quotes)"
    ),
    _COLON_TOO_MANY: " (put text with a colon in quotes; check the indentation)",
    _NO_KEY: (" (put text that starts with a brace in quotes; check the indentation)"),
    "found unexpected ':'": " (put text with a colon in quotes)",
    "found unexpected end of stream": " (is a quote missing on an earlier line?)",
    _NO_ITEM: " (check the indentation)",
    "found invalid Unicode character escape code": (
        " (write the character itself instead of its two surrogate halves)"
    ),
}
