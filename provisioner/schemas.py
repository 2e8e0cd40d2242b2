"""The published JSON Schemas of the input files, the JSON outputs and a log line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = (
    "environments",
    "manifest",
    "plan",
    "planfile",
    "result",
    "problems",
    "keys",
    "doctor",
    "report",
    "log",
    "events",
    "notification",
)
"""The names that `provision schema NAME` accepts; each is `schemas/NAME.schema.json`."""

_PACKAGE = Path(__file__).parent


def text(name: str) -> str:
    """Return the text of a schema, from the wheel or from the checkout."""
    installed = _PACKAGE / "_schemas"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "schemas"
    return (folder / f"{name}.schema.json").read_text(encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    """Return a schema as a JSON object."""
    schema: dict[str, Any] = json.loads(text(name))
    return schema
