"""The hosts and sinks that a run is allowed to use."""

import pytest

from provisioner.model.restrictions import Restrictions, SinkRule
from provisioner.sinks.command import CommandAddress
from provisioner.sinks.github import GithubAddress
from provisioner.sinks.vault import VaultAddress

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://crm.example.com", True),
        ("https://CRM.example.com.", True),
        ("https://crm.example.com:444/path", True),
        ("https://127.0.0.1:8443", True),
        ("https://127.0.0.1:8444", False),
        ("https://example.com", False),
        ("https://evil.test/.example.com", False),
        ("https://evil.test#.example.com", False),
        ("https://crm.example.com@evil.test", False),
        ("https://[", False),
        ("evil.test", False),
        ("sandbox:legacy", True),
    ],
)
def test_only_the_host_of_a_url_decides(url: str, allowed: bool) -> None:
    """The embedded Twenty is always allowed."""
    rules = Restrictions(hosts=("*.Example.com", "127.0.0.1:8443"))
    assert rules.allows_host(url) == allowed
    assert Restrictions().allows_host(url)


@pytest.mark.parametrize(
    ("sink", "allowed"),
    [
        (VaultAddress("secret", "twenty/a"), True),
        (VaultAddress("secret", "twenty/../admin"), False),
        (VaultAddress("secret", "other"), False),
        (CommandAddress(("gh", "secret", "set")), True),
        (CommandAddress(("gh",), check=("sh", "-c", "x")), False),
        (CommandAddress(("sh", "gh")), False),
        (GithubAddress("acme", "A", "keys"), False),
    ],
)
def test_a_sink_is_allowed_by_its_kind_and_its_address(sink, allowed: bool) -> None:
    """A `check` program must be allowed too, and no path leaves the folder of a glob."""
    rules = (SinkRule("vault", "secret/twenty/*"), SinkRule("command", "gh"))
    assert Restrictions(sinks=rules).allows_sink(sink) == allowed
    assert Restrictions().allows_sink(sink)
