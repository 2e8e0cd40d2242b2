"""The receipt of a GitHub secret: an Actions variable beside it, which says what was written to it.

A secret cannot be read, and the time of its last update also moves for other reasons, so the
receipt names the token and that time, as GitHub reported it after the write. It proves what the
secret holds only as long as GitHub still reports that time: both are of one clock, GitHub's own.

A write goes: make the receipt void, write the secret, read its time, write the receipt. Whatever
ends it in between leaves a receipt that is void or of the token before, so that the next run
delivers again; it never leaves the receipt of a newer token than the secret holds. A void receipt
names the write that made it void, so that two runs at once do not sign for each other's write.

Source: "REST API endpoints for GitHub Actions variables". Its pages list 201 for a create and 204
for an update and a deletion; 409 for a create of an existing variable is not on them, but is what
public clients of this API expect.
"""

from __future__ import annotations

import logging
import secrets
import threading
from typing import TYPE_CHECKING, Any

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.sink_content import Receipt
from provisioner.sinks.http import Once, segment, unexpected_status
from provisioner.sinks.receipt import parse_receipt, receipt_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret
    from provisioner.sinks.http import Api, Reply
    from provisioner.sinks.receipt import WrittenReceipt

_LOG = logging.getLogger(__name__)

_FORBIDDEN = frozenset({403})
_CREATED, _NO_CONTENT, _CONFLICT, _SERVER_ERRORS = 201, 204, 409, 500
_VOID = "void"
_OR_SWITCH_OFF = "or write `receipt: false` for this sink."


class Variables:
    """The variables that one token may read and write.

    Args:
        api: the API of the server.
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self._unreadable: Once[bool] = Once()
        self._lock = threading.Lock()
        self._warned = False

    def unreadable(self, address: Address, container: str) -> bool:
        """Return whether the variables of a container cannot be read; asked once for each."""
        return self._unreadable.get(container, lambda: self._lists_none(address, container))

    def warn(self, message: str) -> None:
        """Log what a missing right means, as a warning only the first time."""
        with self._lock:
            level = logging.INFO if self._warned else logging.WARNING
            self._warned = True
        _LOG.log(level, "%s", message)

    def _lists_none(self, address: Address, container: str) -> bool:
        path = f"{container}/variables?per_page=1"
        reply = self.api.call(address, "GET", path, returned_statuses=_FORBIDDEN)
        if reply.status not in (200, 403, 404):
            raise unexpected_status(address, reply)
        return reply.status != 200  # noqa: PLR2004 - found


class GithubReceipt:
    """The receipt of one secret.

    Args:
        variables: the variables of the server.
        address: the address of the secret.
        container: the path of the repository, environment or organisation.
        name: the name of the variable.
        secret: the name of the secret.
    """

    def __init__(
        self, variables: Variables, address: Address, container: str, name: str, secret: str
    ) -> None:
        self._variables = variables
        self._api = variables.api
        self._address = address
        self._container = container
        self._name = name
        self._secret = secret
        self._path = f"{container}/variables/{segment(name)}"

    def find(self) -> WrittenReceipt | Failure | None:
        """Return the receipt; None without a valid one; why not, if variables cannot be read."""
        text = self._text()
        if isinstance(text, Failure):
            self._variables.warn(text.text)
            return text
        found = parse_receipt(text or "")
        ours = found is not None and (found.secret or "").upper() == self._secret.upper()
        return found if ours else None

    def read(self, updated_at: datetime, *, only_writes: bool) -> Receipt | Failure:
        """Return what the receipt proves about its secret, or why it cannot be read.

        Args:
            updated_at: when the secret last changed, by GitHub's clock.
            only_writes: True if only a write of the secret changes that time.
        """
        found = self.find()
        if isinstance(found, Failure):
            return found
        if found is None:
            return Receipt()
        proven = found.written_at == updated_at
        return Receipt() if only_writes and not proven else Receipt(found.token, proven)

    def make_void(self) -> str | None:
        """Make the receipt void before its secret is written.

        Returns:
            The text that it has now, for `confirm`; empty if there is no receipt yet; None if the
            variable cannot be read or written, so that there is nothing to confirm.
        """
        text = self._text()
        if isinstance(text, Failure):
            return None
        if text is None:
            return ""
        void = f"{_VOID} {secrets.token_hex(8)}"
        return void if self._update(void) else None

    def confirm(
        self, void: str, token: Secret, updated_at: datetime, visibility: Mapping[str, Any]
    ) -> None:
        """Write the receipt of a token that was written, unless another run wrote meanwhile.

        Args:
            void: what `make_void` returned.
            token: the token.
            updated_at: when the secret last changed, by GitHub's clock.
            visibility: the visibility of an organisation's secret, for the variable too.
        """
        receipt = receipt_text(token, self._secret, updated_at)
        if receipt is None or (not void and self._create(receipt, visibility)):
            return
        text = self._text()
        if void and text == void:
            self._update(receipt, visibility)
        elif isinstance(text, str) and _key_in(text) not in (None, _key_in(receipt)):
            self._update(_VOID)  # of another run, whose token this write may have replaced

    def delete(self) -> None:
        """Delete the variable.

        Raises:
            SinkError: it was not deleted, or may not have been.
        """
        reply = self._api.call(self._address, "DELETE", self._path)
        if reply.status not in (_NO_CONTENT, 404):
            raise unexpected_status(self._address, reply)

    def _text(self) -> str | Failure | None:
        """Return the text of the variable; None if there is none; why not, if it is unreadable."""
        reply = self._api.call(self._address, "GET", self._path, returned_statuses=_FORBIDDEN)
        if reply.status == 200:  # noqa: PLR2004 - found
            return str(reply.body.get("value"))
        if reply.status not in (403, 404):
            raise unexpected_status(self._address, reply)
        if not self._variables.unreadable(self._address, self._container):
            return None
        return Failure(
            Code.SINK_DENIED,
            f"{self._address} has no receipt: the token may not read Actions variables, so only "
            "the time of the secret's last update shows what was delivered.",
            f"Allow the token to read and write variables there, {_OR_SWITCH_OFF}",
        )

    def _create(self, text: str, visibility: Mapping[str, Any]) -> bool:
        """Create the variable; return False if it exists."""
        body = {"name": self._name, "value": text, **visibility}
        reply = self._api.call(
            self._address,
            "POST",
            f"{self._container}/variables",
            body,
            returned_statuses=_FORBIDDEN,
        )
        if reply.status == _CONFLICT:
            return False
        self._is_written(reply, _CREATED)
        return True

    def _update(self, text: str, visibility: Mapping[str, Any] | None = None) -> bool:
        """Return whether the variable has this text now; if GitHub refuses, say so."""
        body = {"name": self._name, "value": text, **(visibility or {})}
        reply = self._api.call(
            self._address, "PATCH", self._path, body, returned_statuses=_FORBIDDEN
        )
        return self._is_written(reply, _NO_CONTENT)

    def _is_written(self, reply: Reply, expected: int) -> bool:
        if reply.status == expected:
            return True
        if reply.status >= _SERVER_ERRORS:
            raise unexpected_status(self._address, reply)
        self._variables.warn(
            f"{self._address} has no receipt, because GitHub refused to write the variable "
            f"{self._name} (HTTP status {reply.status}), so the next run delivers again. Allow the "
            f"token to write variables there, {_OR_SWITCH_OFF}"
        )
        return False


def _key_in(text: str) -> str | None:
    """Return the id of the key in a receipt; None if the text is not a receipt."""
    found = parse_receipt(text)
    return found and found.token.key
