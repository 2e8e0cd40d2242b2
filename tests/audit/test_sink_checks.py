"""What `doctor` says of sinks that cannot be read, with and without a receipt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from builders import (
    api_key_token,
    desired_key,
    environment_with,
    github_sink,
    observation_with,
    observed_key,
)

from provisioner.audit.sink_checks import SinkChecks
from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.sink_content import Receipt, Unreadable
from provisioner.runtime.cancellation import Cancellation

pytestmark = pytest.mark.fast

KEY = observed_key()
NO_RIGHT = Failure(Code.SINK_DENIED, f"{github_sink()} has no receipt.", "Allow it.")


def checks(content: Unreadable) -> list[tuple[str, str, str]]:
    """Return the checks of a key whose sink has this content."""
    sink: Any = SimpleNamespace(check=lambda: None, read=lambda: content)
    found = SinkChecks(environment_with(), lambda _: sink, Cancellation())
    workspace: Any = SimpleNamespace(verify_token=lambda _: None)
    found.verify_against(workspace, observation_with(KEY))
    key = desired_key(KEY.name, github_sink())
    return [(one.check, one.status, one.message) for one in found.checks((key,))]


USABLE = ("sinks", "ok", "1 sink OK.")
UNREAD = ("tokens", "not_checked", "1 token not checked: the sinks are write-only.")
EMPTY = ("tokens", "warning", "1 sink without a token for a live key.")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Unreadable(), [USABLE, UNREAD]),
        (Unreadable(receipt=Receipt(api_key_token(KEY.id))), [USABLE, UNREAD]),
        (Unreadable(receipt=Receipt(api_key_token(KEY.id), proven=False)), [USABLE, UNREAD]),
        (Unreadable(receipt=Receipt(api_key_token("another"))), [USABLE, EMPTY]),
        (Unreadable(receipt=Receipt()), [USABLE, EMPTY]),
        (
            Unreadable(no_receipt=NO_RIGHT),
            [USABLE, UNREAD, ("sinks", "warning", NO_RIGHT.message)],
        ),
    ],
)
def test_a_receipt_shows_whether_a_token_is_there(content: Unreadable, expected: Any) -> None:
    """A missing right for receipts is a warning, and the sink can be used."""
    assert checks(content) == expected
