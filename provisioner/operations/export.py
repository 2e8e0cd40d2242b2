"""The operation of `provision export`: write a manifest whose plan changes nothing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.manifests import characters, document, text
from provisioner.manifests.schema import published
from provisioner.model.expiry import format_timestamp
from provisioner.model.globs import matches
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.operations.proposal import propose
from provisioner.plan import Unmanaged, plan_environment
from provisioner.secret import MIN_DATA_LENGTH, masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey, Roles
    from provisioner.operations.proposal import ProposedGlob

_HEADER = """\
# yaml-language-server: $schema={schemas}/manifest.schema.json
# The live keys in {environment} at {time}, written by `provision export`.
"""

_MAX_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""The expiry that is observed for every key that expires in the year 10 000 or later."""

_UNQUOTED = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?: [A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)
"""Text that every YAML parser reads as a string without quotes, unless it is a YAML keyword."""

_MAX_COMMENT_NAME = 100
"""Characters of a name that a comment shows."""

_BASE_EVENTS = 15
"""YAML events of a manifest without defaults and keys; `defaults` with a role add 5."""


class ExportOptions(NamedTuple):
    """The keys that an export is about.

    Attributes:
        only: globs of key names; empty for all.
        unmanaged: True for only those that a plan reports as unmanaged.
    """

    only: tuple[str, ...] = ()
    unmanaged: bool = False


_NO_OPTIONS = ExportOptions()


@dataclass(frozen=True, slots=True)
class ExportedManifest:
    """The live keys of a workspace, as a manifest.

    Attributes:
        text: YAML, with comments for the keys that a manifest cannot declare.
        keys: the number of declared keys; a manifest with none is not valid.
        left_out: the number of live keys that are only in comments.
        comments: one line for each name that is left out.
        fits: whether the manifest is small enough to be loaded.
    """

    text: str
    keys: int
    left_out: int
    comments: tuple[str, ...]
    fits: bool


def export(
    environment: Environment,
    observation: Observation,
    desired: Sequence[DesiredKey] = (),
    options: ExportOptions = _NO_OPTIONS,
    *,
    schemas: str = "../schemas",
) -> ExportedManifest:
    """Return a manifest of the live keys of one workspace, sorted by the code points of names.

    Keys that the environment ignores are left out, since no manifest may declare them. Comments at
    its top propose the `owns` and `ignore` that the environment lacks.

    Args:
        environment: the environment of the workspace.
        observation: an observation of the workspace.
        desired: the keys that manifests declare there already.
        options: the selection of the keys.
        schemas: the folder of the schemas, relative to that of the manifest.
    """
    live = [
        key
        for key in observation.keys
        if key.live(observation.server_time) and not environment.ignores_key(key.name)
    ]
    selected = _selection(environment, observation, desired, options)
    by_name: dict[str, list[ObservedKey]] = {}
    for key in live:
        if selected is None or key.name in selected:
            by_name.setdefault(key.name, []).append(key)
    references = _role_references(observation.roles)
    declared: list[tuple[ObservedKey, str | None]] = []
    comments: list[str] = []
    for name, same_name in sorted(by_name.items()):
        key = same_name[0]
        role = references.get(key.role_id or "")
        reason = _reason_to_omit(name, same_name)
        if reason is None and role is None and isinstance(observation.roles, KnownRoles):
            reason = "the key has no role that a manifest can refer to"
        if reason is None:
            declared.append((key, role))
        else:
            comments.append(_comment(name, same_name, reason))
    common, count = next(iter(Counter(role for _, role in declared).most_common(1)), (None, 0))
    default = common if 2 * count > len(declared) else None
    own_roles = [None if role == default else role for _, role in declared]
    adopted = {key.name for key, _ in declared}
    foreign = {key.name for key in live} - adopted - {key.name for key in desired}
    name_of_environment = _yaml_scalar(environment.name)
    lines = [
        _HEADER.format(
            schemas=schemas,
            environment=name_of_environment,
            time=format_timestamp(observation.server_time),
        ),
        "# The credential cannot read roles, so no role is written.\n"
        if isinstance(observation.roles, HiddenRoles)
        else "",
        *comments,
        *_proposal(environment, adopted, foreign),
        f"version: 1\nenvironment: {name_of_environment}\ndepth: 1\n",
        "" if default is None else f"defaults:\n  role: {_yaml_scalar(default)}\n",
        "keys:\n",
        *(_entry(key, role) for (key, _), role in zip(declared, own_roles, strict=True)),
    ]
    manifest = "".join(lines)
    events = _BASE_EVENTS + 5 * (default is not None)
    events += sum(6 if role is None else 8 for role in own_roles)
    return ExportedManifest(
        manifest,
        keys=len(declared),
        left_out=sum(map(len, by_name.values())) - len(declared),
        comments=tuple(comments),
        fits=len(manifest.encode()) <= text.MAX_BYTES and events <= document.MAX_EVENTS,
    )


