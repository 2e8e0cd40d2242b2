"""A workspace to the manifest that asks for what it holds, so that adopting it changes nothing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, assert_never

from provisioner.manifests import characters, document, text
from provisioner.manifests.schema import published
from provisioner.model.expiry import format_moment
from provisioner.model.globs import matches
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.secret import NO_WORD, masked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.observed import Observation, ObservedKey, Roles

_HEAD = """\
# yaml-language-server: $schema=../schemas/manifest.schema.json
# The live keys of {environment} at {moment}, written by `provision export`.
"""

_ENDLESS = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""What an end in the year 10 000 or later is observed as."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?: [A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)
"""What every YAML takes for text without quotes, unless it is one of its words."""

_SHOWN = 100
"""Signs of a name that a comment shows."""

_FRAME = 15
"""YAML events of a manifest without defaults and keys; `defaults` with a role have 5 more."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What a workspace holds, as a manifest.

    Attributes:
        text: YAML; keys that a manifest cannot hold are comments in it.
        keys: how many keys it asks for; without any it is no manifest.
        left_out: how many live keys are in comments only.
        comments: one line for each name of those.
        fits: whether it is small enough to be loaded.
    """

    text: str
    keys: int
    left_out: int
    comments: tuple[str, ...]
    fits: bool


def export(environment: str, observation: Observation, only: tuple[str, ...] = ()) -> Exported:
    """The manifest of the live keys of one workspace, by the code points of their names.

    Args:
        environment: its name in environments.yaml.
        observation: one look at the workspace.
        only: globs of key names; with any, all other keys are passed over.
    """
    by_name: dict[str, list[ObservedKey]] = {}
    for key in observation.keys:
        if key.live(observation.server_time) and (not only or matches(key.name, only)):
            by_name.setdefault(key.name, []).append(key)
    words = _role_words(observation.roles)
    kept: list[tuple[ObservedKey, str | None]] = []
    comments: list[str] = []
    for name, same_name in sorted(by_name.items()):
        key = same_name[0]
        role = words.get(key.role_id or "")
        why = _why_not(name, same_name)
        if why is None and role is None and isinstance(observation.roles, KnownRoles):
            why = "it has no role that a manifest could name"
        if why is None:
            kept.append((key, role))
        else:
            comments.append(_comment(name, same_name, why))
    shared, count = next(iter(Counter(role for _, role in kept).most_common(1)), (None, 0))
    default = shared if 2 * count > len(kept) else None
    own = [None if role == default else role for _, role in kept]
    moment = format_moment(observation.server_time)
    lines = [
        _HEAD.format(environment=_scalar(environment), moment=moment),
        "# Its roles are hidden from the credential, so that none is written.\n"
        if isinstance(observation.roles, HiddenRoles)
        else "",
        *comments,
        f"version: 1\nenvironment: {_scalar(environment)}\ndepth: 1\n",
        "" if default is None else f"defaults:\n  role: {_scalar(default)}\n",
        "keys:\n",
        *(_entry(key, role) for (key, _), role in zip(kept, own, strict=True)),
    ]
    manifest = "".join(lines)
    events = _FRAME + 5 * (default is not None) + sum(6 if one is None else 8 for one in own)
    return Exported(
        manifest,
        keys=len(kept),
        left_out=sum(map(len, by_name.values())) - len(kept),
        comments=tuple(comments),
        fits=len(manifest.encode()) <= text.MAX_BYTES and events <= document.MAX_EVENTS,
    )


def _role_words(roles: Roles) -> dict[str, str]:
    """What each role is called in a manifest, by its id: the id, or the label where it is clear."""
    match roles:
        case KnownRoles(roles=known):
            # A plan takes a word for an id before it looks among the labels.
            uses = Counter(word for role in known for word in (role.label, role.id))
            return {
                role.id: word
                for role in known
                for word in (role.id, role.label)
                if word.strip()
                and not _unwritable(word)
                and not _ambiguous(word)
                and (word == role.id or uses[word] == 1)
            }
        case HiddenRoles() | NoRoles():
            return {}
        case _:
            assert_never(roles)


def _why_not(name: str, live: list[ObservedKey]) -> str | None:
    """Why a manifest cannot hold the keys of this name; None where it can."""
    if why := _unwritable(name):
        return why
    written = _in_braces(name)
    is_key = published("manifest").check("key")
    if not is_key({"name": written}):
        if not name.strip():
            return "the name is empty"
        if name != name.strip():
            return "the name has blanks at its ends"
        if not is_key({"name": "a" * len(written)}):
            return "the name is too long"
        return "the name has control characters"
    return _ambiguous(name) or ("several live keys have this name" if len(live) > 1 else None)


def _unwritable(word: str) -> str | None:
    """Why a word cannot stand in a file as it is."""
    if any("\ud800" <= char <= "\udfff" for char in word):
        return "the name holds half a character"
    if masked(word, shortest=NO_WORD) != word:
        return "the name holds a secret of this run"
    return None


def _ambiguous(word: str) -> str | None:
    """Why a word reads like another one."""
    if characters.first_invisible(word) is not None:
        return "the name has characters that cannot be seen"
    if characters.advice("", word) is not None:
        return "the name is not in its composed form (NFC)"
    return None


def _comment(name: str, keys: Iterable[ObservedKey], why: str) -> str:
    # Masked before it is cut: a part of a secret is recognised no more.
    shown = masked(name, shortest=NO_WORD)
    shown = _quoted(shown[:_SHOWN]) + ("…" if len(shown) > _SHOWN else "")
    ids = ", ".join(_escaped(masked(key.id, shortest=NO_WORD)) for key in keys)
    return f"# left out: {shown} ({ids}): {why}\n"


def _entry(key: ObservedKey, role: str | None) -> str:
    expires_at = "never" if key.expires_at >= _ENDLESS else format_moment(key.expires_at)
    last = "" if role is None else f"    role: {_scalar(role)}\n"
    return f"  - name: {_scalar(_in_braces(key.name))}\n    expires: {expires_at}\n{last}"


def _in_braces(name: str) -> str:
    """The name as it stands for itself, where a brace would begin a placeholder."""
    return name.replace("{", "{{").replace("}", "}}")


def _scalar(word: str) -> str:
    """The word in YAML, with quotes where it could be read as anything else."""
    if _PLAIN.fullmatch(word) and isinstance(document.resolve(word), str):
        return word
    return _quoted(word)


def _quoted(word: str) -> str:
    return f'"{_escaped(word)}"'


def _escaped(word: str) -> str:
    """The word as it stands in quotes: in one line, with an escape for whatever does not show."""
    return "".join(map(_sign, word))


def _sign(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\U{ord(char):08X}" if char > "\uffff" else f"\\u{ord(char):04X}"
