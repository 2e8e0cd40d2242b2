"""Write-only sinks while other runs are active: which key's token they hold, and who says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from builders import (
    END,
    NOW,
    SECOND,
    create,
    deliver,
    file_sink,
    observation_with,
    observed_key,
    rotate,
    update,
)
from model_server import ALWAYS, ModelServer, Row, Shelf

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import Done, Failed
from provisioner.execution.deliver import key_to_deliver
from provisioner.execution.token_flow import Delivery
from provisioner.model.sink_content import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Content, Sink

pytestmark = pytest.mark.fast

FILE = file_sink()
MARKED = END + timedelta(milliseconds=417)
AGAIN = "`provision apply --redeliver --only x`"
X = deliver("x", FILE, expires_at=MARKED)
OWN = observed_key("x", id="old-x", expires_at=MARKED)
NEWER = observed_key("x", 2, expires_at=MARKED)
NEWEST = observed_key("x", 3, expires_at=MARKED)


def chosen(
    *keys: ObservedKey, delivery: Delivery | None = None, existing: tuple[ObservedKey, ...] = ()
) -> ObservedKey | None:
    """Return the key to deliver, of keys listed in this order and existing ones."""
    ids = frozenset(key.id for key in (OWN, *existing))
    return key_to_deliver(
        observation_with(*keys, *existing), ids, delivery or Delivery(X, OWN.id, MARKED)
    )


def test_a_sink_gets_the_token_of_the_newest_key_that_another_run_created() -> None:
    """An older key, a dead one and a key of another name change nothing."""
    older = observed_key("x", 0, expires_at=MARKED)
    dead = replace(NEWEST, id="dead", revoked_at=NOW)
    other = replace(NEWEST, id="other", name="y")
    assert chosen(OWN) == OWN
    assert chosen(older, other, OWN, dead) == OWN
    assert chosen(NEWEST, NEWER, OWN) == NEWEST
    assert chosen(NEWER, OWN, NEWEST) == NEWEST


def test_a_key_of_the_plan_takes_over_only_from_one_that_ends_earlier_or_is_gone() -> None:
    """An update itself ends its key earlier, so that proves nothing until another key was sent."""
    earlier = replace(OWN, expires_at=MARKED - SECOND)
    changed = Delivery(update("x", FILE), OWN.id, MARKED)
    both = (NEWEST, NEWER)
    assert chosen(OWN, existing=both) == OWN
    assert chosen(earlier, existing=both) == NEWEST
    assert chosen(existing=both) == NEWEST
    assert chosen() is None
    assert chosen(earlier, existing=both, delivery=changed) == earlier
    assert chosen(earlier, existing=both, delivery=replace(changed, repeated=True)) == NEWEST
    assert chosen(OWN, existing=both, delivery=replace(changed, repeated=True)) == OWN


def server_with(*rows: Row, at_write: Callable[[ModelServer], None] | None = None) -> ModelServer:
    """Return a server with the key `old-x`, whose sink cannot be read."""
    server = ModelServer(rows=[Row("old-x", "x", -1, MARKED), *rows], sinks={FILE: "unread"})
    pending = [at_write] if at_write else []

    def watch() -> None:
        if pending and server.events[-1] == ("write", FILE):
            pending.pop()(server)

    server.watch = watch
    return server


@pytest.mark.parametrize(
    ("row", "waits"),
    [
        (None, []),
        (Row("recent", "x", -59, MARKED), [2.0]),
        (Row("settled", "x", -60, MARKED), []),
        (Row("other", "y", -5, MARKED), []),
        (Row("dead", "x", -5, MARKED, revoked_from=0), []),
    ],
    ids=["alone", "recent", "settled", "another name", "dead"],
)
def test_a_run_waits_for_another_one_only_if_its_key_is_less_than_a_minute_old(row, waits) -> None:
    """By then a run has revoked the key that it replaced; one more observation shows that."""
    server = server_with(*([] if row is None else [row]))
    assert server.run(X) == (Done(X, "old-x", None),)
    assert server.stop.seconds == waits
    assert server.observations == 1 + len(waits)


def test_the_token_of_another_runs_key_is_delivered_instead_and_logged(caplog) -> None:
    """The log names both keys; a failure says how to deliver, as no later run does."""

    def another_run(server: ModelServer) -> None:
        server.rows.append(Row("new-x", "x", 5, MARKED))

    server = server_with(at_write=another_run)
    with caplog.at_level("WARNING", "provisioner"):
        assert server.run(X) == (Done(X, "old-x", None),)
    assert [one.getMessage() for one in caplog.records] == [
        (
            "x: another run was active while the token for key old-x was being delivered; "
            "delivering a token for key new-x instead"
        )
    ]
    assert server.minted[server.tokens[FILE].reveal()] == "new-x"
    failing = server_with(at_write=another_run)
    failing.refuses = frozenset({"mint new-x"})
    refused = Failure("rejected", "No mint new-x.", "Fix it.").advise(f"Run {AGAIN}.")
    assert failing.run(X) == (Failed(X, refused),)


def test_a_delivery_that_does_not_stand_says_what_happened_and_what_to_run() -> None:
    """The key is gone, the keys cannot be listed, or a person created a newer key."""
    gone = server_with(at_write=lambda server: server.rows.clear())
    assert gone.run(X) == (
        Failed(
            X,
            Failure(
                Code.TOKEN_REFUSED,
                "The key old-x of 'x' was revoked or expired while its token was being delivered. "
                "Run the command again.",
            ),
        ),
    )
    unlisted = server_with()
    unlisted.blind = ALWAYS
    assert unlisted.run(X) == (
        Failed(
            X,
            Failure(
                Code.NOT_SETTLED,
                "The token for 'x' was written, but the keys could not be listed afterwards, so "
                f"another run may have delivered a newer key. Run {AGAIN}.",
            ),
        ),
    )
    by_hand = server_with(at_write=lambda server: server.rows.append(Row("hand", "x", 5, END)))
    assert by_hand.run(X) == (
        Failed(
            X,
            Failure(
                Code.NOT_SETTLED,
                "Someone created the newer key hand while the token for 'x' was being delivered. "
                f"Revoke the key that you do not want, then run {AGAIN}.",
            ),
        ),
    )


def test_a_token_that_was_refused_after_a_long_delivery_names_its_key() -> None:
    """The next run creates the key again."""

    class RefusesLater(ModelServer):
        def verify_token(self, token: Secret) -> None:
            if token.reveal() in self.verified:
                raise WorkspaceError(Code.TOKEN_REFUSED, "No.", remedy="")
            super().verify_token(token)

    server = RefusesLater(rows=[Row("old-x", "x", -1, MARKED)], long=-1)
    assert server.run(X) == (
        Failed(
            X,
            Failure(
                Code.TOKEN_REFUSED,
                "The server no longer accepts the token for 'x': another run revoked its key "
                "during the delivery. Run the command again.",
            ),
        ),
    )


@pytest.mark.parametrize(
    ("later", "writes"), [(2 * SECOND, 1), (2 * SECOND + timedelta(microseconds=1), 2)]
)
def test_a_sink_that_reports_a_time_two_seconds_later_was_not_written_by_another_run(
    later, writes
) -> None:
    """Both times are corrected to the second; a rotation writes again after any later write."""
    times = [NOW, NOW + later, NOW + later, NOW + later]

    class Dated(Shelf):
        def read(self) -> Content:
            super().read()
            return Unreadable(times.pop(0))

    class DatedServer(ModelServer):
        def open(self, address: Address) -> Sink:
            super().open(address)
            return Dated(self, address)

    server = DatedServer()
    action = rotate(create("x", FILE), predecessors=("old-x",), predecessor_expires_at=END)
    [result] = server.run(action)
    assert isinstance(result, Done)
    assert len(server.of("write")) == writes
