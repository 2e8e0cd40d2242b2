"""The execution of renames: first of all, and never assumed to be done."""

from __future__ import annotations

import pytest
from builders import create, deliver, file_sink, rename, revoke, rotate
from model_server import ModelServer, Row

from provisioner.errors.failure import Failure
from provisioner.execution import Done, Failed, Skipped
from provisioner.runtime.cancellation import STOPPED

pytestmark = pytest.mark.fast

FILE = file_sink()
REFUSED = Failure("rejected", "No rename old-svc-a svc-a.", "Fix it.")
PREDECESSOR = rename(key_id="older", place=rename().place)


def server(**script: object) -> ModelServer:
    """Return a server with the keys that the actions rename."""
    rows = [
        Row("old-svc-a", "former-svc-a", -2),
        Row("older", "former-svc-a", -3),
        Row("old-svc-b", "former-svc-b", -1),
    ]
    return ModelServer(rows=rows, **script)  # type: ignore[arg-type]


def names(model: ModelServer) -> dict[str, str]:
    return {row.id: row.name for row in model.rows}


def test_keys_are_renamed_before_anything_else_is_done() -> None:
    """A token is minted for a key that has its new name, and nothing is observed in between."""
    model = server()
    results = model.run(rename(), deliver("svc-a", FILE), rename("svc-b"))
    assert all(isinstance(one, Done) for one in results)
    assert names(model) == {"old-svc-a": "svc-a", "older": "former-svc-a", "old-svc-b": "svc-b"}
    assert [kind for kind, *_ in model.events][:2] == ["rename", "rename"]
    assert model.settled == 3


def test_the_current_key_is_renamed_before_its_predecessors() -> None:
    """If the first rename fails, the others are not tried."""
    model = server()
    assert all(isinstance(one, Done) for one in model.run(rename(), PREDECESSOR))
    assert [key_id for _, key_id, _ in model.of("rename")] == ["old-svc-a", "older"]
    model = server(refuses={"rename old-svc-a svc-a"}, keep_names={"old-svc-a"})
    first, second = model.run(rename(), PREDECESSOR)
    assert first == Failed(rename(), REFUSED)
    assert isinstance(second, Skipped)
    assert len(model.of("rename")) == 1


@pytest.mark.parametrize(
    "action",
    [
        deliver("svc-a", FILE),
        rotate(create("svc-a", FILE)),
        revoke("svc-a", reason="superseded", key_id="older"),
    ],
)
def test_nothing_is_done_to_a_key_that_was_not_renamed(action) -> None:
    """Above all, no key is created under the new name; other names are not affected."""
    model = server(refuses={"rename old-svc-a svc-a"}, keep_names={"old-svc-a"})
    failed, skipped, done = model.run(rename(), action, rename("svc-b"))
    assert failed == Failed(rename(), REFUSED)
    assert isinstance(skipped, Skipped)
    assert skipped.failure.code == "not_renamed"
    assert isinstance(done, Done)
    assert not model.of("create", "mint", "revoke", "write")


def test_a_rename_whose_answer_was_lost_is_looked_up() -> None:
    """It is not sent again, and what follows is done if the key has its new name."""
    model = server(refuses={"rename"})
    results = model.run(rename(), deliver("svc-a", FILE), rename("svc-b"))
    assert all(isinstance(one, Done) for one in results)
    assert len(model.of("rename")) == 2
    assert len(model.of("look")) == 1


def test_a_rename_that_cannot_be_looked_up_failed() -> None:
    """Whether the key has its new name is not guessed; the next run knows."""
    model = server(refuses={"rename"}, blind={1})
    first, second = model.run(rename(), deliver("svc-a", FILE))
    assert isinstance(first, Failed)
    assert isinstance(second, Skipped)
    assert not model.of("mint")


def test_a_stop_ends_the_renames() -> None:
    """What was in flight is finished; the rest is skipped because of the stop."""
    model = server(stop_at="rename old-svc-a svc-a")
    results = model.run(rename(), rename("svc-b"), deliver("svc-b", FILE))
    assert results == (
        Done(rename(), "old-svc-a", None),
        Skipped(rename("svc-b"), STOPPED),
        Skipped(deliver("svc-b", FILE), STOPPED),
    )
