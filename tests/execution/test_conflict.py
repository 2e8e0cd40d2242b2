"""The rule for keys that several runs may have created: which one is kept, and who gives way."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from builders import END, NOW, observation_with, observed_key
from hypothesis import given
from hypothesis import strategies as st

from provisioner.execution.conflict import Conflict, Found, NewLiveKeys, NotFound, OwnKeys
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles, ObservedKey, Roles

pytestmark = pytest.mark.fast

OURS = END + timedelta(milliseconds=417)
THEIRS = END + timedelta(milliseconds=9)


def key(id_: str, name: str = "a", second: int = 0, **changes: object) -> ObservedKey:
    """Return a live key, created at a second, with a role and the marker of another run."""
    created_at = NOW + timedelta(seconds=second)
    fields = {"id": id_, "expires_at": THEIRS, "created_at": created_at, "role_id": "role-1"}
    return observed_key(name, **(fields | changes))


def observe(
    *keys: ObservedKey, before: tuple[str, ...] = (), roles: Roles | None = None
) -> NewLiveKeys:
    return NewLiveKeys(observation_with(*keys, roles=roles), frozenset(before))


def own(
    *ids: str, name: str = "a", expires_at: datetime | None = None, expected: int = 1
) -> OwnKeys:
    return OwnKeys(name, frozenset(ids), expires_at, expected)


def resolved(conflict: Conflict) -> Found:
    assert isinstance(conflict, Found)
    return conflict


def test_the_first_by_created_at_and_then_by_id_is_kept() -> None:
    """The id decides only between keys created at the same time, whoever created them."""
    early, low, high = key("z", second=1), key("b", second=2), key("c", second=2)
    assert resolved(observe(high, low, early).resolve(own("b"))).key == early
    assert resolved(observe(high, low).resolve(own("c"))).key == low


def test_of_several_keys_of_one_run_only_the_first_is_kept() -> None:
    """A run that created a name several times revokes its later keys, in the order of creation."""
    observed = observe(key("3", second=3), key("1", second=1), key("2", second=2))
    resolution = resolved(observed.resolve(own("1", "2", "3", expected=3)))
    assert (resolution.key.id, resolution.ours, resolution.duplicates) == ("1", True, ("2", "3"))


def test_a_run_that_came_second_revokes_only_its_own_key() -> None:
    """Another run's key is kept, ours is a duplicate, and a third run's key is not touched."""
    observed = observe(key("theirs", second=1), key("ours", second=2), key("third", second=3))
    resolution = resolved(observed.resolve(own("ours")))
    assert (resolution.key.id, resolution.ours, resolution.duplicates) == (
        "theirs",
        False,
        ("ours",),
    )


@pytest.mark.parametrize(
    ("expires_at", "ours"),
    [(OURS, True), (THEIRS, False), (END, False), (OURS + timedelta(seconds=1), False)],
)
def test_a_key_is_recognised_by_the_exact_milliseconds_of_its_expiry(
    expires_at: datetime, ours: bool
) -> None:
    """Another run's marker, no marker, and our marker on another second are not ours."""
    assert own(expires_at=OURS).includes(key("x", expires_at=expires_at)) is ours


def test_without_an_expiry_to_compare_only_ids_identify_own_keys() -> None:
    """If every id of ours is known, our marker on another key is a coincidence."""
    twin = key("x", expires_at=OURS)
    assert not own("y").includes(twin)
    assert own("x").includes(twin)


