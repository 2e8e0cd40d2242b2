"""The digest of a plan is the same in every version, or reviewed plan files would be refused."""

from __future__ import annotations

import hashlib
import json

from builders import (
    END,
    command_sink,
    create,
    deliver,
    desired_key,
    file_sink,
    part_with,
    rename,
    revoke,
    rotate,
    rotation_with,
    update,
    vault_sink,
)

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.key import Annotations
from provisioner.plan import Unobserved, desired_key_json, digest, digest_content

FILE = {"kind": "file", "path": "a.env", "variable": "A", "format": "dotenv"}
BLOCKED = Failure(Code.ROLE_UNKNOWN, "There is no such role.")
ACTIONS = (
    create("svc-b", file_sink(), blocked=BLOCKED),
    update("svc-c", file_sink(), role_id="role-2"),
    rotate(create("svc-d", file_sink()), predecessors=("old-2", "old-1"), at_once=True),
    deliver("svc-e", file_sink()),
    revoke("svc-f", blocked=Failure(Code.NOT_OWNED, "No pattern matches.")),
)


def sha256(value: object) -> str:
    """Return a digest as docs/commands.md describes it: of compact JSON with sorted names."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode('ascii')).hexdigest()}"


def test_a_desired_key_counts_with_these_fields() -> None:
    """Each field that decides what is done is there under its name, and nothing else."""
    key = desired_key("svc-a", file_sink(), role="Admin", rotation=rotation_with(), protect=True)
    assert desired_key_json(key) == {
        "name": "svc-a",
        "depth": 1,
        "role": "Admin",
        "expires": "90d",
        "rotate": "10d, 48h",
        "protect": True,
        "sinks": [FILE],
    }


def test_what_a_manifest_says_for_people_does_not_count() -> None:
    """Neither of a desired key nor of an action."""
    about = Annotations("Nightly export", "team-a", "OPS-7")
    noted = desired_key("svc-a", annotations=about)
    assert desired_key_json(noted) == desired_key_json(desired_key("svc-a"))
    plain, annotated = (
        digest((part_with(create(annotations=one), revoke(annotations=one)),), {})
        for one in (None, about)
    )
    assert plain == annotated


def test_former_names_count_only_if_there_are_any() -> None:
    """The digests of plans without them are those of versions that did not know them."""
    key = desired_key("svc-a")
    assert desired_key_json(key._replace(moved_from=("b", "a"))) == {
        **desired_key_json(key),
        "moved_from": ["b", "a"],
    }


def test_a_rename_counts_with_both_names_and_the_key() -> None:
    """So another key that gets the name is another plan."""
    expected = ["rename", "svc-a", "former-svc-a", "old-svc-a", None]
    content = digest_content(part_with(rename("svc-a")), ())
    assert content["actions"] == [tuple(expected)]


def test_a_plan_counts_with_these_actions() -> None:
    """Each action counts with its kind, its name and the fields that define it, in any order."""
    keys = (desired_key("svc-z"), desired_key("svc-a"))
    expected = [
        {
            "environment": "shop",
            "url": "https://crm.example.com",
            "workspace": "w",
            "desired": [desired_key_json(key) for key in reversed(keys)],
            "actions": [
                ["create", "svc-b", 0, "Worker", "role-1", "90d", [FILE], "role_unknown"],
                ["deliver", "svc-e", "old-svc-e", "2027-02-21T04:00:00Z", [FILE], None],
                ["revoke", "svc-f", "old-svc-f", "not_owned"],
                [
                    *("rotate", "svc-d", 0, "Worker", "role-1", "90d"),
                    *(["old-1", "old-2"], True, [FILE], None),
                ],
                ["update", "svc-c", "old-svc-c", [["expires", "90d"]], "role-2", [FILE], None],
            ],
        }
    ]
    assert END.isoformat() == "2027-02-21T04:00:00+00:00"
    assert digest((part_with(*ACTIONS),), {"shop": keys}) == sha256(expected)
    assert digest((part_with(*reversed(ACTIONS)),), {"shop": keys}) == sha256(expected)


def test_an_environment_that_was_not_observed_counts_with_its_error() -> None:
    """It has no actions; its desired keys count all the same, and the environments are sorted."""
    failed = Unobserved("away", "https://away", Failure(Code.UNREACHABLE, "No server."))
    expected = [
        {"environment": "away", "url": "https://away", "desired": [], "error": "unreachable"},
        {
            "environment": "shop",
            "url": "https://crm.example.com",
            "workspace": "w",
            "desired": [],
            "actions": [],
        },
    ]
    expected.sort(key=json.dumps)
    assert digest((part_with(), failed), {}) == sha256(expected)
    assert digest((failed, part_with()), {}) == sha256(expected)


def test_the_sinks_of_a_key_count_in_one_order() -> None:
    """The order in which a manifest lists them has no effect."""
    sinks = (vault_sink(), file_sink(), command_sink())
    first, second = (
        desired_key_json(desired_key("svc-a", *order))["sinks"]
        for order in (sinks, tuple(reversed(sinks)))
    )
    assert first == second
    assert isinstance(first, list)
    assert [sink["kind"] for sink in first] == ["command", "file", "vault"]
