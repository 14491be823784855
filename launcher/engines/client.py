"""The client of one process that answers batches: an SGLang worker, or the process that owns the engine."""

from __future__ import annotations

import asyncio
import logging
from itertools import count

import zmq
import zmq.asyncio

from launcher.engines.base import Batch, Vectors
from launcher.engines.messages import NOTHING, batch_frames, read_computed, read_error, read_vectors
from launcher.errors import EngineError, NotReady, WorkerLost

log = logging.getLogger(__name__)

MAX_SOCKET_PATH_BYTES = zmq.IPC_PATH_MAX_LEN


class WorkerClient:
    """Speaks to the worker at ``address`` (a ZeroMQ endpoint, such as ipc:///run/w0); made inside a running event loop.

    It is for one life of the worker: once the worker has answered and its socket is gone, the client is closed.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._context = zmq.asyncio.Context()
        try:
            self._socket = self._context.socket(zmq.DEALER)
            self._socket.linger = 0
            self._endings = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._context.destroy()
            raise EngineError(f"cannot connect to {address}: {error}") from error
        self._numbers = count()
        # In the order in which they were sent.
        self._waiting: dict[bytes, asyncio.Future[tuple[bytes, bytes, bytes]]] = {}
        # By the event loop's clock; None before the first answer.
        self.last_answer: float | None = None
        self._reading = asyncio.create_task(self._read(), name=f"answers of {address}")
        self._watching = asyncio.create_task(self._watch(), name=f"end of {address}")

    @property
    def closed(self) -> bool:
        """Whether no answer can come any more."""
        return self._reading.done()

    async def encode(self, batch: Batch) -> Vectors:
        """float32 [n_inputs, dimensions], as ``Engine.run`` does.

        Raises ``NotReady`` where the worker has not begun it and will not, ``WorkerLost`` where the worker ended while it
        computed it, ``EngineError`` where it refused it or sent something else than one finite vector per input.
        """
        vectors, computed = await self._ask(batch)
        try:
            rows = read_vectors(vectors, len(batch.lengths))
        except ValueError as error:
            raise EngineError(f"the worker at {self.address} sent a wrong answer: {error}") from error
        if batch.trace and computed:
            try:
                batch.trace.computed(*read_computed(computed))
            except ValueError as error:
                log.error("the worker at %s said wrongly when it computed a batch: %s", self.address, error)
        return rows

    async def ready(self) -> None:
        """Wait until the worker answers. Raises ``NotReady`` where it says that it is not, or once the client is closed."""
        await self._ask(NOTHING)

    async def gone(self) -> None:
        """Wait until no answer can come any more."""
        await asyncio.wait({self._reading})

    async def close(self) -> None:
        """A worker computes one batch after the other: the first that waits ends with ``WorkerLost``, the rest with
        ``NotReady``. One that never answered has begun none."""
        self._watching.cancel()
        self._reading.cancel()
        try:
            await asyncio.gather(self._reading, self._watching, return_exceptions=True)
        finally:
            # Also when cancelled: a context that is left behind blocks whoever collects it as garbage.
            self._context.destroy()

    async def _ask(self, batch: Batch) -> tuple[bytes, bytes]:
        """The vectors of the answer, and what it says of their making. Raises what it holds instead."""
        if self.closed:
            raise NotReady("the worker is gone")
        number, *frames = batch_frames(next(self._numbers), batch)
        answer: asyncio.Future[tuple[bytes, bytes, bytes]] = asyncio.get_running_loop().create_future()
        # Stays there until it is answered, whoever gives up waiting: the worker computes it all the same.
        self._waiting[number] = answer
        await self._socket.send_multipart([number, *frames])
        verdict, content, computed = await answer
        if verdict:
            raise read_error(verdict, content)
        return content, computed

    async def _watch(self) -> None:
        await self._endings.recv_multipart()
        self._reading.cancel()

    async def _read(self) -> None:
        try:
            while True:
                match await self._socket.recv_multipart():
                    case [number, verdict, content, computed]:
                        self.last_answer = asyncio.get_running_loop().time()
                        waiting = self._waiting.pop(number, None)
                        if waiting and not waiting.done():
                            waiting.set_result((verdict, content, computed))
                    case frames:
                        log.error("the worker at %s sent %d frames, which are no answer", self.address, len(frames))
        finally:
            error: Exception = NotReady("the worker is gone")
            if self.last_answer is not None:
                error = WorkerLost(f"the worker at {self.address} was lost while it computed the batch")
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(error)
                error = NotReady("the worker is gone")
