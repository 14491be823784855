"""The client of one process that answers batches: an SGLang worker, or the process that owns the engine."""

from __future__ import annotations

import asyncio
import logging
from itertools import count

import zmq
import zmq.asyncio

from launcher.engines.base import Batch, Vectors
from launcher.engines.messages import NOTHING, REFUSED, UNREADY, batch_frames, read_vectors
from launcher.errors import EngineError, NotReady

log = logging.getLogger(__name__)

# Far above any batch; it only ends the wait for a worker that hangs.
BATCH_TIMEOUT_S = 300.0
MAX_SOCKET_PATH_BYTES = zmq.IPC_PATH_MAX_LEN


class WorkerClient:
    """Speaks to the worker at ``address`` (a ZeroMQ endpoint, such as ipc:///run/w0); made inside a running event loop."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(address)
        self._numbers = count()
        self._waiting: dict[bytes, asyncio.Future[tuple[bytes, bytes]]] = {}
        self._reading = asyncio.create_task(self._read(), name=f"answers of {address}")

    @property
    def closed(self) -> bool:
        """Whether no answer can come any more."""
        return self._reading.done()

    async def encode(self, batch: Batch) -> Vectors:
        """float32 [n_inputs, dimensions], as ``Engine.run`` does.

        Raises ``NotReady`` where the worker is not or once the client is closed, ``EngineError`` where the worker refused
        the batch, hung, or sent something else than one finite vector per input.
        """
        try:
            async with asyncio.timeout(BATCH_TIMEOUT_S):
                vectors = await self._ask(batch)
        except TimeoutError as error:
            raise EngineError(f"the worker at {self.address} did not answer within {BATCH_TIMEOUT_S:g} s") from error
        try:
            return read_vectors(vectors, len(batch.lengths))
        except ValueError as error:
            raise EngineError(f"the worker at {self.address} sent a wrong answer: {error}") from error

    async def ready(self) -> None:
        """Wait until the worker answers. Raises ``NotReady`` where it says that it is not, or once the client is closed."""
        await self._ask(NOTHING)

    async def close(self) -> None:
        """What still waits for an answer ends with ``NotReady``."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._context.destroy()

    async def _ask(self, batch: Batch) -> bytes:
        """The vectors of the answer. Raises what it holds instead."""
        if self.closed:
            raise NotReady("the worker is gone")
        number, *frames = batch_frames(next(self._numbers), batch)
        answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._socket.send_multipart([number, *frames])
            verdict, content = await answer
        finally:
            del self._waiting[number]
        if verdict == UNREADY:
            raise NotReady(content.decode())
        if verdict == REFUSED:
            raise EngineError(f"the worker at {self.address} refused the batch: {content.decode()}")
        return content

    async def _read(self) -> None:
        try:
            while True:
                match await self._socket.recv_multipart():
                    case [number, verdict, content]:
                        waiting = self._waiting.get(number)
                        if waiting and not waiting.done():
                            waiting.set_result((verdict, content))
                    case frames:
                        log.error("the worker at %s sent %d frames, which are no answer", self.address, len(frames))
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(NotReady("the worker is gone"))
