"""The `moved` lists of manifests: former names, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from provisioner.manifests import Manifests, load

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fast

ENVIRONMENTS = 'version: 1\nenvironments: {a: {url: "sandbox:"}, b: {url: "sandbox:"}}\n'
EU_US = 'keys: [{name: "svc-{r}", expires: 90d, matrix: {r: [eu, us]}}]\n'
BILLING = "keys: [{name: svc-billing, expires: 90d}]\n"

Read = Callable[..., Manifests]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write manifests of two environments, each given without its head, and load them."""

    def read(*manifests: str) -> Manifests:
        folder = tmp_path / "manifests"
        folder.mkdir()
        (folder / "environments.yaml").write_text(ENVIRONMENTS)
        for number, manifest in enumerate(manifests):
            text = manifest if "environment" in manifest else f"environments: [a, b]\n{manifest}"
            (folder / f"{number}.yaml").write_text(f"version: 1\n{text}")
        return load(folder)

    return read


def former(manifests: Manifests, environment: str = "a") -> dict[str, tuple[str, ...]]:
    assert manifests.problems == ()
    return {key.name: key.moved_from for key in manifests.desired[environment] if key.moved_from}


def test_an_entry_may_name_one_key_of_a_matrix(read: Read) -> None:
    """Its names are those that the matrix gives, not only the one as written."""
    assert former(read(f"{EU_US}moved: [{{from: old, to: svc-eu}}]")) == {"svc-eu": ("old",)}


def test_entries_of_a_matrix_follow_one_another(read: Read) -> None:
    """The names between have the axes of the last one."""
    entries = '[{from: "{r}", to: "old-{r}"}, {from: "old-{r}", to: "svc-{r}"}]'
    assert former(read(f"{EU_US}moved: {entries}")) == {
        "svc-eu": ("old-eu", "eu"),
        "svc-us": ("old-us", "us"),
    }


def test_entries_follow_one_another_through_manifests(read: Read) -> None:
    """A key keeps its former names when it moves to another manifest."""
    other = "keys: [{name: x, expires: 90d}]\nmoved: [{from: a, to: b}]\n"
    manifests = read(other, f"{BILLING}moved: [{{from: b, to: svc-billing}}]")
    assert former(manifests) == former(manifests, "b") == {"svc-billing": ("b", "a")}


def test_a_former_name_may_have_any_character(read: Read) -> None:
    """Keys made by hand may have names that no manifest may have."""
    manifests = read(f'{BILLING}moved: [{{from: " b\\u200b{{{{", to: svc-billing}}]')
    assert former(manifests) == {"svc-billing": (" b\u200b{",)}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (
            f"{BILLING}moved: [{{from: a, to: svc-biling}}]",
            (
                'this manifest has no key "svc-biling" (in a and 1 other environment): did you '
                'mean "svc-billing"?'
            ),
        ),
        (
            f'{EU_US}moved: [{{from: "a-{{r}}", to: "scv-{{r}}"}}]',
            'this manifest has no key "scv-{r}": did you mean "svc-{r}"?',
        ),
        (
            f"{BILLING}moved: [{{from: svc-billing, to: svc-billing}}]",
            "`from` and `to` are the same name (in a and 1 other environment): remove this entry",
        ),
        (
            f"{BILLING}moved: [{{from: a, to: b}}, {{from: b, to: a}}]",
            (
                'these entries move "a" to "b" to "a" (in a and 1 other environment): remove one '
                "of them"
            ),
        ),
        (
            f'{EU_US}moved: [{{from: a, to: "svc-{{r}}"}}]',
            (
                '`from` is "a" for several keys (in a and 1 other environment): put every axis of '
                "the `matrix` in it"
            ),
        ),
    ],
)
def test_a_mistake_is_one_problem_with_its_advice(read: Read, manifest: str, message: str) -> None:
    """However many environments and keys it affects."""
    [problem] = read(manifest).problems
    assert (problem.code, problem.message) == ("moved_invalid", message)


def test_names_must_be_declared_where_they_belong(read: Read) -> None:
    """A former name is no key of any manifest of the environment, a new name is of this one."""
    manifests = read(
        "keys: [{name: c, expires: 90d}]\n",
        f"{BILLING}moved: [{{from: c, to: svc-billing}}, {{from: d, to: c}}]",
    )
    [problem] = manifests.problems
    assert problem.place.column == 16
    assert '"c" is still the name of a key' in problem.message


def test_an_entry_stands_in_the_manifest_of_its_key(read: Read) -> None:
    """The message says which one that is."""
    manifests = read(BILLING, f"{EU_US}moved: [{{from: d, to: svc-billing}}]")
    [problem] = manifests.problems
    assert problem.message.startswith('"svc-billing" is declared in')
    assert "0.yaml line 3" in problem.message


@pytest.mark.parametrize(
    "keys",
    [
        "keys: [{name: svc-a, expires: 90x}]\n",
        'keys: [{name: "svc-{q}", expires: 90d}]\n',
        'keys: [{name: "svc-{r}", expires: 90d, matrix: {r: []}}]\n',
    ],
)
def test_keys_that_are_invalid_are_not_missed(read: Read, keys: str) -> None:
    """One mistake is one problem: its key may be the one that the entry names."""
    codes = {one.code for one in read(f"{keys}moved: [{{from: d, to: svc-a}}]").problems}
    assert codes
    assert "moved_invalid" not in codes
