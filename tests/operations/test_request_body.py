"""The request body of `create` is validated completely before anything is sent."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors.exceptions import InvalidInputError
from provisioner.operations.request_body import read_body

pytestmark = pytest.mark.fast

GOOD = {"name": "a", "expiresAt": "2031-01-01T00:00:00Z"}


def problems(text: str) -> list[tuple[str, int, int, str]]:
    with pytest.raises(InvalidInputError) as caught:
        read_body(text, "keys.json")
    assert all(one.place.file == "keys.json" for one in caught.value.problems)
    return [
        (one.code, one.place.line, one.place.column, one.message) for one in caught.value.problems
    ]


def test_an_object_is_one_record_and_an_array_is_many() -> None:
    """The type of the body is kept, and the place of every record."""
    single = read_body(json.dumps(GOOD), "-")
    assert single.single
    assert single.records[0].expires_at == GOOD["expiresAt"]
    many = read_body(
        "[\n " + json.dumps(GOOD) + ",\n " + json.dumps(GOOD | {"name": "b"}) + "]", "-"
    )
    assert not many.single
    assert [(one.name, one.place.line, one.place.column) for one in many.records] == [
        ("a", 2, 2),
        ("b", 3, 2),
    ]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("{", 1, 2),
        ("[", 1, 2),
        ("[1,", 1, 4),
        ('[\n{"name": 1} {}]', 2, 13),
        ("[] x", 1, 4),
        ('{"a": 1} {}', 1, 10),
        ('{"a": NaN}', 1, 1),
        ('{"a": 1, "a": 2}', 1, 1),
        ("[" * 100_000, 1, 2),
        ("[]", 1, 1),
    ],
)
def test_invalid_json_is_one_problem_with_its_place(text: str, line: int, column: int) -> None:
    """This includes malformed, duplicate, deeply nested and empty bodies."""
    [(code, at_line, at_column, _)] = problems(text)
    assert (code, at_line, at_column) == ("body_invalid", line, column)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": None}, "name"),
        ({"name": "  "}, "name"),
        ({"name": 7}, "name"),
        ({"name": "a\nb"}, "control"),
        ({"name": "a\x7f"}, "control"),
        ({"expiresAt": None}, "expiresAt"),
        ({"expiresAt": "tomorrow"}, "expiresAt"),
        ({"expiresAt": 1924992000000}, "expiresAt"),
        ({"revokedAt": "x"}, "revokedAt"),
        ({"roleId": 1}, "roleId"),
        ({"roleId": " "}, "roleId"),
        ({"role": []}, "role "),
        ({"role": ""}, "role "),
        ({"role": "Admin", "roleId": "x"}, "both role and roleId"),
        ({"name": "a\ud800"}, "surrogate"),
        ({"id": "x"}, "'id'"),
    ],
)
def test_an_invalid_record_is_refused_with_its_field(change: dict[str, object], word: str) -> None:
    """Records from which real servers would create unexpected keys are never sent."""
    [(code, line, _, message)] = problems(json.dumps([GOOD, GOOD | change]))
    assert (code, line) == ("record_invalid", 1)
    assert word in message


def test_all_invalid_records_are_reported() -> None:
    """Every record is validated, not only up to the first invalid one."""
    assert len(problems(json.dumps([GOOD, {}, 7, GOOD | {"name": ""}]))) == 4


@given(
    st.text(max_size=60) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(json.dumps)
)
def test_any_text_gives_records_or_problems(text: str) -> None:
    """No text makes the parser fail in another way; every place is inside the text."""
    try:
        body = read_body(text, "-")
    except InvalidInputError as error:
        lines = text.split("\n")
        for one in error.problems:
            assert 1 <= one.place.line <= len(lines)
            assert 1 <= one.place.column <= len(lines[one.place.line - 1]) + 1
    else:
        assert body.records
