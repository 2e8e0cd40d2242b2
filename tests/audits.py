"""Audits for tests of their formats, and the observations that they come from."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from builders import (
    DAY,
    NOW,
    desired_key,
    environment_with,
    observation_with,
    observed_key,
    rotation_with,
)

from provisioner.audit.key_audit import AuditInput, FleetAudit, audit
from provisioner.errors.failure import Failure
from provisioner.model.key import Annotations
from provisioner.model.sink_content import ApiKeyToken, NoToken
from provisioner.plan import Unobserved
from provisioner.sinks.file import FileAddress

if TYPE_CHECKING:
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey

MALICIOUS = "</td><script>alert(1)</script>|`*_[x](http://a.b) @all & \x1b[31m\u202e\nend"


ABOUT = (
    None,
    Annotations("Nightly export of invoices to the data warehouse", "team-billing", "OPS-1742"),
    Annotations(None, "payments@example.com", None),
    Annotations("Webhook of the shop", None, None),
    Annotations("Sync of contacts", "team-mail", None),
)


def live(name: str = "svc", days_left: float = 60, **changes: Any) -> ObservedKey:
    age = changes.pop("age", 30)
    end = NOW + days_left * DAY + changes.pop("run_marker", timedelta(0))
    fields: dict[str, Any] = {"id": f"id-{name}-{age}", "role": "Integrations"} | changes
    fields |= {"expires_at": end, "created_at": NOW - age * DAY}
    return observed_key(name, **fields)


def declared(
    name: str = "svc", *deliver: FileAddress, before: float | None = None, expiry: str = "90d"
) -> DesiredKey:
    rotation = None if before is None else rotation_with(before * DAY, written="")
    return desired_key(name, *deliver, expiry=expiry, depth=0, rotation=rotation)


def observe(*keys: ObservedKey, desired: tuple[DesiredKey, ...] = (), **changes: Any) -> AuditInput:
    environment = environment_with(
        name=changes.pop("name", "shop"),
        policy=changes.pop("policy", None),
        ignore=changes.pop("ignore", ()),
        owns=changes.pop("owns", ()),
    )
    sink_contents = changes.pop("sink_contents", {})
    observation = observation_with(*keys, **({"workspace": None} | changes))
    return AuditInput(environment, desired, observation, sink_contents)


def audit_of(count: int, environments: int = 3, *, name: str = "svc-{}") -> FleetAudit:
    """Return an audit with keys of every kind, in every environment."""
    inputs: list[AuditInput | Unobserved] = []
    for place in range(environments):
        keys = [
            live(
                name.format(number),
                (number * 7 + 3) % 400 if number % 9 else 36_500,
                age=1 + number % 90,
                id=f"{number:08x}-788b-46ff-94d8-2f9cd657a73c",
                role="Admin" if number % 5 == 0 else "Integrations",
            )
            for number in range(place, count, environments)
        ]
        sinks = [FileAddress("secrets/shop.env", key.id) for key in keys]
        desired = tuple(
            declared(key.name, sink, before=None if number % 3 else 10)._replace(
                annotations=ABOUT[number % len(ABOUT)]
            )
            for number, (key, sink) in enumerate(zip(keys, sinks, strict=True))
            if key.live(NOW)
        )[::2]
        sink_contents = {
            sink: ApiKeyToken(key.id, None) if number % 10 else NoToken()
            for number, (key, sink) in enumerate(zip(keys, sinks, strict=True))
        }
        inputs.append(
            observe(*keys, desired=desired, sink_contents=sink_contents, name=f"shop-{place}")
        )
    return audit(inputs, NOW, 14 * DAY)


def malicious() -> FleetAudit:
    """Return an audit with malicious names and an unreachable environment."""
    away = Unobserved("away", "https://b.example", Failure("unreachable", f"no {MALICIOUS}"))
    about = Annotations(MALICIOUS, MALICIOUS, MALICIOUS)
    observed = observe(
        live(MALICIOUS, 3, id=MALICIOUS, role=MALICIOUS),
        live("about"),
        desired=(
            declared(MALICIOUS + "2"),
            declared("about")._replace(annotations=about),
        ),
    )
    return audit([observed, away], NOW, 14 * DAY)


def rotating() -> FleetAudit:
    """Return an audit of a key whose successor was created and delivered a day ago."""
    old = live("svc", 9, age=81, id="9f1c2d3e-788b-46ff-94d8-2f9cd657a73c")
    new = live("svc", 89, age=1, run_marker=timedelta(milliseconds=417))
    sink = FileAddress("secrets/shop.env", "SVC")
    observed = observe(
        old,
        new,
        desired=(declared("svc", sink, before=14),),
        sink_contents={sink: ApiKeyToken(new.id, new.expires_at)},
        owns=("svc",),
    )
    return audit([observed], NOW, 14 * DAY)


AUDITS = {
    "none": audit([], NOW, DAY),
    "one": audit_of(1, 1),
    "some": audit_of(21),
    "bad": malicious(),
    "rotating": rotating(),
}
