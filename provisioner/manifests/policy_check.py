"""What an environment demands of its keys: `owns` of the rotated ones, and its policy of all.

Both are judged offline, but for what hangs on a variable: `resolve` judges that again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from provisioner.errors.problem import Place, Problem
from provisioner.manifests import characters, variables
from provisioner.manifests.document import Mapping
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

_SHOWN = 3
"""Items of a rule that a message shows."""


class Rule(NamedTuple):
    """One rule of a policy as it is written.

    Attributes:
        place: where its name stands.
        value: the texts; None where the rule lets everything pass.
    """

    place: Place
    value: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class DeclaredPolicy:
    """A policy, and its rules as environments.yaml has them, by their names there."""

    policy: Policy
    rules: MappingOf[str, Rule]


def rules_of(document: Document, node: Mapping) -> tuple[dict[str, Rule], list[Problem]]:
    """The rules of a policy that the schema accepts, and what is wrong with their texts."""
    rules: dict[str, Rule] = {}
    problems: list[Problem] = []
    for name, holder, key in _written(node):
        value = holder[key]
        alone = isinstance(value, str)
        positions = [holder.value_position(key)] if alone else value.positions
        texts = []
        for text, position in zip([value] if alone else value, positions, strict=True):
            if message := characters.advice("the text", text):
                problems.append(Problem(document.place(position), "character_unseen", message))
            try:
                texts.append(_literal(text))
            except ValueError as error:
                problems.append(Problem(document.place(position), "variable_invalid", str(error)))
        if texts or not value:
            open_to_all = not value or (alone and value == _OPEN.get(name))
            place = document.place(holder.key_position(key))
            rules[name] = Rule(place, None if open_to_all else tuple(texts))
    return rules, problems


def _written(node: Mapping) -> Iterator[tuple[str, Mapping, str]]:
    """Each rule by its name, with the mapping and the key that it stands under."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from ((_PARTS[part], value, part) for part in value)
        else:
            yield name, node, name


def policy_of(rules: dict[str, Rule]) -> DeclaredPolicy | None:
    """The policy that the rules make; None without any."""
    if not rules:
        return None
    values: dict[str, Any] = {name: rule.value for name, rule in rules.items()}
    longest = values.get("max_lifetime")
    return DeclaredPolicy(
        Policy(
            max_lifetime=parse_duration(longest[0]) if longest else None,
            rotation=bool(values.get("rotation")),
            roles=values.get("roles") or (),
            names=values.get("names") or (),
            sinks=values.get("sinks") or (),
            forbidden_sinks=values.get("forbidden_sinks") or (),
        ),
        rules,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCheck:
    """What one environment demands of each of its keys.

    Attributes:
        owns: None where it hangs on a variable, and nothing is said of it.
        owns_place: where it stands, or the environment that lacks it.
        role: of keys that name none; None where there is none, or none yet.
    """

    environment: str
    owns: tuple[str, ...] | None
    owns_place: Place
    role: str | None
    policy: DeclaredPolicy | None

    def problems(self, key: DesiredKey, now: datetime | None) -> Iterator[Problem]:
        """What of a key is not as it must be.

        Args:
            key: whole: nothing of it was lost to another problem.
            now: from which the lifetime of a key with a date counts; None leaves dates alone.
        """
        if key.rotation is not None and self.owns is not None and not matches(key.name, self.owns):
            message = (
                f"{self.environment} does not own {show(key.name)}, so that its predecessor could "
                f"never be revoked: add a glob to `owns` there, or write `rotate: never`"
            )
            yield Problem(key.place, "rotation_unowned", message, self.owns_place)
        if self.policy is not None:
            role = self.role if key.role is None else key.role
            for code in breaches(self.policy.policy, key, role=role, now=now):
                yield self._breach(code, key, role, self.policy.rules[_RULES[code]])

    def _breach(self, code: PolicyCode, key: DesiredKey, role: str | None, rule: Rule) -> Problem:
        values = rule.value or ()
        wanted = ", ".join(map(show, values[:_SHOWN])) + (", …" if len(values) > _SHOWN else "")
        whose = f"the policy of {self.environment} (environments.yaml line {rule.place.line})"
        name = show(key.name)
        match code:
            case "policy_lifetime":
                message = (
                    f"{whose} lets keys live for {values[0]} at most, and {name} has "
                    f"{show(key.expiry.written)}: write `expires: {values[0]}` or less"
                )
            case "policy_rotation":
                message = f"{whose} wants {name} rotated: write `rotate: {{before: 14d}}`"
            case "policy_role":
                message = (
                    f"{whose} does not let {name} have {show(role or '')}: write one of {wanted}"
                )
            case "policy_name":
                message = f"{whose} has no glob that fits {name}: name it like {wanted}"
            case "policy_sink":
                message = f"{whose} wants {name} delivered to one of these: {wanted}"
            case "policy_sink_forbidden":
                kinds = {address.place[0]: None for address in key.deliver}
                found = ", ".join(show(kind) for kind in kinds if kind in values)
                message = f"{whose} forbids {name} to be delivered to {found}: use another sink"
            case _:
                assert_never(code)
        return Problem(key.place, code, message, rule.place)


def _literal(text: str) -> str:
    """The text that is meant, `$$` being a dollar sign.

    Raises:
        ValueError: it hangs on a variable, or has a broken one; the sentence shows none of it.
    """
    template = variables.parse(text)
    expanded = template.expand({})
    if template.variables or not isinstance(expanded, str):
        raise ValueError(
            "a policy is checked offline and holds no variables: write the value itself"
        )
    return expanded


_PARTS = {"require": "sinks", "forbid": "forbidden_sinks"}
"""The rules that the mapping of `sinks` holds."""
_OPEN = {"max_lifetime": "never", "rotation": "optional", "roles": "any", "sinks": "optional"}
"""What each rule says to let everything pass, over a rule of the whole file; names have `*`."""
_RULES: dict[PolicyCode, str] = {
    "policy_lifetime": "max_lifetime",
    "policy_rotation": "rotation",
    "policy_role": "roles",
    "policy_name": "names",
    "policy_sink": "sinks",
    "policy_sink_forbidden": "forbidden_sinks",
}
