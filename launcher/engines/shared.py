"""Has other processes use this one's engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
import zmq
import zmq.asyncio

from launcher.engines.base import Batch, Engine, Vectors
from launcher.engines.messages import error_frames, read_batch, vector_frames
from launcher.errors import EngineError, NotReady

log = logging.getLogger(__name__)

TRIES = 3
NONE = np.empty((0, 0), np.float32)


class SharedEngine:
    """Answers batches for ``engine`` at ``address`` (a ZeroMQ endpoint); made inside a running event loop.

    Who asks before ``run`` waits. Each asker has its own slots, so what waits in the engine is bounded by them.
    """

    def __init__(self, engine: Engine, address: str) -> None:
        self._engine = engine
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(address)

    async def run(self) -> None:
        """Answer until cancelled, several batches at a time."""
        async with asyncio.TaskGroup() as replies:
            while True:
                asker, number, *frames = await self._socket.recv_multipart()
                replies.create_task(self._reply(asker, number, frames))

    def close(self) -> None:
        self._context.destroy(linger=0)

    async def _reply(self, asker: bytes, number: bytes, frames: Sequence[bytes]) -> None:
        await self._socket.send_multipart([asker, *await self._answer(number, frames)])

    async def _run(self, batch: Batch) -> Vectors:
        """Raises ``NotReady`` where the whole engine is not, or where one worker after the other goes just then."""
        for tries_left in reversed(range(TRIES)):
            try:
                return await self._engine.run(batch)
            except NotReady:
                if not tries_left or self._engine.unready_reason():
                    raise
        raise AssertionError("not reached")

    async def _answer(self, number: bytes, frames: Sequence[bytes]) -> Sequence[bytes | memoryview]:
        try:
            batch = read_batch(frames)
        except ValueError as error:
            return error_frames(number, error)
        try:
            if len(batch.lengths):
                return vector_frames(number, await self._run(batch), batch)
            reason = self._engine.unready_reason()
            return error_frames(number, NotReady(reason)) if reason else vector_frames(number, NONE)
        except Exception as error:
            if not isinstance(error, EngineError | NotReady):
                log.exception("the engine failed on a batch of %d inputs", len(batch.lengths))
            return error_frames(number, error)
