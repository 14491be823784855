"""The engine that runs in the server's own process, on the CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from launcher.config.schema import WeightFormat
from launcher.engines.base import Batch, Turn, Vectors
from launcher.engines.openvino.encoder import Encoded, Encoder
from launcher.errors import NotReady
from launcher.models.checkpoint import Checkpoint
from launcher.telemetry.lines import SERVER


class OpenVinoEngine:
    """``start`` it before ``run``. Work happens in a thread; OpenVINO lets go of Python's lock while it computes."""

    # OpenVINO computes one batch after the other, and laying one out takes little.
    slots = 1

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: str,
        weights: WeightFormat = "dtype",
        threads: int,
        max_batch_tokens: int,
        on_padding: Callable[[int], object] = lambda tokens: None,
    ) -> None:
        """``dtype`` is "float32" or "bfloat16", see ``resolve_dtype``. ``threads``: 0 for as many as the process may use.
        ``on_padding`` is told for each batch how many positions were computed that held no token."""
        self.max_batch_tokens = max_batch_tokens
        self._on_padding = on_padding
        self._load = partial(Encoder, checkpoint, dtype=dtype, weights=weights, threads=threads)
        self._threads = ThreadPoolExecutor(self.slots, thread_name_prefix="openvino")
        self._encoder: Encoder | None = None
        self._unready_reason: str | None = "the model is being loaded"
        self._available = asyncio.Event()

    async def start(self) -> None:
        """Load the model. Raises ``ModelError`` where the checkpoint is unusable, ``EngineError`` where OpenVINO fails."""
        self._encoder = await asyncio.get_running_loop().run_in_executor(self._threads, self._load)
        self._unready_reason = None
        self._available.set()

    async def available(self) -> None:
        await self._available.wait()

    async def run(self, batch: Batch) -> Vectors:
        encoded = await self._encode(batch)
        self._on_padding(encoded.padding)
        return encoded.vectors

    async def try_out(self, batch: Batch) -> Vectors:
        """As ``run``, for batches that no request asked for."""
        return (await self._encode(batch)).vectors

    def compute(self, next_turn: Callable[[], Turn | None]) -> None:
        self._threads.submit(self._compute, next_turn, asyncio.get_running_loop())

    def _compute(self, next_turn: Callable[[], Turn | None], loop: asyncio.AbstractEventLoop) -> None:
        while turn := next_turn():
            try:
                encoded = self._encode_here(turn.batch)
            except Exception as error:
                loop.call_soon_threadsafe(turn.failed, error, time.perf_counter())
            else:
                loop.call_soon_threadsafe(self._tell, turn, encoded, time.perf_counter())

    def _tell(self, turn: Turn, encoded: Encoded, ended: float) -> None:
        turn.done(encoded.vectors, ended)
        self._on_padding(encoded.padding)

    async def _encode(self, batch: Batch) -> Encoded:
        if self._unready_reason:
            raise NotReady(self._unready_reason)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._encode_here, batch)

    def _encode_here(self, batch: Batch) -> Encoded:
        """On the engine's thread."""
        if self._encoder is None:
            raise NotReady(self._unready_reason or "the engine has not started")
        return timed(self._encoder, batch) if batch.trace else self._encoder.encode(batch)

    def unready_reason(self) -> str | None:
        return self._unready_reason

    async def stop(self) -> None:
        self._unready_reason = "the engine has stopped"
        self._available.clear()
        await asyncio.to_thread(self._threads.shutdown)
        self._encoder = None


def timed(encoder: Encoder, batch: Batch) -> Encoded:
    """Of a traced batch it is told when it was computed."""
    began_ns = time.perf_counter_ns()
    encoded = encoder.encode(batch)
    assert batch.trace
    batch.trace.computed(SERVER, began_ns, time.perf_counter_ns())
    return encoded
