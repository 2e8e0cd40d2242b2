"""A headless Chromium, controlled through the DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

_START = (
    "import os, sys; reads, writes, *command = sys.argv[1:]; "
    "os.dup2(int(reads), 3); os.dup2(int(writes), 4); os.execvp(command[0], command)"
)
"""Starts Chromium with its ends of the pipes at 3 and 4, where it looks for them."""


class Browser:
    """One Chromium with one tab; leaving the context ends it."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, writes = os.pipe()
        reads, theirs_out = os.pipe()
        # Above 4, so that neither is overwritten before it is duplicated.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        command = [sys.executable, "-c", _START, *map(str, theirs), CHROMIUM, "--headless=new"]
        command += ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={self._folder.name}"]
        self._process = subprocess.Popen(
            [*command, "about:blank"], pass_fds=theirs, stderr=subprocess.DEVNULL
        )
        for end in (theirs_in, theirs_out, *theirs):
            os.close(end)
        self._to, self._from = os.fdopen(writes, "wb", 0), os.fdopen(reads, "rb", 0)
        self._received = b""
        self._sent = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        tab = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        self.call("Page.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._to.close()
        self._from.close()
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result; it must not fail."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def open(self, page: Path, width: int, *, scripts: bool = True, dark: bool = False) -> None:
        """Load a page in a window of this width, and wait until it is complete."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 768,
        )
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(one.get("method") == "Page.loadEventFired" for one in self._events):
            self._events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or of the promise that it returns."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """Write a picture of the window, or of the whole page."""
        shown = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shown["data"]))

    def _receive(self) -> dict[str, Any]:
        parts = [self._received]
        while b"\0" not in parts[-1]:
            parts.append(self._from.read(1 << 20))
            assert parts[-1], "Chromium has ended"
        message, _, self._received = b"".join(parts).partition(b"\0")
        return json.loads(message)
