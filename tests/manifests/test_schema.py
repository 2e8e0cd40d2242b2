"""jsonschema-rs agrees with jsonschema, which explains what it rejects."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.errors.codes import PROBLEM_CODES
from provisioner.manifests import load
from provisioner.manifests.document import AmbiguousScalar, Invalid
from provisioner.manifests.schema import Schema, reference

texts = st.one_of(
    st.sampled_from([
        "", " ", "a", " a", "a ", "a\n", "90d", "never", "2027-06-30", "soon", "${A}", "${A",
        "a${B}", "30s", "x" * 65, "production", "auto", "legacy", "environment", "name", "n-1",
        "1", "\x7f", "20202020-1c25-4d02-bf25-6aeccf7ea419", "sandbox:", "12m\n", "\u2028",
        "eyJhbGciOi.x", "keyJsonExport", "a eyJhbGciOi", "dotenv", "json", "x" * 4097,
        "30%", "100%", "101%", "01%", "0%\n", "any", "optional", "required", "vault", "12w",
    ]),
    st.text(max_size=6),
)  # fmt: skip
scalars = st.one_of(
    texts,
    st.integers(-2, 101),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False),
    st.sampled_from([1.0, 60.0, 61, 1_000_000, AmbiguousScalar("no", "a boolean"), Invalid()]),
)


def names_of(schema: Any) -> list[str]:
    found = []
    if isinstance(schema, dict):
        found = list(schema.get("properties", {}))
        for part in schema.values():
            found += names_of(part)
    elif isinstance(schema, list):
        for part in schema:
            found += names_of(part)
    return found


def values_of(  # noqa: C901, PLR0911 - one a keyword
    schema: dict, root: dict
) -> st.SearchStrategy:
    """Return values that are mostly valid, so that single mistakes are as frequent as wild ones."""
    if "$ref" in schema:
        return values_of(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    match schema:
        case {"const": value}:
            return st.just(value)
        case {"enum": values}:
            return st.sampled_from(values)
        case {"anyOf": branches}:
            return st.one_of([values_of(branch, root) for branch in branches])
        case {"type": "object"}:
            properties = schema.get("properties", {})
            fixed = {
                name: values_of(part, root)
                for name, part in properties.items()
                if name in schema.get("required", ())
            }
            free = {n: values_of(p, root) for n, p in properties.items() if n not in fixed}
            if alternatives := [
                name for part in schema.get("oneOf", ()) for name in part["required"]
            ]:
                return st.sampled_from(alternatives).flatmap(
                    lambda chosen: st.fixed_dictionaries(
                        fixed | {chosen: free[chosen]},
                        optional={n: p for n, p in free.items() if n not in alternatives},
                    )
                )
            if properties:
                return st.fixed_dictionaries(fixed, optional=free)
            others = values_of(schema["additionalProperties"], root)
            axes = st.sampled_from(["a", "b-1", "c_2"])
            least = schema.get("minProperties", 0)
            return st.dictionaries(axes, others, min_size=least, max_size=3)
        case {"type": "array"}:
            items, least = values_of(schema["items"], root), schema.get("minItems", 0)
            unique = schema.get("uniqueItems", False)
            return st.lists(items, min_size=least, max_size=3, unique=unique)
        case {"format": name}:
            dates = ["never", "2027-06-30"] if name == "expiry" else ["12w"]
            return st.sampled_from(["90d", "PT36H", *dates])
        case {"type": "integer"}:
            return st.integers(schema["minimum"], schema["maximum"])
        case {"type": "boolean"}:
            return st.booleans()
        case _:
            return st.sampled_from(
                [
                    "90d",
                    "${A}",
                    "30s",
                    "production",
                    "20202020-1c25-4d02-bf25-6aeccf7ea419",
                    "a{b}",
                    "30%",
                ]
            )


def nodes_of(value: Any) -> list[tuple[Any, Any]]:
    """Return every position in a document whose value can be replaced."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        found.append((value, key))
        if isinstance(part, (dict, list)):
            found += nodes_of(part)
    return found


def wild(names: list[str]) -> st.SearchStrategy:
    keys = st.one_of(st.sampled_from(names), texts)
    return st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=12,
    )


@pytest.mark.parametrize("name", ["manifest", "environments"])
def test_the_fast_check_agrees_with_jsonschema(name: str) -> None:
    """This holds for valid documents, for documents with a few mistakes, and for any value."""
    document = schemas.load(name)
    names = sorted(set(names_of(document)))
    mistakes = wild(names)
    values = st.one_of(values_of(document, document), mistakes)
    check, slow = Schema(document).check(), reference(document)
    verdicts = set()

    @settings(max_examples=150)
    @given(st.data())
    def equal(data: st.DataObject) -> None:
        value = data.draw(values)
        for _ in range(data.draw(st.integers(0, 2))):
            places = nodes_of(value) if isinstance(value, (dict, list)) else []
            if not places:
                break
            holder, key = data.draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(data.draw(mistakes))
        verdict = check(value)
        assert verdict == slow.is_valid(value)
        verdicts.add(verdict)

    equal()
    assert verdicts == {True, False}


