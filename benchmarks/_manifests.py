"""Manifests for the benchmarks: one small manifest for each depth, and fleets of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENVIRONMENT = "production"
TOKEN_VARIABLE = "BENCHMARK_TWENTY_TOKEN"
EMAIL_VARIABLE = "BENCHMARK_TWENTY_EMAIL"
ROLE = "Integrations"
COUNTS = {0: 20, 1: 57, 2: 60}
"""Number of keys in the small manifest of each depth; 137 in total."""

_EMBEDDED = "sandbox:"
_KEYS_PER_FILE = 1000


def environment(directory: Path, url: str = _EMBEDDED, credential: str = "session_token") -> None:
    """Write an environments.yaml with one environment.

    Args:
        directory: the manifests directory.
        url: of the server.
        credential: what the token is: `session_token`, `token`, or `password` of the user in
            `EMAIL_VARIABLE`.
    """
    lines = ["version: 1", "environments:", f"  {ENVIRONMENT}:", f'    url: "{url}"']
    if url != _EMBEDDED:
        email = f'email: "${{{EMAIL_VARIABLE}}}", ' if credential == "password" else ""
        lines.append(f'    auth: {{{email}{credential}: "${{{TOKEN_VARIABLE}}}"}}')
    lines.append(f"    role: {ROLE}")
    directory.mkdir(exist_ok=True)
    _write(directory / "environments.yaml", lines)


def of_every_depth(directory: Path) -> None:
    """Write one manifest for each depth, with the number of keys in `COUNTS`."""
    for depth, count in COUNTS.items():
        head = ["version: 1", f"environment: {ENVIRONMENT}", f"depth: {depth}"]
        keys = [f"  - name: svc-{depth}-{number:03d}" for number in range(count)]
        _write(
            directory / f"depth-{depth}.yaml", [*head, "defaults: {expires: 90d}", "keys:", *keys]
        )


def plain(directory: Path, count: int) -> list[str]:
    """Write one manifest of keys without sinks; return their names."""
    names = [f"svc-{number:03d}" for number in range(count)]
    head = ["version: 1", f"environment: {ENVIRONMENT}", "defaults: {expires: 90d}", "keys:"]
    _write(directory / "plain.yaml", [*head, *(f"  - name: {one}" for one in names)])
    return names


def with_sink(directory: Path, count: int) -> None:
    """Write one manifest of keys whose tokens go to one file."""
    head = ["version: 1", f"environment: {ENVIRONMENT}"]
    defaults = "defaults: {expires: 90d, deliver: [{file: tokens.env}]}"
    keys = [f"  - name: svc-{number:03d}" for number in range(count)]
    _write(directory / "delivered.yaml", [*head, defaults, "keys:", *keys])


def names_of_every_depth() -> list[str]:
    """Return the names in the manifests of `of_every_depth`."""
    return [
        f"svc-{depth}-{number:03d}" for depth, count in COUNTS.items() for number in range(count)
    ]


def reconciler(directory: Path, count: int, *, lean: bool = False) -> None:
    """Write manifests with 1000 keys each, and the environments.yaml that they need.

    Args:
        directory: the manifests directory.
        count: the number of keys, a multiple of 1000.
        lean: whether keys have only a name and an expiry; otherwise they also have a description
            and a role, about 250 bytes in total.
    """
    environment(directory)
    head = ["version: 1", f"environment: {ENVIRONMENT}", "depth: 1", "keys:"]
    for start in range(0, count, _KEYS_PER_FILE):
        lines = [*head]
        for number in range(start, start + _KEYS_PER_FILE):
            lines += _lean(number) if lean else _full(number)
        _write(directory / f"team-{start // _KEYS_PER_FILE:03d}.yaml", lines)


def name(number: int) -> str:
    """Return the name of a key of a fleet."""
    return f"svc-integration-{number:06d}-eu-central"


def _lean(number: int) -> Iterator[str]:
    yield f"  - name: {name(number)}"
    yield f"    expires: {expiry_date(number)}"


def _full(number: int) -> Iterator[str]:
    yield f"  - name: {name(number)}"
    yield (
        "    description: Nightly export of invoices and credit notes from the billing service "
        f"to the data warehouse, team {number % 97:02d}, ticket OPS-{number:06d}, owner on call"
    )
    yield f"    expires: {expiry_date(number)}"
    yield f"    role: {ROLE}"


def expiry_date(number: int) -> str:
    """Return the expiry date of a key of a fleet, one of 672 days."""
    return f"{2035 + number // 336 % 2}-{1 + number % 12:02d}-{1 + number % 28:02d}"


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
