"""Where the gateway's batches enter a worker: straight at the model, past SGLang's path for requests.

On that path one request is JSON, a dozen Python objects and three processes; a batch that is made up already needs none of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import zmq

from launcher.engines.base import Batch, Vectors
from launcher.engines.messages import error_frames, read_batch, vector_frames

# SGLang's own housekeeping gets its turn after this.
TURN_S = 1.0
NONE = np.empty((0, 0), np.float32)


class BatchSocket:
    """Takes the place of the scheduler's ``IdleSleeper``: while SGLang has nothing to do, batches are answered here.

    ``encode`` raises ``ValueError`` for a batch that it refuses. ``others`` are SGLang's sockets, which end the wait;
    ``name`` is what this worker calls itself.
    """

    def __init__(
        self, address: str, name: str, encode: Callable[[Batch], Vectors], others: Sequence[zmq.Socket[bytes]]
    ) -> None:
        self._name = name
        self._encode = encode
        self._others = others
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(address)
        self._poller = zmq.Poller()
        for socket in (self._socket, *others):
            self._poller.register(socket, zmq.POLLIN)

    def maybe_sleep(self) -> None:
        """Answer batches until SGLang has a message of its own, and no longer than a turn. SGLang calls it by this name."""
        end = time.monotonic() + TURN_S
        while (left_s := end - time.monotonic()) > 0:
            readable = dict(self._poller.poll(math.ceil(left_s * 1000)))
            if self._socket in readable:
                asker, number, *frames = self._socket.recv_multipart()
                self._socket.send_multipart([asker, *self._answer(number, frames)], copy=False)
            if any(socket in readable for socket in self._others):
                return

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _answer(self, number: bytes, frames: Sequence[bytes]) -> Sequence[bytes | memoryview]:
        try:
            batch = read_batch(frames)
            return vector_frames(number, self._vectors(batch) if len(batch.lengths) else NONE, batch)
        except (ValueError, torch.OutOfMemoryError) as error:
            # Anything else ends the worker: after a failed kernel no later result can be trusted.
            return error_frames(number, error)

    def _vectors(self, batch: Batch) -> Vectors:
        if batch.trace is None:
            return self._encode(batch)
        began_ns = time.perf_counter_ns()
        try:
            vectors = self._encode(batch)
        except Exception as error:
            # Where it ends the worker, its traceback says whose request it was.
            error.add_note(f"the batch's traceparent: {batch.trace.parent.decode('ascii', 'backslashreplace')}")
            raise
        batch.trace.computed(self._name, began_ns, time.perf_counter_ns())
        return vectors
