"""SIGINT, SIGTERM and SIGHUP as events."""

from __future__ import annotations

import asyncio
import signal


class Signals:
    """Counts SIGINT and SIGTERM, and hears SIGHUP; the handlers only set events."""

    def __init__(self) -> None:
        self.hangup = asyncio.Event()
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._note)
        loop.add_signal_handler(signal.SIGHUP, self.hangup.set)

    def _note(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
