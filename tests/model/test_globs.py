"""Globs of key names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.model.globs import covers, matches

pytestmark = pytest.mark.fast

GLOBS = st.text("ab*?[]!", min_size=1, max_size=5)


@given(GLOBS, GLOBS, st.text("ab[]!*?", max_size=6))
def test_a_glob_that_covers_another_one_matches_all_its_names(glob, other, name) -> None:
    """It may be in doubt, but it is never wrong."""
    if covers(glob, other) and matches(name, (other,)):
        assert matches(name, (glob,))


@pytest.mark.parametrize(
    ("glob", "other", "expected"),
    [
        ("*", "svc-*", True),
        ("svc-*", "svc-a*", True),
        ("svc-*", "svc-?", True),
        ("*-a", "svc-*-a", True),
        ("a", "a", True),
        ("[ab]", "[ab]", True),
        ("*", "[ab]", True),
        ("svc-a*", "svc-*", False),
        ("a?", "ab", False),
        ("*b]", "[ab]", False),
    ],
)
def test_a_plain_glob_is_compared_with_the_text_of_the_other(glob, other, expected) -> None:
    """Sets and single characters are compared only for equality."""
    assert covers(glob, other) is expected
