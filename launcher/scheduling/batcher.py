"""Continuous batching: no timer. While the engine is busy, inputs queue; when it frees, the next batch takes what fits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from launcher.engines.base import Batch, Engine, LocalEngine, Vectors
from launcher.errors import EngineError, NotReady, WorkerLost
from launcher.scheduling.feeds import Feed, Slots, Taken, Turns
from launcher.scheduling.quarantine import Quarantine
from launcher.scheduling.queue import MAX_BULK_WAIT_S, Job, Lanes, Piece
from launcher.scheduling.retry import another_try, one_by_one

log = logging.getLogger(__name__)

Pack = Callable[[Sequence[Piece]], Batch]


class Batcher:
    """Feeds ``engine`` from a queue of jobs; ``on_batch(inputs, tokens, seconds, busy_s)`` is told of each finished batch: how
    long it took, and by how much it prolonged the time in which the engine could run and there was something to do.

    Each job ends once, with its vectors or an error. A batch that fails is tried again in parts, until it is known which
    input is at fault; only the job of that one fails.
    """

    def __init__(self, engine: Engine, *, on_batch: Callable[[int, int, float, float], None], pack: Pack | None = None) -> None:
        """``pack``: what makes a batch, if not ``pack_batch``."""
        self._on_batch = on_batch
        self._pack = pack or pack_batch
        self._lanes = Lanes(engine.max_batch_tokens, MAX_BULK_WAIT_S)
        self._quarantine = Quarantine()
        self._feed: Feed = Turns(engine, self) if isinstance(engine, LocalEngine) else Slots(engine, self)
        self._stopped = False
        self._last_end = 0.0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._feed.start()

    async def stop(self) -> None:
        """Take nothing more; what still waits is answered with ``NotReady``."""
        self._stopped = True
        await self._feed.stop()
        for job in self._lanes.drop_all():
            job.fail(NotReady("the server is shutting down"))

    def unready_reason(self) -> str | None:
        """Why requests would wait for ever, if they would."""
        return self._feed.unready_reason()

    def waiting(self) -> tuple[int, float]:
        """The tokens that are in no batch yet, and for how many seconds the first of them have waited; 0 where none do."""
        tokens, since = self._lanes.waiting()
        return tokens, time.perf_counter() - since if since is not None else 0.0

    async def encode(self, job: Job) -> None:
        """Return when ``job`` has its vectors.

        Cancelling the caller abandons what has not been taken yet. Raises what the engine raised.
        """
        self.submit(job)
        await job.done

    def submit(self, job: Job) -> None:
        """Queue ``job``, which is abandoned by cancelling its ``done``."""
        if self._stopped:
            job.fail(NotReady("the server is shutting down"))
        elif self._quarantine and any(map(self._quarantine.is_given_up, job.inputs)):
            job.fail(EngineError("workers were lost with one of these inputs before; it is not tried again"))
        elif self._quarantine and any(map(self._quarantine.is_suspect, job.inputs)):
            self._put_back(one_by_one(job, 0, len(job.inputs)))
        else:
            self._lanes.add(job)
            self._feed.wake()

    def take(self) -> Taken | None:
        pieces = self._lanes.take(time.monotonic())
        if not pieces:
            return None
        started = time.perf_counter()
        try:
            return Taken(pieces, self._pack(pieces), started)
        except Exception as error:
            # As if it had been computed, in smaller batches; futures are the event loop's.
            self._loop.call_soon_threadsafe(self._try_again, pieces, error)
            return None

    def more(self) -> bool:
        return bool(self._lanes)

    def done(self, taken: Taken, vectors: Vectors, ended: float) -> None:
        pieces, batch, started = taken
        if len(vectors) != len(batch.lengths):
            self.failed(taken, EngineError(f"the engine gave {len(vectors)} vectors for {len(batch.lengths)} inputs"), ended)
            return
        _hand_out(vectors, pieces, started, ended - started)
        if self._quarantine:
            self._quarantine.clear(ids for piece in pieces for ids in piece.inputs())
        # The first piece is the one that has waited longest.
        busy_s = ended - max(self._last_end, pieces[0].job.submitted)
        self._last_end = ended
        self._on_batch(len(batch.lengths), len(batch.ids), ended - started, busy_s)

    def failed(self, taken: Taken, error: Exception, ended: float) -> None:
        self._last_end = ended
        self._try_again(taken.pieces, error)

    def _try_again(self, pieces: Sequence[Piece], error: Exception) -> None:
        if self._stopped:
            _fail(pieces, NotReady("the server is shutting down"))
            return
        inputs = [ids for piece in pieces for ids in piece.inputs()]
        if isinstance(error, WorkerLost):
            # Also of those that nobody waits for any more: who gave up may ask again.
            for ids in inputs:
                self._quarantine.note_loss(ids)
            if len(inputs) == 1 and self._quarantine.is_given_up(inputs[0]):
                log.error("an input that workers were lost with again and again is given up")
                _fail(pieces, error)
                return
        batches = another_try(pieces, error)
        if batches:
            log.warning("a batch of %d inputs failed and is tried again in %d: %s", len(inputs), len(batches), error)
            self._put_back(batches)
        else:
            _fail(pieces, error)

    def dropped(self, taken: Taken) -> None:
        _fail(taken.pieces, NotReady("the server is shutting down"))

    def resumed(self) -> None:
        self._last_end = time.perf_counter()

    def _put_back(self, batches: Sequence[list[Piece]]) -> None:
        for batch in batches:
            self._lanes.put_back(batch)
        self._feed.wake()


def pack_batch(pieces: Sequence[Piece]) -> Batch:
    inputs = [ids for piece in pieces for ids in piece.inputs()]
    lengths = np.fromiter(map(len, inputs), np.int32, len(inputs))
    return Batch(np.concatenate(inputs), lengths)


def _hand_out(vectors: Vectors, pieces: Sequence[Piece], started: float, seconds: float) -> None:
    row = 0
    for piece in pieces:
        rows = piece.stop - piece.start
        try:
            piece.job.accept(piece.start, vectors[row : row + rows], started, seconds)
        except Exception as error:
            # No room for its vectors, or others than those it has. The other jobs have theirs.
            piece.job.fail(EngineError(f"the vectors could not be taken over: {error}"))
        row += rows


def _fail(pieces: Sequence[Piece], error: Exception) -> None:
    for piece in pieces:
        piece.job.fail(error)
