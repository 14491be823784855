"""From a request's inputs to vectors: admitted, queued, and, unless that is switched off, equal inputs encoded once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Protocol

import msgspec
import numpy as np

from launcher.engines.base import TokenIds, Vectors
from launcher.errors import Unavailable
from launcher.scheduling.admission import Admission
from launcher.scheduling.batcher import Batcher
from launcher.scheduling.queue import Job, is_bulk
from launcher.telemetry.tracing import Trace


class Encoded(msgspec.Struct, frozen=True):
    """``vectors``: float32 [n_inputs, dimensions], in the order of the inputs. ``deduplicated`` counts the inputs that got
    the vector of an equal one."""

    vectors: Vectors
    deduplicated: int
    queue_s: float
    inference_s: float


def nobody() -> None:
    """Who is told where nobody asks."""


class Encoder(Protocol):
    async def encode(
        self,
        keys: Sequence[bytes],
        inputs: Sequence[TokenIds],
        deadline: float = math.inf,
        on_accepted: Callable[[], object] = nobody,
        trace: Trace | None = None,
    ) -> Encoded:
        """``inputs``: token ids, int32 [n] each; inputs are equal where their ``keys`` are. ``deadline`` is by the event loop's
        clock; it is not enforced here, but what could not be finished by then is refused. ``on_accepted`` is called once
        there is room for them all.

        Raises ``Overloaded`` and what the engine raised. Cancelling the caller abandons what nobody else waits for.
        """
        ...


class SeparateEncoder:
    """Encodes each input by itself, also where an equal one is under way."""

    def __init__(self, admission: Admission, batcher: Batcher) -> None:
        self._admission = admission
        self._batcher = batcher

    async def encode(
        self,
        keys: Sequence[bytes],
        inputs: Sequence[TokenIds],
        deadline: float = math.inf,
        on_accepted: Callable[[], object] = nobody,
        trace: Trace | None = None,
    ) -> Encoded:
        job = Job(inputs, trace)
        self._admission.admit(job, deadline)
        try:
            on_accepted()
            await self._batcher.encode(job)
        finally:
            self._admission.release(job)
        return Encoded(job.vectors, 0, job.queue_s, job.inference_s)


class SharedJob:
    """A job and how many requests wait for it. It goes on until none is left, whichever of them began it."""

    def __init__(self, job: Job, keys: Iterable[bytes]) -> None:
        self.job = job
        self.keys = keys
        self.waiting = 0
        self._waiters: list[asyncio.Future[None]] = []

    async def finished(self) -> None:
        """Raises what the engine raised. Cancelling the caller leaves the job alone."""
        if not self.job.done.done():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        self.job.done.result()

    async def failed(self) -> bool:
        """Wait for the end, and say whether the engine failed. Raises ``NotReady`` where the server stops."""
        try:
            await self.finished()
        except Unavailable:
            raise
        except Exception:
            return True
        return False

    def wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def vector(self, key: bytes) -> Vectors:
        vector: Vectors = self.job.vectors[self._rows[key]]
        return vector

    @cached_property
    def _rows(self) -> Mapping[bytes, int]:
        return {key: row for row, key in enumerate(self.keys)}


class Waiting:
    """Entered while the results of ``jobs`` are wanted; a job that nobody wants any more is abandoned."""

    def __init__(self, *jobs: SharedJob) -> None:
        self._jobs = jobs

    def __enter__(self) -> None:
        for shared in self._jobs:
            shared.waiting += 1

    def __exit__(self, *_: object) -> None:
        for shared in self._jobs:
            shared.waiting -= 1
            if not shared.waiting:
                shared.job.done.cancel()


class DeduplicatingEncoder:
    """Encodes inputs that are equal and under way at the same time once, within a request and across requests.

    Two things are not shared. The job of a request that does not fit one batch, with one that does: a query would wait for
    an ingest. And a job's failure: its other inputs may be to blame, so that who joined it tries once without it.
    """

    def __init__(self, admission: Admission, batcher: Batcher, *, max_batch_tokens: int) -> None:
        self._admission = admission
        self._batcher = batcher
        self._max_batch_tokens = max_batch_tokens
        self._under_way: dict[bytes, SharedJob] = {}

    async def encode(
        self,
        keys: Sequence[bytes],
        inputs: Sequence[TokenIds],
        deadline: float = math.inf,
        on_accepted: Callable[[], object] = nobody,
        trace: Trace | None = None,
    ) -> Encoded:
        wanted = dict(zip(keys, inputs, strict=True))
        joined = self._joinable(wanted)
        if not joined and len(wanted) == len(keys):
            job = (await self._encode_own(wanted, deadline, on_accepted, trace)).job
            return Encoded(job.vectors, 0, job.queue_s, job.inference_s)
        began = time.perf_counter()
        sources = await self._encode_rest(wanted, joined, deadline, on_accepted, trace)
        waited_s = time.perf_counter() - began
        # A job that was joined may have begun before the request came.
        inference_s = min(waited_s, max(shared.job.inference_s for shared in sources.values()))
        vectors = np.stack([sources[key].vector(key) for key in keys])
        own = sum(sources[key] is not joined.get(key) for key in wanted)
        return Encoded(vectors, len(keys) - own, waited_s - inference_s, inference_s)

    async def _encode_rest(
        self,
        wanted: Mapping[bytes, TokenIds],
        joined: Mapping[bytes, SharedJob],
        deadline: float,
        on_accepted: Callable[[], object],
        trace: Trace | None,
    ) -> Mapping[bytes, SharedJob]:
        """For each key the job that holds its vector: one of ``joined``, or one of our own."""
        rest = {key: ids for key, ids in wanted.items() if key not in joined}
        own = [self._begin(rest, deadline, trace)] if rest else []
        others = set(joined.values())
        if trace:
            for shared in others:
                shared.job.trace_also(trace)
        with Waiting(*own, *others):
            on_accepted()
            for shared in own:
                await shared.finished()
            failed = {shared for shared in others if await shared.failed()}
        sources = {**joined, **dict.fromkeys(rest, *own)}
        if again := {key: wanted[key] for key, shared in joined.items() if shared in failed}:
            sources |= dict.fromkeys(again, await self._encode_own(again, deadline, nobody, trace))
        return sources

    async def _encode_own(
        self, inputs: Mapping[bytes, TokenIds], deadline: float, on_accepted: Callable[[], object], trace: Trace | None
    ) -> SharedJob:
        shared = self._begin(inputs, deadline, trace)
        with Waiting(shared):
            on_accepted()
            await shared.finished()
        return shared

    def _joinable(self, wanted: Mapping[bytes, TokenIds]) -> Mapping[bytes, SharedJob]:
        under_way = {key: self._under_way[key] for key in self._under_way.keys() & wanted.keys()}
        if not under_way:
            return {}
        may_join_bulk = self._is_bulk(sum(map(len, wanted.values())))
        return {
            key: shared
            for key, shared in under_way.items()
            if not shared.job.abandoned and (may_join_bulk or not self._is_bulk(shared.job.tokens))
        }

    def _is_bulk(self, tokens: int) -> bool:
        return is_bulk(tokens, self._max_batch_tokens)

    def _begin(self, inputs: Mapping[bytes, TokenIds], deadline: float, trace: Trace | None) -> SharedJob:
        """Raises ``Overloaded``."""
        shared = SharedJob(Job(list(inputs.values()), trace), inputs)
        self._admission.admit(shared.job, deadline)
        self._batcher.submit(shared.job)
        self._under_way |= dict.fromkeys(inputs, shared)
        shared.job.done.add_done_callback(partial(self._end, shared))
        return shared

    def _end(self, shared: SharedJob, _: asyncio.Future[None]) -> None:
        self._admission.release(shared.job)
        for key in shared.keys:
            if self._under_way.get(key) is shared:
                del self._under_way[key]
        shared.wake()
