"""The requirements of an environment for its keys: `owns` for rotated keys, and its policy.

Both are checked offline, except for what depends on a variable, which `resolve` checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.problem import Place, Problem
from provisioner.manifests import characters, variables
from provisioner.manifests.causes import Affected, Cause
from provisioner.manifests.document import Mapping
from provisioner.manifests.schema import published
from provisioner.manifests.schema_errors import show
from provisioner.model.environment import Policy
from provisioner.model.expiry import parse_duration
from provisioner.model.globs import matches
from provisioner.model.policy import breaches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Mapping as MappingOf
    from datetime import datetime

    from provisioner.manifests.document import Document
    from provisioner.model.key import DesiredKey
    from provisioner.model.policy import PolicyCode

Part = Literal["name", "expires", "role", "deliver", "rotate"]
"""A part of a key that can break a rule."""

_MAX_SHOWN = 3
"""The number of items of a rule that a message shows."""


class Rule(NamedTuple):
    """One rule of a policy as written.

    Attributes:
        place: the place of its name.
        value: its texts; None if the rule allows everything.
    """

    place: Place
    value: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class DeclaredPolicy:
    """A policy, with its rules by name as written in environments.yaml."""

    policy: Policy
    rules: MappingOf[str, Rule]


def rules_of(document: Document, node: object) -> tuple[dict[str, Rule], list[Problem]]:
    """Return the rules of a `policy`, none if it is missing or invalid, and their problems."""
    rules: dict[str, Rule] = {}
    problems: list[Problem] = []
    if not isinstance(node, Mapping) or not published("environments").check("policy")(node):
        return rules, problems
    for name, holder, key in _written(node):
        value = holder[key]
        single = isinstance(value, str)
        positions = [holder.value_position(key)] if single else value.positions
        texts = []
        for text, position in zip([value] if single else value, positions, strict=True):
            place = document.place(position)
            if message := characters.advice("the text", text):
                problems.append(Problem(place, Code.CHARACTER_UNSEEN, message))
            try:
                texts.append(_literal(text))
            except ValueError as error:
                problems.append(Problem(place, Code.VARIABLE_INVALID, str(error)))
        if texts or not value:
            allows_all = not value or (single and value == _ALLOWS_ALL.get(name))
            place = document.place(holder.key_position(key))
            rules[name] = Rule(place, None if allows_all else tuple(texts))
    return rules, problems


def _written(node: Mapping) -> Iterator[tuple[str, Mapping, str]]:
    """Yield each rule by name, with the mapping and the key that contain it."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from ((_PARTS[part], value, part) for part in value)
        else:
            yield name, node, name


def policy_of(rules: dict[str, Rule]) -> DeclaredPolicy | None:
    """Return the policy with these rules; None if there are none."""
    if not rules:
        return None
    values: dict[str, Any] = {name: rule.value or () for name, rule in rules.items()}
    longest = values.pop("max_lifetime", ())
    return DeclaredPolicy(
        Policy(
            max_lifetime=parse_duration(longest[0]) if longest else None,
            rotation=bool(values.pop("rotation", ())),
            **values,
        ),
        rules,
    )


class Breach(NamedTuple):
    """A requirement of an environment that a key does not meet.

    Attributes:
        cause: the problem, at the place of the key.
        part: the part of the key that has to change.
        rule: the rule of the policy; None for `owns`.
    """

    cause: Cause
    part: Part
    rule: Rule | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCheck:
    """The requirements of one environment for each of its keys.

    Attributes:
        environment: the name of the environment.
        owns: the globs of the keys that it owns; None skips the check, as variables require.
        owns_place: the place of `owns`, or of the environment if it has none.
        ignore: the known globs of the keys that it ignores, with the place of each.
        role: the role of keys that have none; None if there is none or it depends on a variable.
        role_place: the place of `role`, or of the environment if it has none.
        policy: the policy of the environment.
    """

    environment: str
    owns: tuple[str, ...] | None
    owns_place: Place
    ignore: MappingOf[str, Place]
    role: str | None
    role_place: Place
    policy: DeclaredPolicy | None

    def breaches(self, key: DesiredKey, now: datetime | None) -> Iterator[Breach]:
        """Yield every requirement that a key does not meet.

        Args:
            key: a complete key: no part of it was ignored because of another problem.
            now: the time from which the lifetime of a key with a date counts; None skips dates.
        """
        for glob, place in self.ignore.items():
            if matches(key.name, (glob,)):
                describe = partial(self._ignored, glob, place)
                cause = Cause(Code.NAME_IGNORED, place, describe, place, single=key.place)
                yield Breach(cause, "name", None)
                break
        if key.rotation is not None and self.owns is not None and not matches(key.name, self.owns):
            cause = Cause(Code.ROTATION_UNOWNED, key.place, self._unowned, self.owns_place)
            yield Breach(cause, "rotate", None)
        if self.policy is not None:
            role = self.role if key.role is None else key.role
            for code in breaches(self.policy.policy, key, role=role, now=now):
                name, part, _ = _RULES[code]
                rule = self.policy.rules[name]
                describe = partial(_describe, code, key, self.environment, rule)
                longest = self.policy.policy.max_lifetime
                # The strictest of several environments is named.
                rank = longest.total_seconds() if longest and code == Code.POLICY_LIFETIME else 0
                yield Breach(Cause(code, key.place, describe, rule.place, rank=rank), part, rule)

    def _ignored(self, glob: str, place: Place, affected: Affected) -> str:
        return (
            f"{self.environment}{affected.other_environments} ignores {affected.key}, so it would "
            f"never be created or changed: rename the key, or narrow {show(glob)} under `ignore` "
            f"({place.file.rpartition('/')[2]} line {place.line})"
        )

    def _unowned(self, affected: Affected) -> str:
        return (
            f"{self.environment}{affected.other_environments} does not own {affected.key}, so a "
            "rotation could never revoke the old key: add a glob to its `owns`, or write "
            "`rotate: never`"
        )


