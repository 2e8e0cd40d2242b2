"""The rule for keys that several runs may have made: which one stays, and who gives way."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from builders import END, NOW, observation_with, observed_key
from hypothesis import given
from hypothesis import strategies as st

from provisioner.execution.conflict import Conflict, NotFound, NewLiveKeys, OwnKeys, Resolution
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles, ObservedKey, Roles

pytestmark = pytest.mark.fast

OURS = END + timedelta(milliseconds=417)
THEIRS = END + timedelta(milliseconds=9)


def key(id_: str, name: str = "a", second: int = 0, **changes: object) -> ObservedKey:
    """A live key, created at a second, with a role and the mark of another run."""
    made = NOW + timedelta(seconds=second)
    fields = {"id": id_, "expires_at": THEIRS, "created_at": made, "role_id": "role-1"}
    return observed_key(name, **(fields | changes))


def look(
    *keys: ObservedKey, before: tuple[str, ...] = (), roles: Roles | None = None
) -> NewLiveKeys:
    seen = observation_with(*keys, roles=roles)
    return NewLiveKeys(seen, frozenset(before))


def sent(*ids: str, name: str = "a", end: datetime | None = None, expected: int = 1) -> OwnKeys:
    return OwnKeys(name, frozenset(ids), end, expected)


def stands(standing: Conflict) -> Resolution:
    assert isinstance(standing, Resolution)
    return standing


def test_the_first_by_created_at_and_then_by_id_stays() -> None:
    """The id decides only between keys of one moment, whoever made them."""
    early, low, high = key("z", second=1), key("b", second=2), key("c", second=2)
    assert stands(look(high, low, early).resolve(sent("b"))).key == early
    assert stands(look(high, low).resolve(sent("c"))).key == low


def test_of_several_keys_of_one_run_all_but_the_first_go() -> None:
    """A run that made a name twice keeps the one and ends the other, in the order of creation."""
    seen = look(key("3", second=3), key("1", second=1), key("2", second=2))
    standing = stands(seen.resolve(sent("1", "2", "3", expected=3)))
    assert (standing.key.id, standing.ours, standing.duplicates) == ("1", True, ("2", "3"))


def test_a_run_that_came_second_ends_its_own_key_alone() -> None:
    """The one that stays is another run's: ours goes, the third is none of ours."""
    seen = look(key("theirs", second=1), key("ours", second=2), key("third", second=3))
    standing = stands(seen.resolve(sent("ours")))
    assert (standing.key.id, standing.ours, standing.duplicates) == ("theirs", False, ("ours",))


@pytest.mark.parametrize(
    ("end", "made"),
    [(OURS, True), (THEIRS, False), (END, False), (OURS + timedelta(seconds=1), False)],
)
def test_a_key_is_known_by_the_very_milliseconds_of_its_end(end: datetime, made: bool) -> None:
    """Neither another run's mark, nor none, nor our mark on another second is ours."""
    assert sent(end=OURS).includes(key("x", expires_at=end)) is made


def test_without_an_end_to_look_for_only_ids_tell_whose_a_key_is() -> None:
    """Where every id of ours is known, our mark on another key is a coincidence."""
    twin = key("x", expires_at=OURS)
    assert not sent("y").includes(twin)
    assert sent("x").includes(twin)


@pytest.mark.parametrize(
    ("keys", "expected", "settled"),
    [
        (("ours",), 1, True),
        (("ours",), 2, False),
        (("ours", "ours-2"), 2, True),
        (("ours", "ours-2"), 1, True),
        (("ours", "theirs"), 1, False),
        (("theirs",), 1, False),
        (("theirs",), 0, False),
    ],
)
def test_it_is_settled_when_ours_are_all_there_and_alone(
    keys: tuple[str, ...], expected: int, settled: bool
) -> None:
    """Not while another run's key has the name, nor while one of ours may still come."""
    seen = look(*map(key, keys))
    assert stands(seen.resolve(sent("ours", "ours-2", expected=expected))).final is settled


@pytest.mark.parametrize(
    ("roles", "role_id", "whole"),
    [
        (KnownRoles(()), "role-1", True),
        (KnownRoles(()), None, False),
        (HiddenRoles(), None, True),
        (NoRoles(), None, True),
    ],
)
def test_a_key_is_whole_with_its_role_where_roles_are_seen(
    roles: Roles, role_id: str | None, whole: bool
) -> None:
    """On 2.x a key is there a moment before its role; where no role is seen none is missed."""
    seen = look(key("ours", role_id=role_id), roles=roles)
    assert stands(seen.resolve(sent("ours"))).complete is whole


