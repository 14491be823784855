"""Stop working for a client that has gone."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive

# Most replies are out by then, and a watcher for each would cost more than what it saves.
WATCH_AFTER_S = 0.1


class DisconnectWatch:
    """Cancels the current task when the client disconnects; enter it once the request's body has been read.

    ``disconnected`` tells this cancellation from another one.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.disconnected = False

    def __enter__(self) -> DisconnectWatch:
        self._task = asyncio.current_task()
        self._start = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        self._start.cancel()
        if self._watcher:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        # The body is read, so the next message can only be the disconnect.
        await self._receive()
        assert self._task
        self.disconnected = True
        self._task.cancel()
