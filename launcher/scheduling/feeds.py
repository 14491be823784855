"""How batches get from the queue to an engine: one that answers later, or one that computes in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple, Protocol

from launcher.engines.base import Batch, Engine, LocalEngine, Vectors
from launcher.errors import WorkerLost
from launcher.scheduling.queue import Piece

log = logging.getLogger(__name__)

# From the loss of a worker to the next try of its batch. Where several are killed together, it would be lost with each.
LOSS_PAUSE_S = 0.5


class Taken(NamedTuple):
    """``batch`` is made of ``pieces``; ``started`` is by ``time.perf_counter``."""

    pieces: Sequence[Piece]
    batch: Batch
    started: float


class Work(Protocol):
    """Where batches come from, and who is told what became of them: in the event loop, each once."""

    def take(self) -> Taken | None:
        """The next batch, None where there is none; in any thread."""
        ...

    def more(self) -> bool:
        """Whether something may be left to take; in any thread."""
        ...

    def done(self, taken: Taken, vectors: Vectors, ended: float) -> None:
        """``ended`` is by ``time.perf_counter``, as in ``failed``."""
        ...

    def failed(self, taken: Taken, error: Exception, ended: float) -> None: ...

    def dropped(self, taken: Taken) -> None:
        """The feed has stopped meanwhile."""
        ...

    def resumed(self) -> None:
        """The engine can run again."""
        ...


class Feed(Protocol):
    def start(self) -> None: ...

    def wake(self) -> None:
        """There is something to take."""
        ...

    async def stop(self) -> None: ...

    def unready_reason(self) -> str | None:
        """None while it works. A dead feed would leave requests waiting for ever."""
        ...


class Slots:
    """Keeps up to ``engine.slots`` batches in flight."""

    def __init__(self, engine: Engine, work: Work) -> None:
        self._engine = engine
        self._work = work
        self._arrived = asyncio.Event()
        self._pumps: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._pumps = [asyncio.create_task(self._pump(), name=f"batcher-{i}") for i in range(self._engine.slots)]

    def wake(self) -> None:
        self._arrived.set()

    async def stop(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def unready_reason(self) -> str | None:
        dead = [pump for pump in self._pumps if pump.done()]
        return f"{dead[0].get_name()} has ended unexpectedly" if dead else None

    async def _pump(self) -> None:
        while True:
            await self._arrived.wait()
            unready = self._engine.unready_reason() is not None
            await self._engine.available()
            if unready:
                self._work.resumed()
            taken = self._work.take()
            if not self._work.more():
                self._arrived.clear()
            if taken:
                await self._run(taken)

    async def _run(self, taken: Taken) -> None:
        try:
            vectors = await self._engine.run(taken.batch)
        except asyncio.CancelledError:
            self._work.dropped(taken)
            raise
        except Exception as error:
            if isinstance(error, WorkerLost):
                await self._pause(taken)
            # The pause is no time of the engine's.
            self._work.failed(taken, error, time.perf_counter())
        else:
            self._work.done(taken, vectors, time.perf_counter())

    async def _pause(self, taken: Taken) -> None:
        try:
            await asyncio.sleep(LOSS_PAUSE_S)
        except asyncio.CancelledError:
            self._work.dropped(taken)
            raise


class Turns:
    """Has the thread of an engine in this process take its batches itself: the moment it is done with one, and of all that
    waits then. By way of the event loop, which is busy with other requests, a 2-layer model gave 4,548 short texts a second and
    not 5,099 (32 clients, 2 cores of an Intel Xeon, 2026-11-22).
    """

    def __init__(self, engine: LocalEngine, work: Work) -> None:
        self._engine = engine
        self._work = work
        self._opening: asyncio.Task[None] | None = None
        # Whether the thread will look for work again.
        self._looking = False
        # By a bug: nothing more is computed.
        self._broken: Exception | None = None
        # Held while a batch is taken, so that none is between being taken and being known when all stops.
        self._taking = Lock()
        self._taken: Taken | None = None
        self._stopped = False

    def start(self) -> None:
        self._opening = asyncio.create_task(self._open(), name="batcher")

    async def _open(self) -> None:
        await self._engine.available()
        self._work.resumed()
        self.wake()

    def wake(self) -> None:
        if not self._looking and self._engine.unready_reason() is None:
            self._looking = True
            self._engine.compute(self._next)

    async def stop(self) -> None:
        if self._opening:
            self._opening.cancel()
        with self._taking:
            self._stopped = True
            taken = self._taken
        if taken:
            self._work.dropped(taken)

    def unready_reason(self) -> str | None:
        return f"the batcher has ended unexpectedly: {self._broken!r}" if self._broken else None

    def broke(self, error: Exception) -> None:
        log.error("a batch could not be taken or given back: a bug", exc_info=error)
        self._broken = error

    def _next(self) -> Turn | None:
        """In the engine's thread."""
        try:
            return self._look()
        except Exception as error:
            self.broke(error)
            return None

    def _look(self) -> Turn | None:
        while not self._broken:
            with self._taking:
                self._taken = None if self._stopped else self._work.take()
                if self._taken:
                    return Turn(self, self._work, self._taken)
            # In this order: what comes between the two is seen here or wakes the thread again, and at worst both.
            self._looking = False
            if self._stopped or not self._work.more():
                return None
            self._looking = True
        return None


class Turn:
    """One batch in the engine's thread."""

    __slots__ = ("_taken", "_turns", "_work", "batch")

    def __init__(self, turns: Turns, work: Work, taken: Taken) -> None:
        self._turns = turns
        self._work = work
        self._taken = taken
        self.batch = taken.batch

    def done(self, vectors: Vectors, ended: float) -> None:
        try:
            self._work.done(self._taken, vectors, ended)
        except Exception as error:
            self._turns.broke(error)

    def failed(self, error: Exception, ended: float) -> None:
        try:
            self._work.failed(self._taken, error, ended)
        except Exception as bug:
            self._turns.broke(bug)