@pytest.mark.parametrize("name", ["manifest", "environments"])
def test_whatever_the_schema_rejects_is_explained(name: str, tmp_path: Path) -> None:
    """Every invalid document gives problems with a message, and none raises an exception."""
    document = schemas.load(name)
    check = Schema(document).check()
    names = sorted(set(names_of(document)))
    mistakes = wild(names)
    values = st.one_of(values_of(document, document), mistakes)
    file = tmp_path / ("environments.yaml" if name == "environments" else "a.yaml")
    (tmp_path / "environments.yaml").write_text(
        'version: 1\nenvironments: {production: {url: "sandbox:"}}\n'
    )

    @settings(max_examples=120)
    @given(st.data())
    def explained(data: st.DataObject) -> None:
        value = data.draw(values)
        places = nodes_of(value) if isinstance(value, (dict, list)) else []
        if places:
            holder, key = data.draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(data.draw(mistakes))
        file.write_text(json.dumps(value, default=str, ensure_ascii=False), encoding="utf-8")
        problems = [
            problem
            for problem in load(tmp_path).problems
            if problem.place.file == str(file) and problem.code != "name_duplicate"
        ]
        assert problems or check(json.loads(json.dumps(value, default=str)))
        assert all(problem.message for problem in problems)

    explained()


@pytest.mark.parametrize(
    ("schema", "value", "valid"),
    [
        ({"enum": [1, "a"]}, True, False),
        ({"enum": [1, "a"]}, 1.0, True),
        ({"const": [1, {"a": True}]}, [1, {"a": True}], True),
        ({"const": [1, {"a": True}]}, [1, {"a": 1}], False),
        ({"uniqueItems": True}, [1, True, "1"], True),
        ({"uniqueItems": True}, [{"a": []}, {"a": []}], False),
        ({"uniqueItems": False}, ["a", "a"], True),
        ({"uniqueItems": True}, "aa", True),
        ({"properties": {"a": {"type": "string"}}}, {"a": "", "b": 1}, True),
        ({"required": ["a"]}, [], True),
        ({"required": ["a"]}, {}, False),
        ({"minimum": 1, "maximum": 2}, "a", True),
        ({"minimum": 1, "maximum": 2}, 2.5, False),
        ({"pattern": "^a", "format": "expiry"}, 7, True),
        ({"items": {"type": "integer"}}, [1.0, 1.5], False),
        ({"items": {"type": "integer"}}, [1.0, 2], True),
        ({"type": ["string", "null"]}, None, True),
        ({"type": ["string", "null"]}, 1, False),
        ({"type": "number"}, 1, True),
        ({"type": "number"}, 1.5, True),
        ({"type": "number"}, True, False),
        ({"not": {"required": ["a"]}}, {"a": 1}, False),
        ({"not": {"required": ["a"]}}, {}, True),
        ({"if": {"type": "string"}, "then": {"const": "a"}}, "b", False),
        ({"if": {"type": "string"}, "then": {"const": "a"}}, 1, True),
        ({"if": {"type": "string"}, "else": {"const": 1}}, 2, False),
        ({"then": {"const": "a"}, "else": {"const": "a"}}, "b", True),
        ({"type": "string", "format": "date-time"}, "2027-06-30T00:00:00Z", True),
        ({"type": "string", "format": "date-time"}, "2027-06-31T00:00:00Z", False),
        ({"type": "string", "pattern": "^.a$"}, "\ud800a", True),
        ({"type": "string", "maxLength": 1}, "\ud800a", False),
        ({"type": "integer"}, 10**30, True),
        ({"pattern": "[^\\s\\u001c-\\u001f\\u0085\\ufeff]"}, "\x1c\x85\ufeff ", False),
    ],
)
def test_keywords_mean_what_they_mean_in_jsonschema(
    schema: dict, value: object, *, valid: bool
) -> None:
    """This includes combinations that the published schemas do not have today."""
    assert Schema(schema).check()(value) is valid
    assert reference(schema).is_valid(value) is valid


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "decimal"},
        {"type": ["string", "decimal"]},
        {"format": "expire"},
        {"$ref": "#/$defs/none"},
        {"pattern": "("},
    ],
)
def test_a_mistake_in_a_schema_is_not_ignored(schema: dict) -> None:
    """A misspelt type, format or reference would accept every value."""
    with pytest.raises(ValueError, match=r"decimal|expire|none|regex"):
        Schema(schema).check()


@pytest.mark.parametrize("name", ["manifest", "environments", "planfile"])
def test_formats_are_our_own(name: str) -> None:
    """The two libraries disagree about standard formats, so only our own functions check them."""
    formats = set(re.findall(r'"format": "([a-z-]+)"', schemas.text(name)))
    assert formats <= {"expiry", "lifetime", "date-time"}


@pytest.mark.parametrize("name", ["manifest", "environments"])
def test_the_published_schemas_are_schemas(name: str) -> None:
    """Draft 2020-12 accepts both of them."""
    schema = schemas.load(name)
    draft = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    assert isinstance(reference(schema), Draft202012Validator)
    assert [error.message for error in draft.iter_errors(schema)] == []


@pytest.mark.parametrize("name", ["manifest", "environments"])
def test_codes_in_the_schemas_are_codes_of_problems(name: str) -> None:
    """An annotation cannot name a code that no page explains."""
    found = re.findall(r'"x-(?:code|mistyped|repeated|too-many)": "(\w+)"', schemas.text(name))
    assert found
    assert set(found) <= set(PROBLEM_CODES)


def test_jsonschema_is_imported_for_errors_only() -> None:
    """A run with valid manifests does not pay for the import."""
    code = (
        "import sys; from pathlib import Path; from provisioner.manifests import load; "
        "assert not load(Path(sys.argv[1])).problems; "
        "sys.exit('jsonschema' in sys.modules or 'requests' in sys.modules)"
    )
    example = Path(__file__).parents[1] / "examples" / "directory"
    done = subprocess.run([sys.executable, "-c", code, str(example)], check=False)
    assert done.returncode == 0
