"""The removal of tokens: last of all, and only of exactly the token that was planned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from builders import END, clean, command_sink, create, deliver, file_sink, revoke, vault_sink
from model_server import ModelServer, Row, token

from provisioner.execution import Done, Failed, Skipped
from provisioner.model.sink_content import ApiKeyToken
from provisioner.runtime.cancellation import STOPPED
from provisioner.secret import Secret
from provisioner.sinks.probe import content_of
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from provisioner.execution import Result
    from provisioner.model.sink_address import Address

pytestmark = pytest.mark.fast

OLD, NEW = file_sink("old.env"), vault_sink("new")
TOKEN = token("old-svc-a", END)


def server(*, held: Secret = TOKEN, **script: Any) -> ModelServer:
    """Return a server with the key `old-svc-a`, whose old sink holds a token."""
    return ModelServer(rows=[Row("old-svc-a", "svc-a", -1)], tokens={OLD: held}, **script)


def removal(sink: Address = OLD, **changes: Any) -> Any:
    content = content_of(StoredValue(TOKEN))
    assert isinstance(content, ApiKeyToken)
    return clean("svc-a", sink, token=content, **changes)


def code(result: Result) -> str:
    assert isinstance(result, Failed | Skipped)
    return result.failure.code


def test_a_token_is_read_again_and_removed_after_its_key_is_revoked() -> None:
    """The removal is the last step, and one of the steps that are counted."""
    model = server()
    results = model.run(removal(), revoke("svc-a"))
    assert all(isinstance(one, Done) for one in results)
    assert model.tokens == {}
    kinds = [kind for kind, *_ in model.events]
    assert kinds == ["revoke", "open", "read", "remove"]
    assert model.settled == 2


def test_a_token_is_removed_after_the_new_place_has_its_own() -> None:
    """The key is delivered to its new sink first."""
    model = server()
    results = model.run(removal(), deliver("svc-a", NEW))
    assert all(isinstance(one, Done) for one in results)
    assert list(model.tokens) == [NEW]
    kinds = [kind for kind, *_ in model.events]
    assert kinds.index("write") < kinds.index("remove")


@pytest.mark.parametrize(
    ("action", "script"),
    [
        (revoke("svc-a"), {"refuses": {"revoke"}}),
        (deliver("svc-a", NEW), {"refuses": {"write vault secret/new token"}}),
        (create("svc-a", NEW, blocked=STOPPED), {}),
    ],
)
def test_a_token_stays_if_another_action_of_its_key_did_not_succeed(action, script) -> None:
    """It failed, or the plan blocked it; keys with other names are not affected."""
    model = server(**script)
    model.tokens[NEW] = TOKEN
    other = clean("svc-b", NEW, token=removal().token)
    failed, skipped, done = model.run(action, removal(), other)
    assert isinstance(failed, Failed)
    assert (type(skipped), code(skipped)) == (Skipped, "not_cleaned")
    assert model.tokens[OLD] == TOKEN
    assert isinstance(done, Done)


@pytest.mark.parametrize(
    "held",
    [token("another", END), token("old-svc-a", None), Secret("something else")],
    ids=["another key", "another token of the key", "something else"],
)
def test_what_has_come_since_the_plan_stays(held: Secret) -> None:
    """The sink is read again, and anything except the planned token is left."""
    model = server(held=held)
    [result] = model.run(removal())
    assert (type(result), code(result)) == (Failed, "not_cleaned")
    assert not model.of("remove")
    assert model.tokens == {OLD: held}


def test_a_token_that_is_gone_needs_no_removal() -> None:
    """Another run, or a person, has removed it."""
    model = server()
    model.tokens.clear()
    [result] = model.run(removal())
    assert isinstance(result, Done)
    assert not model.of("remove")


def test_a_removal_that_fails_says_why_and_does_not_stop_the_others() -> None:
    """The failure is the one of the sink."""
    model = server(refuses={f"remove {OLD}"})
    model.tokens[NEW] = TOKEN
    failed, done = model.run(removal(), clean("svc-b", NEW, token=removal().token))
    assert code(failed) == "sink_denied"
    assert isinstance(done, Done)
    assert model.settled == 2


def test_several_sinks_of_a_name_are_separate_actions() -> None:
    """Each has a result of its own."""
    model = server(refuses={f"remove {NEW}"})
    model.tokens[NEW] = TOKEN
    done, failed = model.run(removal(), removal(NEW))
    assert isinstance(done, Done)
    assert isinstance(failed, Failed)


def test_a_stop_keeps_the_tokens_that_are_left() -> None:
    """What was in flight is finished; the rest is skipped."""
    model = server(stop_at=f"remove {OLD}")
    model.tokens[NEW] = TOKEN
    done, skipped = model.run(removal(), removal(NEW))
    assert isinstance(done, Done)
    assert skipped == Skipped(removal(NEW), STOPPED)
    assert model.tokens == {NEW: TOKEN}
    model = server(stop_at="revoke old-svc-a")
    assert [type(one) for one in model.run(revoke("svc-a"), removal())] == [Done, Skipped]
    assert model.tokens == {OLD: TOKEN}


def test_a_sink_that_cannot_remove_a_token_says_so(monkeypatch) -> None:
    """A plan would not ask it to; an older plan file might."""
    model = server()
    real = model.open

    class WriteOnly:
        def __init__(self, address: Address) -> None:
            sink = real(address)
            self.check, self.read, self.write = sink.check, sink.read, sink.write

    monkeypatch.setattr(model, "open", WriteOnly)
    [result] = model.run(removal(command_sink()))
    assert code(result) == "not_cleaned"
