"""Those who watch a run: lines on a terminal, a line now and then in a pipeline, and the log."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from provisioner.cli.log import logs_json
from provisioner.cli.run_status import RunStatus
from provisioner.cli.story import Story

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.cli.console import Console
    from provisioner.execution import Event
    from provisioner.model.activity import Activity
    from provisioner.model.environment import Environment

_LOG = logging.getLogger("provisioner")

_LINE_INTERVAL = 30.0
"""Seconds between two lines without a terminal: often enough for a pipeline to look alive."""


class Watch:
    """Passes what happens in a run on to those who tell people about it.

    Args:
        console: of the command.
        environments: of the run.
    """

    def __init__(self, console: Console, environments: Iterable[Environment]) -> None:
        self._console = console
        self._hidden = False
        self.status = RunStatus(environments)
        informs = _LOG.isEnabledFor(logging.INFO)
        self._story = Story() if informs else None

    def __call__(self, event: Event | Activity, /) -> None:
        """Receive an event or an activity of the run."""
        self.status(event)
        if self._story is not None:
            self._story(event)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Show nothing while the block waits for a person."""
        self._hidden = True
        self._console.area.hide()
        try:
            yield
        finally:
            self._hidden = False
            self._console.area.show(self.status.frame)

    def print_line(self) -> None:
        """Print the status in one line; in a JSON log it is information like any other."""
        if self._hidden:
            return
        if logs_json():
            _LOG.info("%s", self.status.line())
        else:
            self._console.print_stderr(f"{self.status.line()}\n")


@contextmanager
def watching(console: Console, environments: Iterable[Environment]) -> Iterator[Watch]:
    """Tell people what a run does, until the end of the block.

    Args:
        console: of the command, which may be quiet.
        environments: of the run.
    """
    watch = Watch(console, environments)
    if console.output.quiet:
        yield watch
    elif console.area.visible:
        console.area.show(watch.status.frame)
        try:
            yield watch
        finally:
            console.area.hide()
    else:
        with _printing(watch):
            yield watch


@contextmanager
def _printing(watch: Watch) -> Iterator[None]:
    """Print a line now and then."""
    ended = threading.Event()

    def print_lines() -> None:
        while not ended.wait(_LINE_INTERVAL):
            watch.print_line()

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()  # no line comes after the result
