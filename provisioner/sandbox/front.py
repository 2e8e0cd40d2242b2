"""One server for many sandboxes, so that each needs neither a port nor a thread of its own."""

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
    """Serves each workspace below a path of its own, on one loopback port."""

    def __init__(self) -> None:
        self._answers: dict[str, Callable[[Request], Response]] = {}
        self._numbers = count(1)
        self._server = Server(0, self._answer, None)

    def join(self, answer: Callable[[Request], Response]) -> str:
        """Serve one more workspace.

        Returns:
            Its address, `http://127.0.0.1:PORT/NUMBER`.
        """
        number = str(next(self._numbers))
        self._answers[number] = answer
        return f"{self._server.url}/{number}"

    def leave(self, address: str) -> None:
        """Serve the workspace of that address no more."""
        self._answers.pop(address.rpartition("/")[2], None)

    def stop(self) -> None:
        """Stop listening and finish the exchanges that are under way."""
        self._server.stop()

    def _answer(self, request: Request) -> Response:
        number, _, rest = request.path.lstrip("/").partition("/")
        answer = self._answers.get(number)
        if answer is None:
            return json_answer(404, {"statusCode": 404, "messages": ["no such workspace"]})
        return answer(replace(request, path=f"/{rest}" if rest else ""))
