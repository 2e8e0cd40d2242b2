"""The kinds of sinks are declared once, and the published schemas agree with the declarations."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner import schemas
from provisioner.sinks.kind import VARIABLE, OptionValues
from provisioner.sinks.registry import KINDS, kind_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", KINDS)
def test_the_schema_of_manifests_contains_each_kind(name: str) -> None:
    """`deliver` in the published schema has the options that the file of the sink declares."""
    kind = kind_of(name)
    assert kind.name == name
    definitions = schemas.load("manifest")["$defs"]
    options = {one.name: (one.title, one.description) for one in kind.options}
    properties = dict(definitions[name]["properties"])
    assert properties.pop("clean")["$ref"] == "#/$defs/clean"
    assert {one: (it["title"], it["description"]) for one, it in properties.items()} == options
    assert definitions["sink"]["anyOf"] == [{"$ref": f"#/$defs/{one}"} for one in KINDS]


@pytest.mark.parametrize("name", ["environments", "planfile"])
def test_the_other_schemas_list_the_same_kinds(name: str) -> None:
    """Policies and plan files accept exactly the kinds of `deliver`."""
    listed = re.findall(r'"enum": (\[\s*"file",[^\]]*\])', schemas.text(name))
    assert listed
    assert all(json.loads(one) == list(KINDS) for one in listed)


REFUSED = {
    ("file", "variable"): ("", "A B", "A=B", "A\nB", "ö", "A'", "#A", "$A"),
    ("aws", "aws"): ("", "a b", "ü", "a:b", "x" * 513, "a\n", "arn:aws:secretsmanager:x"),
    ("ssm", "ssm"): (
        *("", "a b", "ü", "/a:3", "a/b", "/a/", "//a", "/a" * 16, "x" * 1012, "/a\n"),
        *("/aws/a", "ssm-a", "arn:aws:ssm:eu-central-1:1:parameter/a"),
    ),
    ("github", "secret"): ("GITHUB_KEY", "github_key", "9KEY", "A-B", "A B", "", "É"),
    ("gitlab", "variable"): ("A-B", "A B", "", "K" * 256, "É"),
    ("kubernetes", "kubernetes"): (
        *("shop/Twenty", "shop/a/b", "sh op/twenty", f"shop/{'a' * 254}", "a.b/twenty"),
    ),
    ("kubernetes", "key"): ("a/b", "..", ""),
    ("gcp", "gcp"): (
        "acme-prod",
        "Acme/a",
        "a/b",
        "acme-prod/a.b",
        f"acme-prod/{'a' * 256}",
        "../a",
    ),
    ("azure", "azure"): (
        *("acme", "ac/a", "-acme/a", "acme--a/a", f"{'a' * 25}/a", "acme/a.b", "acme/a_b"),
        *(f"acme/{'a' * 128}", "https://acme/a", "a@acme.vault.azure.net/a", "acme.net:x/a"),
    ),
    ("twenty", "twenty"): ("", "a\n"),
    ("vault", "vault"): ("secret", "/secret/a", "secret/a/", "secret/../a", "secret/\n"),
}
"""Values of options that the vendors refuse."""


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(*option, value) for option, values in REFUSED.items() for value in values],
)
def test_a_name_that_the_vendor_refuses_is_rejected(name: str, option: str, value: str) -> None:
    """The address is rejected with the option and the advice, before anything is sent."""
    kind = kind_of(name)
    valid = {
        "file": "a.env",
        "aws": "a",
        "ssm": "a",
        "github": "a/b",
        "gitlab": "a/b",
        "kubernetes": "a/b",
        "gcp": "acme-prod/a",
        "azure": "acme/a",
        "twenty": "a",
        "vault": "a/b",
    }
    written = {name: (valid[name],)} | {option: (value,)}
    values = OptionValues(kind, written, "svc-billing", "shop")
    kind.address(values)
    (rejection,) = values.rejections
    assert (rejection.option, rejection.value) == (option, value)
    [declared] = [one for one in kind.options if one.name == option]
    assert rejection.advice in (declared.allowed.advice, VARIABLE.advice)


def test_the_command_would_not_change_the_schemas() -> None:
    """`.ci/schemas` has been run after the last change of a sink."""
    checked = subprocess.run([sys.executable, ROOT / ".ci/schemas", "--check"], check=False)
    assert checked.returncode == 0


def test_no_declaration_loads_the_http_client() -> None:
    """`validate` needs the declarations of all kinds, and sends nothing."""
    script = (
        "import sys; from provisioner.sinks.registry import KINDS, kind_of\n"
        "for kind in KINDS: kind_of(kind)\n"
        "sys.exit('urllib3' in sys.modules or 'boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
