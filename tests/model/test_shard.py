"""Shards: every environment belongs to one of them, and few move when their number changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.model.shard import Shard

pytestmark = pytest.mark.fast

NAMES = st.text(min_size=1, max_size=30)
TOTALS = st.integers(1, 30)


def shard_of(name: str, total: int) -> list[int]:
    return [number for number in range(1, total + 1) if Shard(number, total).contains(name)]


@given(NAMES, TOTALS)
def test_an_environment_belongs_to_exactly_one_shard(name, total) -> None:
    """Together the shards are one run: none is left out, and none is worked on twice."""
    assert len(shard_of(name, total)) == 1


@given(NAMES, TOTALS)
def test_one_more_shard_moves_environments_only_to_itself(name, total) -> None:
    """Nothing moves between the shards that were there before."""
    before, after = shard_of(name, total), shard_of(name, total + 1)
    assert after in (before, [total + 1])


def test_the_shard_of_a_name_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Plan files and other machines depend on it."""
    names = ("development", "staging", "production", "crm-acme", "crm-globex", "größe")
    assert [shard_of(name, 20) for name in names] == [[15], [8], [6], [7], [15], [19]]


def test_shards_are_about_equal() -> None:
    """Of 500 environments in 10 shards, none has half or double its part."""
    names = [f"crm-{number}" for number in range(500)]
    sizes = [sum(map(Shard(number, 10).contains, names)) for number in range(1, 11)]
    assert sum(sizes) == 500
    assert min(sizes) > 25
    assert max(sizes) < 100


@pytest.mark.parametrize("text", ["0/3", "4/3", "0/0", "3", "a/b", "-1/3", "1/3/3", "", "1.5/3"])
def test_what_is_no_shard_is_a_value_error(text) -> None:
    """The message says how to write one."""
    with pytest.raises(ValueError, match="write K/N"):
        Shard.parse(text)
