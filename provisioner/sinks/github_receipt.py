"""The receipt of a GitHub secret: an Actions variable beside it, which says what was written to it.

A secret cannot be read, and the time of its last update also moves for other reasons, so the
receipt names the token and that time, as GitHub reported it after the write. It proves what the
secret holds only as long as GitHub still reports that time: both are of one clock, GitHub's own.

A write goes: make the receipt void, write the secret, read its time, write the receipt. Whatever
ends it in between leaves a receipt that is void or of the token before, so that the next run
delivers again; it never leaves the receipt of a newer token than the secret holds. Of two runs at
once, none signs for the other's write: a void receipt names the write that made it void, and a
secret that changed after GitHub answered that write was written by somebody else. What remains is
another write before GitHub's answer to one's own, or in the same second (docs/reliability.md).

A variable that is neither a receipt of the secret, nor void, nor empty is somebody else's, and is
never written.

Source: "REST API endpoints for GitHub Actions variables". Its pages list 201 for a create and 204
for an update and a deletion; 409 for a create of an existing variable is not on them, but is what
public clients of this API expect. "Variables" says that no name may start with GITHUB_, and
"Troubleshooting the REST API" that the answer to a missing permission is 403.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from typing import TYPE_CHECKING, Any

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.sink_content import Receipt
from provisioner.sinks.http import Once, segment, unexpected_status
from provisioner.sinks.receipt import parse_receipt, receipt_text
from provisioner.sinks.sink import unsuitable, unusable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret
    from provisioner.sinks.http import Api, Reply
    from provisioner.sinks.receipt import WrittenReceipt

_LOG = logging.getLogger(__name__)

_FORBIDDEN = frozenset({403})
_CREATED, _NO_CONTENT, _CONFLICT = 201, 204, 409
_VOID = re.compile(r"void [0-9a-f]{16}")
_NO_NAME = "GITHUB_RECEIPT"
"""A name that no variable can have, so that an update of it changes nothing."""

_OR_SWITCH_OFF = "or write `receipt: false` for this sink."


class Variables:
    """The variables that one token may read and write.

    Args:
        api: the API of the server.
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self._unreadable: Once[bool] = Once()
        self._unwritable: Once[bool] = Once()
        self._lock = threading.Lock()
        self._warned = False

    def unreadable(self, address: Address, container: str) -> bool:
        """Return whether the variables of a container cannot be read; asked once for each."""
        return self._unreadable.get(container, lambda: self._lists_none(address, container))

    def unwritable(self, address: Address, container: str) -> bool:
        """Return whether the token certainly may not write variables; asked once for each."""
        return self._unwritable.get(container, lambda: self._refuses(address, container))

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

    def _refuses(self, address: Address, container: str) -> bool:
        path, body = f"{container}/variables/{_NO_NAME}", {"name": _NO_NAME, "value": ""}
        reply = self.api.call(address, "PATCH", path, body, returned_statuses=_FORBIDDEN)
        return reply.status in _FORBIDDEN


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
        return self._parse(text or "")

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

    def check(self) -> None:
        """Check that the variable may be written, as far as GitHub shows it.

        A token that may not even read variables can be used without receipts.

        Raises:
            SinkError: the variable is somebody else's, or the token may only read variables.
        """
        text = self._text()
        if isinstance(text, Failure):
            return
        self._require_ours(text)
        if self._variables.unwritable(self._address, self._container):
            reason = f"the token may not write its receipt, the Actions variable {self._name}"
            remedy = f"Allow the token to write variables there, {_OR_SWITCH_OFF}"
            raise unusable(Code.SINK_DENIED, reason, remedy).error(self._address)

    def make_void(self, visibility: Mapping[str, Any]) -> str | None:
        """Make the receipt void before its secret is written.

        Args:
            visibility: the visibility of an organisation's secret, for a new variable.

        Returns:
            The text that it has now, for `confirm`; None if the variable cannot be read or written,
            so that there is nothing to confirm.

        Raises:
            SinkError: the variable is somebody else's, or was perhaps not made void.
        """
        void = _new_void()
        text = self._text()
        if text is None:
            reply = self._create(void, visibility)
            if reply.status != _CONFLICT:
                return void if self._is_written(reply, _CREATED) else None
            text = self._text()  # another run has just created it
        if isinstance(text, Failure):
            return None
        self._require_ours(text)
        return void if self._update(void) else None

    def confirm(
        self, void: str, token: Secret, written_at: datetime | None, visibility: Mapping[str, Any]
    ) -> None:
        """Write the receipt of a token that was written, unless another run wrote meanwhile.

        Args:
            void: what `make_void` returned.
            token: the token.
            written_at: when it was written, by GitHub's clock; None if the secret may have changed
                since, so that the receipt stays void.
            visibility: the visibility of an organisation's secret, for the variable too.
        """
        text = self._text()
        if text == void:
            if written_at and (receipt := receipt_text(token, self._secret, written_at)):
                self._update(receipt, visibility)
        elif isinstance(text, str) and self._is_ours(text):
            self._update(_new_void())  # of another run, whose token this write may have replaced

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

    def _is_ours(self, text: str) -> bool:
        return not text or bool(_VOID.fullmatch(text)) or self._parse(text) is not None

    def _parse(self, text: str) -> WrittenReceipt | None:
        """Return the receipt of this secret that a text is; None for any other text."""
        found = parse_receipt(text)
        ours = found is not None and (found.secret or "").upper() == self._secret.upper()
        return found if ours else None

    def _require_ours(self, text: str | None) -> None:
        """Raise the error of a variable with a value that must not be lost."""
        if text is None or self._is_ours(text):
            return
        reason = f"needs the Actions variable {self._name} for its receipt, which has another value"
        remedy = f"Choose another name with `receipt: NAME`, {_OR_SWITCH_OFF}"
        raise unsuitable(reason, remedy).error(self._address)

    def _create(self, text: str, visibility: Mapping[str, Any]) -> Reply:
        """Return the answer to the creation of the variable."""
        body = {"name": self._name, "value": text, **visibility}
        path = f"{self._container}/variables"
        return self._api.call(self._address, "POST", path, body, returned_statuses=_FORBIDDEN)

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
        self._variables.warn(
            f"{self._address} has no receipt, because GitHub refused to write the variable "
            f"{self._name} (HTTP status {reply.status}), so the next run delivers again. Allow the "
            f"token to write variables there, {_OR_SWITCH_OFF}"
        )
        return False


def _new_void() -> str:
    return f"void {secrets.token_hex(8)}"
