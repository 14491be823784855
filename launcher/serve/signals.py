"""SIGINT and SIGTERM as events."""

from __future__ import annotations

import asyncio
import signal


class Signals:
    """Counts SIGINT and SIGTERM; the handlers only set events."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._note)

    def _note(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
