"""What waits for the engine, and the rule that makes a batch of it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from launcher.engines.base import Vectors
from launcher.telemetry.tracing import Trace

# How long queries may hold up an ingest that is under way.
MAX_BULK_WAIT_S = 1.0


def is_bulk(tokens: int, max_batch_tokens: int) -> bool:
    """Whether a request of ``tokens`` needs several batches. One that does not is called a query."""
    return tokens > max_batch_tokens


class Job:
    """The inputs of one request that need the engine. It may be spread over several batches and is joined here.

    ``vectors``: float32 [n_inputs, dimensions], complete once ``done`` has a result. ``queue_s`` is the time to the
    start of its first batch, ``inference_s`` the sum over its batches. ``tokens_left`` counts what is not computed yet,
    ``submitted`` is by ``time.perf_counter``.
    """

    def __init__(self, inputs: Sequence[NDArray[np.int32]], trace: Trace | None = None) -> None:
        self.inputs = inputs
        # Of the requests that wait for it.
        self.traces: tuple[Trace, ...] = (trace,) if trace else ()
        self.tokens = self.tokens_left = sum(map(len, inputs))
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.taken = 0
        self.vectors: Vectors = np.empty((0, 0), np.float32)
        self.queue_s = 0.0
        self.inference_s = 0.0
        self.submitted = time.perf_counter()
        self._missing = len(inputs)

    @property
    def tokens_waiting(self) -> int:
        """Those that no batch has taken yet."""
        return sum(map(len, self.inputs[self.taken :])) if self.taken else self.tokens

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.done.done()

    def trace_also(self, trace: Trace) -> None:
        """Of one more request that waits for it from now on."""
        self.traces += (trace,)
        if self.taken:
            trace.enter("inference", time.perf_counter())

    def accept(self, start: int, rows: Vectors, batch_started: float, batch_s: float) -> None:
        """Take the vectors of the inputs from ``start`` on, out of a batch that began at ``batch_started``."""
        if self.abandoned:
            return
        if self._missing == len(self.inputs):
            self.queue_s = batch_started - self.submitted
            self.vectors = np.empty((len(self.inputs), rows.shape[1]), np.float32)
        for trace in self.traces:
            trace.batch_ended(batch_started + batch_s)
        self.vectors[start : start + len(rows)] = rows
        self.inference_s += batch_s
        self._missing -= len(rows)
        if self._missing:
            self.tokens_left -= sum(map(len, self.inputs[start : start + len(rows)]))
        else:
            self.tokens_left = 0
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.abandoned:
            self.done.set_exception(error)


class Piece(msgspec.Struct, frozen=True):
    """Inputs ``start`` to ``stop`` of a job."""

    job: Job
    start: int
    stop: int

    def inputs(self) -> Sequence[NDArray[np.int32]]:
        return self.job.inputs[self.start : self.stop]


class Waiting(NamedTuple):
    """``since`` is by ``time.perf_counter``; None where nothing waits."""

    tokens: int
    since: float | None


class Lanes:
    """Requests that fit one batch go before those that do not, so that a single query does not wait for an ingest.

    Bulk that has been passed over for ``max_bulk_wait_s`` goes first once, so that it never starves. A batch is of one lane:
    a query in a batch filled up with bulk would wait for all of it. What came back from a batch that failed, which may be
    hundreds of inputs to be run one by one, takes turns with the rest. Any thread may use them.
    """

    def __init__(self, max_tokens: int, max_bulk_wait_s: float) -> None:
        self._max_tokens = max_tokens
        self._max_bulk_wait_s = max_bulk_wait_s
        self._lock = Lock()
        self._interactive: deque[Job] = deque()
        self._bulk: deque[Job] = deque()
        self._again: deque[list[Piece]] = deque()
        self._again_is_next = True
        # When a query went before waiting bulk, for the first time since bulk had a batch.
        self._passed_over_since: float | None = None

    def add(self, job: Job) -> None:
        lane = self._bulk if is_bulk(job.tokens, self._max_tokens) else self._interactive
        with self._lock:
            lane.append(job)

    def put_back(self, batch: list[Piece]) -> None:
        """Take this as a batch again, and with nothing added."""
        with self._lock:
            self._again.append(batch)

    def take(self, now: float) -> list[Piece]:
        """The next batch; empty where nothing waits. ``now`` is in seconds of any steady clock."""
        with self._lock:
            self._again_is_next = not self._again_is_next
            if self._again_is_next:
                return self._take_new(now) or self._take_again()
            return self._take_again() or self._take_new(now)

    def _take_again(self) -> list[Piece]:
        while self._again:
            if pieces := [piece for piece in self._again.popleft() if not piece.job.abandoned]:
                return pieces
        return []

    def _take_new(self, now: float) -> list[Piece]:
        since = self._passed_over_since
        overdue = since is not None and now - since >= self._max_bulk_wait_s
        if not overdue and (pieces := take_batch(self._interactive, self._max_tokens)):
            if self._bulk and since is None:
                self._passed_over_since = now
            return pieces
        self._passed_over_since = None
        return take_batch(self._bulk, self._max_tokens) or take_batch(self._interactive, self._max_tokens)

    def __bool__(self) -> bool:
        return bool(self._interactive or self._bulk or self._again)

    def waiting(self) -> Waiting:
        """What is in no batch yet; what nobody waits for any more is left out."""
        with self._lock:
            jobs = [job for lane in (self._interactive, self._bulk) for job in lane if not job.abandoned]
            again = [piece for batch in self._again for piece in batch if not piece.job.abandoned]
        tokens = sum(job.tokens_waiting for job in jobs) + sum(len(ids) for piece in again for ids in piece.inputs())
        submitted = [job.submitted for job in (*jobs, *(piece.job for piece in again))]
        return Waiting(tokens, min(submitted, default=None))

    def drop_all(self) -> list[Job]:
        """Empty the lanes and return what was in them."""
        with self._lock:
            jobs = [*self._interactive, *self._bulk, *(piece.job for batch in self._again for piece in batch)]
            self._interactive.clear()
            self._bulk.clear()
            self._again.clear()
            return jobs


def take_batch(queue: deque[Job], max_tokens: int) -> list[Piece]:
    """Take inputs from the queue's front, in order, as long as they fit ``max_tokens``; at least one.

    A job that does not fit whole stays at the front with what is left of it; abandoned jobs are dropped.
    """
    pieces: list[Piece] = []
    room = max_tokens
    while queue:
        job = queue[0]
        if job.abandoned:
            queue.popleft()
            continue
        start = stop = job.taken
        while stop < len(job.inputs) and (len(job.inputs[stop]) <= room or (not pieces and stop == start)):
            room -= len(job.inputs[stop])
            stop += 1
        if stop > start:
            pieces.append(Piece(job, start, stop))
        job.taken = stop
        if stop < len(job.inputs):
            break
        queue.popleft()
    return pieces
