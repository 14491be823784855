"""Whether this server may be called, and what is still being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from launcher.errors import NotReady

# None, or why no request can be answered now.
Source = Callable[[], str | None]


class Readiness:
    """Starts as "starting"; ``serve`` and ``drain`` move it on.

    A request passes two gates: ``arriving`` while its body is read, which a drain breaks off, and ``answering`` from then
    until its reply is sent, which a drain waits for.
    """

    def __init__(self) -> None:
        self._phase_reason: str | None = "the server is starting"
        self._faults: Sequence[Source] = ()
        self._pauses: Sequence[Source] = ()
        self._draining = False
        self._arriving: set[asyncio.Task[Any]] = set()
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def serve(self, faults: Sequence[Source], pauses: Sequence[Source]) -> None:
        """Take requests from now on, unless one of ``faults`` gives a reason against it.

        While one of ``pauses`` does, as where the only worker is started anew, requests are taken and wait, within their
        deadline; who can go elsewhere is told so by ``reason``.
        """
        self._phase_reason = None
        self._faults = faults
        self._pauses = pauses

    def drain(self) -> None:
        self._phase_reason = "the server is shutting down"
        self._draining = True
        for task in self._arriving:
            task.cancel()

    def reason(self) -> str | None:
        """None when a new request would be answered at once, else why not."""
        return self.refusal() or _first(self._pauses)

    def refusal(self) -> str | None:
        """None when a new request may begin, at least to wait, else why not."""
        return self._phase_reason or _first(self._faults)

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Hold open while a body is read. Raises ``NotReady`` where no request may begin, or when a drain begins meanwhile."""
        if reason := self.refusal():
            raise NotReady(reason)
        task = asyncio.current_task()
        assert task
        self._arriving.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._draining or task.uncancel():
                raise
            raise NotReady("the server is shutting down") from None
        finally:
            self._arriving.discard(task)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Hold open from an accepted request to the end of its reply."""
        self._answering += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    async def idle(self) -> None:
        """Return once no request is being answered."""
        await self._idle.wait()


def _first(sources: Sequence[Source]) -> str | None:
    return next((reason for source in sources if (reason := source())), None)
