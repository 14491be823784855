"""Continuous batching: no timer. While the engine is busy, inputs queue; when it frees, the next batch takes what fits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from launcher.engines.base import Batch, Vectors
from launcher.errors import EngineError, NotReady
from launcher.scheduling.queue import Job, Lanes, Piece

# How long queries may hold up an ingest that is under way.
MAX_BULK_WAIT_S = 1.0


class Batcher:
    """Feeds one engine from a queue of jobs.

    ``run`` encodes a batch, ``slots`` is how many batches may be in flight, ``on_batch(inputs, tokens, seconds)`` is told
    of each finished one.
    """

    def __init__(
        self,
        run: Callable[[Batch], Awaitable[Vectors]],
        *,
        slots: int,
        max_batch_tokens: int,
        on_batch: Callable[[int, int, float], None],
    ) -> None:
        self._run = run
        self._slots = slots
        self._on_batch = on_batch
        self._lanes = Lanes(max_batch_tokens, MAX_BULK_WAIT_S)
        self._arrived = asyncio.Event()
        self._pumps: list[asyncio.Task[None]] = []
        self._stopped = False

    def start(self) -> None:
        self._pumps = [asyncio.create_task(self._pump(), name=f"batcher-{i}") for i in range(self._slots)]

    async def stop(self) -> None:
        """End the pumps; what still waits is answered with ``NotReady``."""
        self._stopped = True
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for job in self._lanes.drop_all():
            job.fail(NotReady("the server is shutting down"))

    def unready_reason(self) -> str | None:
        """A dead pump would leave requests waiting for ever; say so instead."""
        dead = [pump for pump in self._pumps if pump.done()]
        return f"{dead[0].get_name()} has ended unexpectedly" if dead else None

    async def encode(self, inputs: Sequence[NDArray[np.int32]]) -> Job:
        """Encode ``inputs`` (token ids, int32 [n] each) and return the finished job: its vectors and timings.

        Cancelling the caller abandons what has not been taken yet. Raises what the engine raised.
        """
        job = self.submit(inputs)
        await job.done
        return job

    def submit(self, inputs: Sequence[NDArray[np.int32]]) -> Job:
        """Queue ``inputs``. The job is abandoned by cancelling its ``done``."""
        job = Job(inputs)
        if self._stopped:
            job.fail(NotReady("the server is shutting down"))
        else:
            self._lanes.add(job)
            self._arrived.set()
        return job

    async def _pump(self) -> None:
        while True:
            await self._arrived.wait()
            pieces = self._lanes.take(time.monotonic())
            if not self._lanes:
                self._arrived.clear()
            if pieces:
                await self._run_pieces(pieces)

    async def _run_pieces(self, pieces: list[Piece]) -> None:
        started = time.perf_counter()
        batch = pack_batch(pieces)
        try:
            vectors = await self._run(batch)
            if len(vectors) != len(batch.lengths):
                raise EngineError(f"the engine gave {len(vectors)} vectors for {len(batch.lengths)} inputs")
            seconds = time.perf_counter() - started
            _hand_out(vectors, pieces, started, seconds)
        except asyncio.CancelledError:
            _fail(pieces, NotReady("the server is shutting down"))
            raise
        except Exception as error:
            _fail(pieces, error)
            return
        self._on_batch(len(batch.lengths), len(batch.ids), seconds)


def pack_batch(pieces: Sequence[Piece]) -> Batch:
    inputs = [ids for piece in pieces for ids in piece.job.inputs[piece.start : piece.stop]]
    lengths = np.fromiter(map(len, inputs), np.int32, len(inputs))
    return Batch(np.concatenate(inputs), lengths)


def _hand_out(vectors: Vectors, pieces: Sequence[Piece], started: float, seconds: float) -> None:
    row = 0
    for piece in pieces:
        rows = piece.stop - piece.start
        piece.job.accept(piece.start, vectors[row : row + rows], started, seconds)
        row += rows


def _fail(pieces: list[Piece], error: Exception) -> None:
    for piece in pieces:
        piece.job.fail(error)
