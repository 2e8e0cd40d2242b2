"""The kinds of sinks are declared once, and the published schemas agree with the declarations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provisioner import schemas
from provisioner.sinks.registry import KINDS, kind_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", KINDS)
def test_the_schema_of_manifests_contains_each_kind(name: str) -> None:
    """`deliver` in the published schema is what the file of the sink declares."""
    kind = kind_of(name)
    assert kind.name == name
    definitions = schemas.load("manifest")["$defs"]
    assert definitions[name] == kind.schema()
    assert {"$ref": f"#/$defs/{name}"} in definitions["sink"]["anyOf"]


def test_policies_list_the_same_kinds() -> None:
    """`sinks` of a policy lists exactly the kinds of `deliver`."""
    policy = schemas.load("environments")["$defs"]["policy"]["properties"]["sinks"]
    parts = policy["anyOf"][2]["properties"].values()
    listed = [policy["anyOf"][1]["items"]["enum"], *(part["items"]["enum"] for part in parts)]
    assert listed == [list(KINDS)] * 3


def test_the_command_would_not_change_the_schemas() -> None:
    """`.ci/schemas` has been run after the last change of a sink."""
    subprocess.run([sys.executable, ROOT / ".ci/schemas", "--check"], check=True)