def test_only_the_key_that_stays_has_to_be_whole() -> None:
    """A loser goes with or without a role."""
    stays, goes = key("1", second=1), key("2", second=2, role_id=None)
    assert stands(look(stays, goes).resolve(sent("2"))).complete
    assert not stands(
        look(replace(stays, role_id=None), key("2", second=2)).resolve(sent())
    ).complete


@pytest.mark.parametrize(
    ("keys", "stranger"),
    [
        ((), False),
        ((key("ours"),), False),
        ((key("ours"), key("marked", "b", expires_at=OURS)), False),
        ((key("ours"), key("x", "b")), True),
        ((key("ours"), key("x")), True),
        ((key("x", "c"),), True),
        ((key("ours", "c"),), True),
        ((key("before", "c"), key("before", "b")), False),
        ((key("dead", "c", revoked_at=NOW),), False),
    ],
)
def test_a_stranger_is_a_new_live_key_of_any_name_that_this_run_did_not_make(
    keys: tuple[ObservedKey, ...], stranger: bool
) -> None:
    """Names that this run never sent show other runs at work as well."""
    everything = [sent("ours"), sent(name="b", end=OURS)]
    assert look(*keys, before=("before",)).other_run_active(everything) is stranger


IDS = st.sampled_from([f"id-{number}" for number in range(8)])
KEYS = st.lists(
    st.builds(key, IDS, st.just("a"), st.integers(0, 3)), unique_by=lambda one: one.id, max_size=8
)
DISTRACTIONS = st.lists(
    st.sampled_from(
        [
            key("before-1", second=-9, expires_at=OURS),
            key("before-2", second=9),
            key("dead-1", second=-9, revoked_at=NOW, expires_at=OURS),
            key("dead-2", second=-9, expires_at=NOW),
            key("other", "b", second=-9, expires_at=OURS),
            key("other-2", "A", second=-9),
        ]
    ),
    unique=True,
)


@given(keys=KEYS, ours=st.frozensets(IDS), expected=st.integers(0, 9))
def test_the_one_that_stays_is_the_first_and_losers_are_ours(
    keys: list[ObservedKey], ours: frozenset[str], expected: int
) -> None:
    """Whatever a look shows: one stays, the first; ours go but never that one; no key of others."""
    standing = look(*keys).resolve(sent(*ours, expected=expected))
    if isinstance(standing, NotFound):
        assert not keys
        return
    first = min(keys, key=lambda one: (one.created_at, one.id))
    made = {one.id for one in keys} & ours
    assert standing.key == first
    assert standing.ours == (first.id in ours)
    assert set(standing.duplicates) == made - {first.id}
    assert len(standing.duplicates) == len(made - {first.id})
    assert standing.final == ({one.id for one in keys} == made and len(made) >= expected)


@given(keys=KEYS, distractions=DISTRACTIONS, ours=st.frozensets(IDS), seed=st.randoms())
def test_what_was_there_before_what_is_dead_and_other_names_never_matter(
    keys: list[ObservedKey], distractions: list[ObservedKey], ours: frozenset[str], seed: object
) -> None:
    """The rule sees the new live keys of its name alone, in whatever order a list has them."""
    everything = keys + distractions
    seed.shuffle(everything)  # type: ignore[attr-defined]
    noisy = look(*everything, before=("before-1", "before-2"))
    for mine in (sent(*ours), sent(*ours, end=OURS)):
        assert noisy.resolve(mine) == look(*keys).resolve(mine)


@given(
    made=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8),
    by_mark=st.frozensets(st.integers(0, 3)),
)
def test_of_any_number_of_runs_exactly_one_stays_and_the_others_give_way(
    made: list[tuple[int, int]], by_mark: frozenset[int]
) -> None:
    """Runs that see the same keys agree, whether each knows its own by ids or by its mark.

    Never all of them give way, never two stay: the losers of all are every key but one.
    """
    ends = [END + timedelta(milliseconds=1 + run) for run in range(4)]
    keys = [
        key(f"id-{number}", second=second, expires_at=ends[run])
        for number, (run, second) in enumerate(made)
    ]
    seen = look(*keys)
    standings = [
        stands(
            seen.resolve(
                sent(end=ends[run])
                if run in by_mark
                else sent(*(one.id for one in keys if one.expires_at == ends[run]))
            )
        )
        for run in range(4)
    ]
    assert [one.ours for one in standings].count(True) == 1
    assert len({one.key.id for one in standings}) == 1
    losers = [id_ for one in standings for id_ in one.duplicates]
    assert sorted([*losers, standings[0].key.id]) == sorted(one.id for one in keys)
