"""One server for many sandboxes, so that each needs no port or thread of its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from provisioner.sandbox.exchange import json_answer
from provisioner.sandbox.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.sandbox.exchange import Request, Response


class Front:
    """A server that serves several workspaces on one loopback port, each under its own path."""

    def __init__(self) -> None:
        self._answers: dict[str, Callable[[Request], Response]] = {}
        self._numbers = count(1)
        self._server = Server(0, self._answer)

    def join(self, answer: Callable[[Request], Response]) -> str:
        """Start to serve a workspace.

        Returns:
            The address of the workspace, `http://127.0.0.1:PORT/NUMBER`.
        """
        number = str(next(self._numbers))
        self._answers[number] = answer
        return f"{self._server.url}/{number}"

    def leave(self, address: str) -> None:
        """Stop serving the workspace with this address."""
        self._answers.pop(address.rpartition("/")[2], None)

    def stop(self) -> None:
        """Stop listening and finish the requests in progress."""
        self._server.stop()

    def _answer(self, request: Request) -> Response:
        number, _, rest = request.path.lstrip("/").partition("/")
        answer = self._answers.get(number)
        if answer is None:
            return json_answer(404, {"statusCode": 404, "messages": ["no such workspace"]})
        return answer(replace(request, path=f"/{rest}" if rest else ""))
