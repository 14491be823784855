"""New connections off a listening socket, whatever goes wrong with one of them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger("launcher.serve")

# Before others on the event loop have their turn.
BATCH = 64
# After a failure that concerns more than one connection, such as no file descriptor being left.
RETRY_S = 0.1


class Acceptor:
    """Gives each to ``take``. Errors of the kernel's, by which uvloop's own server would close its socket, it outlives."""

    def __init__(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        self._listener = listener
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._failing = False
        listener.setblocking(False)
        # What it accepts inherits this.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start()

    def stop(self) -> None:
        if self._retry:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)

    def _start(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self._failing = False
            self._take(connection)

    def _pause(self, error: OSError) -> None:
        if not self._failing:
            log.warning("cannot accept connections, trying again every %g s: %s", RETRY_S, error.strerror)
        self._failing = True
        self._loop.remove_reader(self._listener)
        self._retry = self._loop.call_later(RETRY_S, self._start)