@pytest.mark.parametrize(
    ("keys", "expected", "final"),
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
def test_a_resolution_is_final_when_exactly_our_keys_are_listed(
    keys: tuple[str, ...], expected: int, final: bool
) -> None:
    """It is not while another run's key has the name, or while a key of ours may still appear."""
    observed = observe(*map(key, keys))
    assert resolved(observed.resolve(own("ours", "ours-2", expected=expected))).final is final


@pytest.mark.parametrize(
    ("roles", "role_id", "complete"),
    [
        (KnownRoles(()), "role-1", True),
        (KnownRoles(()), None, False),
        (HiddenRoles(), None, True),
        (NoRoles(), None, True),
    ],
)
def test_a_key_is_complete_once_it_has_its_role_if_roles_are_known(
    roles: Roles, role_id: str | None, complete: bool
) -> None:
    """On 2.x a key is listed a moment before its role; if roles are hidden, none is expected."""
    observed = observe(key("ours", role_id=role_id), roles=roles)
    assert resolved(observed.resolve(own("ours"))).complete is complete


def test_only_the_key_to_keep_has_to_be_complete() -> None:
    """A duplicate is revoked with or without a role."""
    stays, goes = key("1", second=1), key("2", second=2, role_id=None)
    assert resolved(observe(stays, goes).resolve(own("2"))).complete
    assert not resolved(
        observe(replace(stays, role_id=None), key("2", second=2)).resolve(own())
    ).complete


@pytest.mark.parametrize(
    ("keys", "active"),
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
def test_another_run_is_active_if_there_is_a_new_live_key_that_this_run_did_not_create(
    keys: tuple[ObservedKey, ...], active: bool
) -> None:
    """Keys of names that this run never sent show other runs too."""
    own_keys = [own("ours"), own(name="b", expires_at=OURS)]
    assert observe(*keys, before=("before",)).other_run_active(own_keys) is active


IDS = st.sampled_from([f"id-{number}" for number in range(8)])
KEYS = st.lists(
    st.builds(key, IDS, st.just("a"), st.integers(0, 3)), unique_by=lambda one: one.id, max_size=8
)
IRRELEVANT = st.lists(
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
def test_the_first_key_is_kept_and_only_our_keys_are_duplicates(
    keys: list[ObservedKey], ours: frozenset[str], expected: int
) -> None:
    """In any observation the first key is kept, and duplicates are our other keys and no others."""
    resolution = observe(*keys).resolve(own(*ours, expected=expected))
    if isinstance(resolution, NotFound):
        assert not keys
        return
    first = min(keys, key=lambda one: (one.created_at, one.id))
    own_ids = {one.id for one in keys} & ours
    assert resolution.key == first
    assert resolution.ours == (first.id in ours)
    assert set(resolution.duplicates) == own_ids - {first.id}
    assert len(resolution.duplicates) == len(own_ids - {first.id})
    assert resolution.final == ({one.id for one in keys} == own_ids and len(own_ids) >= expected)


@given(keys=KEYS, irrelevant=IRRELEVANT, ours=st.frozensets(IDS), seed=st.randoms())
def test_existing_keys_dead_keys_and_other_names_never_matter(
    keys: list[ObservedKey], irrelevant: list[ObservedKey], ours: frozenset[str], seed: object
) -> None:
    """The rule depends only on the new live keys of its name, in any order of the list."""
    everything = keys + irrelevant
    seed.shuffle(everything)  # type: ignore[attr-defined]
    observed = observe(*everything, before=("before-1", "before-2"))
    for mine in (own(*ours), own(*ours, expires_at=OURS)):
        assert observed.resolve(mine) == observe(*keys).resolve(mine)


@given(
    created=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8),
    by_marker=st.frozensets(st.integers(0, 3)),
)
def test_of_any_number_of_runs_exactly_one_keeps_its_key(
    created: list[tuple[int, int]], by_marker: frozenset[int]
) -> None:
    """Runs that observe the same keys agree, whether each knows its own keys by ids or by marker.

    Never do all of them give way, and never are two keys kept: together, the duplicates of all runs
    are every key except one.
    """
    expiries = [END + timedelta(milliseconds=1 + run) for run in range(4)]
    keys = [
        key(f"id-{number}", second=second, expires_at=expiries[run])
        for number, (run, second) in enumerate(created)
    ]
    observed = observe(*keys)
    resolutions = [
        resolved(
            observed.resolve(
                own(expires_at=expiries[run])
                if run in by_marker
                else own(*(one.id for one in keys if one.expires_at == expiries[run]))
            )
        )
        for run in range(4)
    ]
    assert [one.ours for one in resolutions].count(True) == 1
    assert len({one.key.id for one in resolutions}) == 1
    duplicates = [id_ for one in resolutions for id_ in one.duplicates]
    assert sorted([*duplicates, resolutions[0].key.id]) == sorted(one.id for one in keys)
