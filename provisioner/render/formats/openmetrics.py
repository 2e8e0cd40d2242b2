"""OpenMetrics for the audit of live keys, which Prometheus and node_exporter read too.

Every metric is a gauge without a timestamp, because that is all that the textfile collector of
node_exporter and a push gateway take. An environment that could not be read has no values of keys,
so that nothing out of date is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

from provisioner.audit.key_audit import EnvironmentAudit, FleetAudit, Note
from provisioner.render.audit.rows import NOTE_MEANINGS
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from provisioner.audit.key_audit import KeyAudit
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\""})
"""The escapes of a label; `visible` has already replaced line breaks."""


class _OfEnvironment(NamedTuple):
    """A metric with a value for each environment that was read."""

    name: str
    meaning: str
    value: Callable[[EnvironmentAudit], int]


class _OfKey(NamedTuple):
    """A metric with a value for each live key; None for a key without one."""

    name: str
    meaning: str
    value: Callable[[KeyAudit], int | None]


_OF_ENVIRONMENTS = (
    _OfEnvironment("keys", "Live keys.", lambda one: len(one.keys)),
    _OfEnvironment(
        "keys_due", "Live keys that expire soon or are due for rotation.", lambda one: one.due
    ),
    _OfEnvironment(
        "keys_missing", "Declared names without a live key.", lambda one: len(one.missing)
    ),
)

_OF_KEYS = (
    _OfKey(
        "key_expiry_timestamp_seconds",
        "The time at which the key expires.",
        lambda key: _seconds(key.expires_at),
    ),
    _OfKey(
        "key_rotation_due_timestamp_seconds",
        "The time from which an apply creates the successor of the key.",
        lambda key: None if key.rotation is None else _seconds(key.rotation),
    ),
    _OfKey(
        "key_due",
        "1 if the key expires soon or is due for rotation, 0 if not.",
        lambda key: int(key.due),
    ),
    _OfKey(
        "key_undelivered",
        "1 if a sink lacks the token of the key, 0 if every sink has it.",
        lambda key: 1 if "undelivered" in key.notes else 0 if key.delivery == "yes" else None,
    ),
)


def render(report: ReportInput, _: Palette) -> str:
    """Return the metrics of an audit, ordered by metric, then as the audit is."""
    audit = report.outcome
    if not isinstance(audit, FleetAudit):
        raise TypeError
    return "".join((*_families(audit), "# EOF\n"))


def _families(audit: FleetAudit) -> Iterator[str]:
    every = [(one, _label("environment", one.environment)) for one in audit.environments]
    read = [(one, label) for one, label in every if isinstance(one, EnvironmentAudit)]
    now = _seconds(audit.created_at)
    yield from _family(
        "last_run_timestamp_seconds",
        "The time of the report, whether or not the environment could be read.",
        ((label, now) for _, label in every),
    )
    yield from _family(
        "environment_up",
        "1 if the environment could be read, 0 if not.",
        ((label, int(isinstance(one, EnvironmentAudit))) for one, label in every),
    )
    for metric in _OF_ENVIRONMENTS:
        values = ((label, metric.value(one)) for one, label in read)
        yield from _family(metric.name, metric.meaning, values)
    counts = [(label, one.notes) for one, label in read]
    for note in get_args(Note):
        meaning = f"Live keys with the note {note}: {NOTE_MEANINGS[note]}."
        yield from _family(f"keys_{note}", meaning, ((label, one[note]) for label, one in counts))
    # A server that lists an id twice must not make the whole file invalid.
    keys = {
        f"{label},{_label('name', key.name)},{_label('id', key.id)}": key
        for one, label in read
        for key in one.keys
    }
    yield from _family(
        "key_info",
        "The role of the key, and whether a manifest declares its name.",
        (
            (f"{labels},{_label('role', key.role or '')},{_state(key)}", 1)
            for labels, key in keys.items()
        ),
    )
    for of_key in _OF_KEYS:
        values = (
            (labels, value)
            for labels, key in keys.items()
            if (value := of_key.value(key)) is not None
        )
        yield from _family(of_key.name, of_key.meaning, values)


def _family(name: str, meaning: str, values: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yield the lines of a metric; none if it has no values."""
    name = f"provision_{name}"
    lines = [f"{name}{{{labels}}} {value}\n" for labels, value in values]
    if not lines:
        return
    yield f"# HELP {name} {meaning}\n# TYPE {name} gauge\n"
    if name.endswith("_seconds"):
        yield f"# UNIT {name} seconds\n"
    yield from lines


def _label(name: str, text: str) -> str:
    return f'{name}="{visible(text).translate(_ESCAPES)}"'


def _state(key: KeyAudit) -> str:
    return _label("state", "declared" if key.declared else "unmanaged")


def _seconds(time: datetime) -> int:
    """Return whole seconds since 1970; the milliseconds of a key are those of its run."""
    return int(time.timestamp())
