"""Whether this server may be called, and what is still being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from launcher.errors import NotReady


class Readiness:
    """Starts as "starting"; ``serve`` and ``drain`` move it on. ``sources`` are asked for a reason against, in order."""

    def __init__(self) -> None:
        self._phase_reason: str | None = "the server is starting"
        self._sources: tuple[Callable[[], str | None], ...] = ()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def serve(self, *sources: Callable[[], str | None]) -> None:
        self._phase_reason = None
        self._sources = sources

    def drain(self) -> None:
        self._phase_reason = "the server is shutting down"

    def reason(self) -> str | None:
        """None when new requests are taken, else why not."""
        if self._phase_reason:
            return self._phase_reason
        return next((reason for source in self._sources if (reason := source())), None)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold open while a request is answered. Raises ``NotReady`` where none may begin."""
        if reason := self.reason():
            raise NotReady(reason)
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def idle(self) -> None:
        """Return once no request is being answered."""
        await self._idle.wait()
