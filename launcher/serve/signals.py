"""SIGINT, SIGTERM and SIGHUP as events. SIGHUP stops the server where it is the end of the terminal that it was started in."""

from __future__ import annotations

import asyncio
import os
import signal
import sys


class Signals:
    """Counts SIGINT and SIGTERM, and hears SIGHUP; the handlers only set events."""

    def __init__(self) -> None:
        self.hangup = asyncio.Event()
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._note)
        self._has_terminal = terminal_is_there()
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        """A terminal that was closed sends the same signal as who wants a reload."""
        if self._has_terminal and not terminal_is_there():
            self._note()
        else:
            self.hangup.set()

    def _note(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def terminal_is_there() -> bool:
    try:
        os.tcgetpgrp(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return True
