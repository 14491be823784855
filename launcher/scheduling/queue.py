"""What waits for the engine, and the rule that makes a batch of it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher.engines.base import Vectors


class Job:
    """The inputs of one request that need the engine. It may be spread over several batches and is joined here.

    ``vectors``: float32 [n_inputs, dimensions], complete once ``done`` has a result. ``queue_s`` is the time to the
    start of its first batch, ``inference_s`` the sum over its batches.
    """

    def __init__(self, inputs: Sequence[NDArray[np.int32]]) -> None:
        self.inputs = inputs
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.taken = 0
        self.vectors: Vectors = np.empty((0, 0), np.float32)
        self.queue_s = 0.0
        self.inference_s = 0.0
        self._missing = len(inputs)
        self._submitted = time.perf_counter()

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.done.done()

    def accept(self, start: int, rows: Vectors, batch_started: float, batch_s: float) -> None:
        """Take the vectors of the inputs from ``start`` on, out of a batch that began at ``batch_started``."""
        if self.abandoned:
            return
        if self._missing == len(self.inputs):
            self.queue_s = batch_started - self._submitted
            self.vectors = np.empty((len(self.inputs), rows.shape[1]), np.float32)
        self.vectors[start : start + len(rows)] = rows
        self.inference_s += batch_s
        self._missing -= len(rows)
        if not self._missing:
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.abandoned:
            self.done.set_exception(error)


@dataclass(frozen=True, slots=True)
class Piece:
    """Inputs ``start`` to ``stop`` of a job."""

    job: Job
    start: int
    stop: int


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