def _describe(
    code: PolicyCode, key: DesiredKey, environment: str, rule: Rule, affected: Affected
) -> str:
    """Return the message of a breach, with advice that holds in all environments affected."""
    values = rule.value or ("",)
    rules = [set(other.value or ()) for other in affected.environments.values() if other]
    common = [value for value in values if all(value in other for other in rules)] or values
    allowed = ", ".join(map(show, common[:_MAX_SHOWN])) + (
        ", …" if len(common) > _MAX_SHOWN else ""
    )
    kinds = dict.fromkeys(address.kind for address in key.deliver)
    found = ", ".join(show(kind) for kind in kinds if any(kind in other for other in rules))
    # The role of an environment may come from a variable, whose value is never shown.
    role = "the environment's own `role`" if key.role is None else f"the role {show(key.role)}"
    return _RULES[code][2].format(
        policy=f"the policy of {environment}{affected.other_environments}",
        line=f"({rule.place.file.rpartition('/')[2]} line {rule.place.line})",
        key=affected.key,
        longest=values[0],
        expiry=show(key.expiry.written),
        allowed=allowed,
        found=found,
        role=role,
    )


_VARIABLE_IN_POLICY = "a policy is checked offline and cannot use variables: write the value itself"


def _literal(text: str) -> str:
    """Return a text with `$$` replaced by a dollar sign; ValueError if it contains a variable."""
    constant = variables.parse(text).constant
    if constant is None:
        raise ValueError(_VARIABLE_IN_POLICY)
    return constant


_PARTS = {"require": "sinks", "forbid": "forbidden_sinks"}
"""The rules in the mapping of `sinks`."""
_ALLOWS_ALL = {"max_lifetime": "never", "rotation": "optional", "roles": "any", "sinks": "optional"}
"""The value of each rule that allows everything and overrides the file's rule; `names` has `*`."""
_RULES: dict[PolicyCode, tuple[str, Part, str]] = {
    Code.POLICY_LIFETIME: (
        "max_lifetime",
        "expires",
        (
            "{policy} allows a lifetime of at most {longest} {line}, and {key} has {expiry}: "
            "write `expires: {longest}` or less"
        ),
    ),
    Code.POLICY_ROTATION: (
        "rotation",
        "rotate",
        "{policy} requires rotation {line}, and {key} has none: write `rotate: {{before: 14d}}`",
    ),
    Code.POLICY_ROLE: (
        "roles",
        "role",
        "{policy} does not allow {role} {line}, which {key} gets: write one of {allowed}",
    ),
    Code.POLICY_NAME: (
        "names",
        "name",
        "{policy} requires a different name {line} for {key}: write one that matches {allowed}",
    ),
    Code.POLICY_SINK: (
        "sinks",
        "deliver",
        (
            "{policy} requires a sink of a different kind {line} for {key}: add one of {allowed} "
            "to `deliver`"
        ),
    ),
    Code.POLICY_SINK_FORBIDDEN: (
        "forbidden_sinks",
        "deliver",
        "{policy} forbids the sink {found} {line}, which {key} has: use another sink",
    ),
}
"""The rule of each code, the part of a key that breaks it, and the message."""
