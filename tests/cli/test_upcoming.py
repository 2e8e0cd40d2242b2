"""What a later run does by itself is announced by every command before, and then done."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import time_machine
from builders import NOW
from jsonschema import Draft202012Validator

from provisioner import schemas

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

ENVIRONMENTS = """\
version: 1
environments: {dev: {url: "sandbox:", role: Admin, owns: ["svc-*"]}}
"""
KEYS = """\
version: 1
environment: dev
defaults: {expires: 90d, owner: team-a, rotate: {before: 14d, overlap: 36h}}
keys: [{name: svc-a, deliver: [{file: s.env}]}]
"""


def test_the_end_of_an_old_key_is_announced_by_every_command_and_then_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    """`rotate` says when it will be; plans and reports say the same, until `apply` revokes it."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(ENVIRONMENTS)
    (folder / "keys.yaml").write_text(KEYS)
    monkeypatch.chdir(tmp_path)

    def upcoming(*command: str) -> Any:
        code, out, _ = run(*command, "--format", "json")
        document = json.loads(out)
        name = document["format"].split("/")[1]
        Draft202012Validator(schemas.load(name)).validate(document)
        assert code == 0
        return document["environments"][0]["upcoming"]

    with time_machine.travel(NOW, tick=True) as clock:
        assert upcoming("apply") == []
        [announced] = upcoming("rotate", "svc-a")
        expected = {"action": "revoke", "name": "svc-a", "overlap_hours": 36, "waits_for": None}
        assert announced == announced | expected | {"hours_left": 36}
        assert upcoming("plan") == upcoming("report") == upcoming("apply") == [announced]
        old_id = announced["id"]
        text = f"  * svc-a  later: revokes {old_id[:8]}… in 5 h, when its overlap is over\n"
        clock.shift(timedelta(hours=31))
        for command in ("plan", "report", "apply"):
            assert text in run(command)[1]
        assert old_id in run("plan", "--format", "markdown")[1].partition("### Later")[2]
        for form, verb in (("markdown", "is revoked"), ("html", "</b>")):
            assert f"{verb} in 5 h, when its overlap" in run("report", "--format", form)[1]
        clock.shift(timedelta(hours=6))
        [due] = upcoming("report")
        assert due == announced | {"hours_left": 0}
        assert upcoming("plan") == []
        _, out, _ = run("apply", "--format", "json")
        [revoked] = json.loads(out)["environments"][0]["results"]
        assert (revoked["action"], revoked["reason"]) == ("revoke", "superseded")
        assert (revoked["ids"], revoked["owner"]) == ([old_id], "team-a")
        assert upcoming("report") == []
