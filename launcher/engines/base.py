"""What every engine is: token ids in, unit vectors out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
Vectors = NDArray[np.float32]


class BatchTrace(Protocol):
    """Of a batch with a traced request in it. ``parent`` is what it is computed for, as W3C's traceparent."""

    parent: bytes

    def computed(self, worker: str, began_ns: int, ended_ns: int) -> None:
        """Told by ``worker``, in any thread. By ``time.perf_counter_ns``, which on Linux is one clock for all processes."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids of several inputs laid end to end.

    ``ids``: int32 [n_tokens], special tokens included, each within the vocabulary.
    ``lengths``: int32 [n_inputs], each from 1 to the model's limit; they add up to n_tokens.
    ``trace``: None where none of its requests is traced.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    trace: BatchTrace | None = None


class Engine(Protocol):
    """A running encoder.

    ``slots`` is how many batches may be in flight at once: one running and one prepared per worker.
    """

    slots: int
    max_batch_tokens: int

    async def run(self, batch: Batch) -> Vectors:
        """Encode a batch: float32 [n_inputs, dimensions], rows L2-normalised, in the batch's order.

        Raises ``NotReady`` where it was not begun, ``WorkerLost`` where a worker was lost while it computed it,
        ``EngineError`` where the worker failed on it.
        """
        ...

    async def available(self) -> None:
        """Wait until a batch can run at once. What ``run`` raises ``NotReady`` for is not available."""
        ...

    def unready_reason(self) -> str | None:
        """None when a batch can run now, else why not, in words for an operator."""
        ...

    async def stop(self) -> None:
        """Release everything; what is still running ends with an error or its result."""
        ...


class Turn(Protocol):
    """A batch that an engine computes in a thread of this process; told in the event loop what became of it."""

    @property
    def batch(self) -> Batch: ...

    def done(self, vectors: Vectors, ended: float) -> None:
        """``vectors`` as of ``Engine.run``; ``ended`` is by ``time.perf_counter``."""
        ...

    def failed(self, error: Exception, ended: float) -> None:
        """``error`` as ``Engine.run`` raises it."""
        ...


@runtime_checkable
class LocalEngine(Engine, Protocol):
    """Computes in a thread of this process, one batch after the other.

    Its ``run`` waits in the same thread until ``next_turn`` has none left: who has the one has no use for the other.
    """

    def compute(self, next_turn: Callable[[], Turn | None]) -> None:
        """Have that thread ask ``next_turn``, which raises nothing, for a batch again and again, until there is none."""
        ...
