"""The proposed `owns` and `ignore` give a run no right over a key that nobody declared."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provisioner.model.globs import literal, matches
from provisioner.operations.proposal import MAX_GLOBS, ProposedGlob, propose

pytestmark = pytest.mark.fast

names = st.one_of(
    st.text("ab-_./:*?[]!@' ", min_size=1, max_size=6),
    st.sampled_from(
        ["svc-a", "svc-b", "svc-c", "svc-test", "Anna's key", "a@b.c", "*@b.c", "my key", "[a]-b"]
    ),
)
globs = st.lists(st.sampled_from(["svc-*", "a*", "*", "[ab]?", "svc-test"]), max_size=2)


@given(
    adopted=st.sets(names, max_size=12), foreign=st.sets(names, max_size=8), owned=globs.map(tuple)
)
@example(adopted={"svc-a", "svc-b", "svc-c", "svc-test"}, foreign=set(), owned=("svc-test",))
def test_a_proposal_covers_what_was_adopted_and_owns_nothing_else(
    adopted: set[str], foreign: set[str], owned: tuple[str, ...]
) -> None:
    """Each adopted name gets a place, no foreign name is owned, and none is owned and ignored.

    A proposed pattern may match a name that is owned already, but not only such names.
    """
    foreign -= adopted
    proposal = propose(adopted, foreign, foreign, owned)
    owns = [one.glob for one in proposal.owns]
    ignore = [one.glob for one in proposal.ignore]
    assert all(matches(name, (*owned, *owns, *ignore)) for name in adopted)
    assert not any(matches(name, owns) for name in foreign)
    assert all(sum(matches(name, [glob]) for name in adopted | foreign) == 1 for glob in ignore)
    assert not any(
        matches(name, ignore) and matches(name, (*owned, *owns)) for name in adopted | foreign
    )
    new = [name for name in adopted if not matches(name, owned)]
    assert all(any(matches(name, [glob]) for name in new) for glob in owns)


@pytest.mark.parametrize(
    ("adopted", "foreign", "globs", "reason"),
    [
        ("svc-a svc-b svc-c", "", "svc-*", "3 keys start with svc-"),
        ("a*-1 a*-2 a*-3", "ab-1", "a[*]-*", "3 keys start with a*-"),
        ("svc-a svc-b", "", "svc-a svc-b", "only 2 keys start with svc-"),
        ("etl.a", "", "etl.a", "only 1 key starts with etl."),
        ("n8n -a -b -c", "", "-a -b -c n8n", "its name has no prefix"),
        ("s-a s-b s-c", "s-twin", "s-a s-b s-c", "a key that starts with s- is not declared"),
    ],
)
def test_names_with_a_prefix_become_a_pattern(
    adopted: str, foreign: str, globs: str, reason: str
) -> None:
    """Three names up to the first separator are a pattern, unless it matches a foreign key."""
    proposal = propose(adopted.split(), foreign.split(), ())
    assert proposal.owns == tuple(ProposedGlob(one, reason) for one in globs.split())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("anna@example.com", "looks personal: it contains an @"),
        ("Anna\u2019s laptop", "looks personal: it contains 's"),
        ("TEST_2", "looks made by hand: it contains the word test"),
        ("copy of billing", "looks made by hand: it contains the word copy"),
        ("latest-contest", None),
        ("Nightly export", None),
    ],
)
def test_names_that_a_person_chose_are_proposed_to_be_ignored(
    name: str, reason: str | None
) -> None:
    """An address, a possessive or a word for an experiment; a part of a word does not count."""
    expected = () if reason is None else (ProposedGlob(name, reason),)
    assert propose([], [name], [name]).ignore == expected
    assert propose([], [name], []).ignore == ()
    assert propose([], [name], [name], ("*",)).ignore == ()
    [adopted] = propose([name], [], []).ignore or [None]
    assert (adopted is None) == (reason is None)
    if adopted is not None:
        assert adopted.reason == f"{reason}; to ignore it, also remove it below"


def test_a_name_with_the_prefix_of_a_service_is_not_personal() -> None:
    """Once its prefix is a pattern, a name is owned like the others."""
    proposal = propose(["svc-a", "svc-b", "svc-test"], [], [])
    assert proposal == ((ProposedGlob("svc-*", "3 keys start with svc-"),), (), 0, 0)


def test_a_long_list_is_cut() -> None:
    """The patterns come first, and the rest is a count."""
    adopted = [f"n{number}" for number in range(MAX_GLOBS + 4)] + ["z-1", "z-2", "z-3"]
    proposal = propose(adopted, [], [])
    assert (len(proposal.owns), proposal.owns_left_out) == (MAX_GLOBS, 5)
    assert proposal.owns[0].glob == "z-*"


@given(st.text("ab*?[]!-^\\", max_size=6), st.text("ab*?[]!-^\\", max_size=6))
def test_a_literal_glob_matches_only_its_name(name: str, other: str) -> None:
    """Special characters stand for themselves."""
    assert matches(name, [literal(name)])
    assert matches(other, [literal(name)]) == (other == name)
