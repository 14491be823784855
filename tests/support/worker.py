"""A small worker that speaks a worker's side of the messages, for tests of what asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import zmq
import zmq.asyncio

from launcher.engines.base import Batch
from launcher.engines.messages import read_batch, vector_frames

Frames = Sequence[bytes | memoryview]
# From a batch's number and the batch to the frames of the answer.
Answer = Callable[[bytes, Batch], Awaitable[Frames]]


async def echo_lengths(number: bytes, batch: Batch) -> Frames:
    """Vectors that say how long each text was."""
    return vector_frames(number, np.repeat(batch.lengths[:, None], 4, axis=1).astype(np.float32))


class StandInWorker:
    """Answers at ``address`` from a task of its own, several batches at a time."""

    def __init__(self, folder: Path, answer: Answer = echo_lengths) -> None:
        self.address = f"ipc://{folder}/worker-{id(self)}"
        self._answer = answer
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(self.address)
        self._tasks = {asyncio.create_task(self._serve())}

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    async def _serve(self) -> None:
        while True:
            asker, number, *frames = await self._socket.recv_multipart()
            self._tasks.add(asyncio.create_task(self._reply(asker, number, read_batch(frames))))

    async def _reply(self, asker: bytes, number: bytes, batch: Batch) -> None:
        await self._socket.send_multipart([asker, *await self._answer(number, batch)])