def _selection(
    environment: Environment,
    observation: Observation,
    desired: Sequence[DesiredKey],
    options: ExportOptions,
) -> frozenset[str] | None:
    """Return the names of the selected keys; None for all."""
    if not options.only and not options.unmanaged:
        return None
    if options.unmanaged:
        planned = plan_environment(environment, desired, observation, observation.server_time)
        names = {one.name for one in planned.findings if isinstance(one, Unmanaged)}
    else:
        names = {key.name for key in observation.keys}
    return frozenset(name for name in names if not options.only or matches(name, options.only))


def _proposal(environment: Environment, adopted: set[str], foreign: set[str]) -> Iterator[str]:
    """Yield comments that propose `owns` and `ignore`, as lines of environments.yaml."""
    ignorable = {name for name in foreign if _reason_unnameable(name) is None}
    proposal = propose(adopted, foreign, ignorable, environment.owns)
    if not proposal.owns and not proposal.ignore:
        return
    yield f"# Proposed for {_yaml_scalar(environment.name)} in environments.yaml, to be reviewed:\n"
    yield from _proposed_field("owns", proposal.owns, proposal.owns_left_out)
    yield from _proposed_field("ignore", proposal.ignore, proposal.ignore_left_out)


def _proposed_field(name: str, globs: tuple[ProposedGlob, ...], left_out: int) -> Iterator[str]:
    if not globs:
        return
    yield f"#     {name}:\n"
    for glob, reason in globs:
        # environments.yaml expands variables.
        yield f"#       - {_yaml_scalar(glob.replace('$', '$$'))}  # {_escaped(reason)}\n"
    if left_out:
        yield f"#       # and {pluralize(left_out, 'more name')}\n"


def _role_references(roles: Roles) -> dict[str, str]:
    """Return how a manifest refers to each role: by its label if unambiguous, else by its id."""
    match roles:
        case KnownRoles(roles=known):
            # A plan compares a reference with the ids before the labels.
            uses = Counter(word for role in known for word in (role.label, role.id))
            return {
                role.id: word
                for role in known
                for word in (role.id, role.label)
                if word.strip()
                and not _reason_unwritable(word)
                and not _reason_ambiguous(word)
                and (word == role.id or uses[word] == 1)
            }
        case HiddenRoles() | NoRoles():
            return {}
        case _:
            assert_never(roles)


def _reason_to_omit(name: str, live: list[ObservedKey]) -> str | None:
    """Return why a manifest cannot declare the keys with this name; None if it can."""
    return _reason_unnameable(name) or (
        "several live keys have this name" if len(live) > 1 else None
    )


def _reason_unnameable(name: str) -> str | None:
    """Return why a manifest cannot contain this name; None if it can."""
    if reason := _reason_unwritable(name):
        return reason
    written = _escape_braces(name)
    is_key = published("manifest").check("key")
    if not is_key({"name": written}):
        if not name.strip():
            return "the name is empty"
        if name != name.strip():
            return "the name has leading or trailing spaces"
        if not is_key({"name": "a" * len(written)}):
            return "the name is too long"
        return "the name contains control characters"
    return _reason_ambiguous(name)


def _reason_unwritable(word: str) -> str | None:
    """Return why a name or role cannot be written to a file; None if it can."""
    if any("\ud800" <= char <= "\udfff" for char in word):
        return "the name contains an unpaired surrogate"
    if masked(word, min_length=MIN_DATA_LENGTH) != word:
        return "the name contains a secret used in this run"
    return None


def _reason_ambiguous(word: str) -> str | None:
    """Return why a name or role looks like another one; None if it does not."""
    if characters.first_invisible(word) is not None:
        return "the name contains invisible characters"
    if characters.advice("", word) is not None:
        return "the name is not in Unicode NFC"
    return None


def _comment(name: str, keys: Iterable[ObservedKey], reason: str) -> str:
    # Masked before truncation, since a part of a secret would not be recognised.
    shown = masked(name, min_length=MIN_DATA_LENGTH)
    shown = _quoted(shown[:_MAX_COMMENT_NAME]) + ("…" if len(shown) > _MAX_COMMENT_NAME else "")
    ids = ", ".join(_escaped(masked(key.id, min_length=MIN_DATA_LENGTH)) for key in keys)
    return f"# left out: {shown} ({ids}): {reason}\n"


def _entry(key: ObservedKey, role: str | None) -> str:
    expires_at = "never" if key.expires_at >= _MAX_EXPIRY else format_timestamp(key.expires_at)
    role_line = "" if role is None else f"    role: {_yaml_scalar(role)}\n"
    name = _yaml_scalar(_escape_braces(key.name))
    return f"  - name: {name}\n    expires: {expires_at}\n{role_line}"


def _escape_braces(name: str) -> str:
    """Return the name with its braces escaped, which would start a placeholder."""
    return name.replace("{", "{{").replace("}", "}}")


def _yaml_scalar(word: str) -> str:
    """Return the word as a YAML string, quoted if YAML would read it as another type."""
    if _UNQUOTED.fullmatch(word) and isinstance(document.resolve(word), str):
        return word
    return _quoted(word)


def _quoted(word: str) -> str:
    return f'"{_escaped(word)}"'


def _escaped(word: str) -> str:
    """Return the word for a quoted string: on one line, with unprintable characters escaped."""
    return "".join(map(_escape_character, word))


def _escape_character(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\U{ord(char):08X}" if char > "\uffff" else f"\\u{ord(char):04X}"
