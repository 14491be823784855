"""What a gateway and who computes for it say to each other, as ZeroMQ frames (both sides; NumPy only).

    batch:  number | lengths of the texts, int32 [n] | ids of all texts end to end, int32 [sum of the lengths] | traceparent
    answer: number | empty | vectors, float32 [n x dimensions] | computed
        or: number | REFUSED, LOST or UNREADY | why | empty

All numbers are little-endian. An answer carries its batch's number, since a worker may be asked by several gateways and an
asker may have gone. A batch without texts is a question whether the worker is there.

The traceparent is W3C's, of what a traced request waits for; it is empty where no request of the batch is traced. Then
``computed`` is empty too. Else it says when the batch was computed and by whom: the beginning and the end, int64 [2], by
``time.perf_counter_ns``, and after them the name. So a worker needs nothing that makes spans.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from launcher.engines.base import Batch, Vectors
from launcher.errors import EngineError, NotReady, WorkerLost

NOTHING = Batch(np.empty(0, np.int32), np.empty(0, np.int32))
# Bytes of a batch's number.
NUMBER_BYTES = 8
# The batch is at fault, or whoever computes failed on it.
REFUSED = b"refused"
# A worker ended or hung while it computed the batch.
LOST = b"lost"
# No batch can be computed now.
UNREADY = b"unready"
WHEN = struct.Struct("<qq")


class ReceivedTrace:
    """Of a batch that came in a message: what is told of it goes back in the answer."""

    def __init__(self, parent: bytes) -> None:
        self.parent = parent
        self.frame = b""

    def computed(self, worker: str, began_ns: int, ended_ns: int) -> None:
        self.frame = WHEN.pack(began_ns, ended_ns) + worker.encode()


def batch_frames(number: int, batch: Batch) -> list[bytes]:
    parent = batch.trace.parent if batch.trace else b""
    return [number.to_bytes(NUMBER_BYTES, "little"), _bytes(batch.lengths, "<i4"), _bytes(batch.ids, "<i4"), parent]


def read_batch(frames: Sequence[bytes]) -> Batch:
    """The batch in the frames after the number. Raises ``ValueError`` where they are none."""
    if len(frames) != 3 or any(len(frame) % 4 for frame in frames[:2]):
        sizes = list(map(len, frames))
        raise ValueError(f"a batch is two frames of int32 and a traceparent, not {len(frames)} of {sizes} bytes")
    lengths, ids = (np.frombuffer(frame, "<i4") for frame in frames[:2])
    if len(lengths) and lengths.min() < 1:
        raise ValueError("a text holds at least one token")
    total = int(lengths.sum(dtype=np.int64))
    if total != len(ids):
        raise ValueError(f"the lengths add up to {total} tokens, but {len(ids)} are there")
    return Batch(ids, lengths, ReceivedTrace(frames[2]) if frames[2] else None)


def vector_frames(number: bytes, vectors: Vectors, batch: Batch = NOTHING) -> list[bytes | memoryview]:
    """Without a copy of the vectors, which must not change before the frames are sent; and what was told of ``batch``, which
    came in a message."""
    rows = np.ascontiguousarray(vectors, "<f4").data if vectors.size else b""
    return [number, b"", rows, batch.trace.frame if isinstance(batch.trace, ReceivedTrace) else b""]


def error_frames(number: bytes, error: Exception) -> list[bytes]:
    verdict = UNREADY if isinstance(error, NotReady) else LOST if isinstance(error, WorkerLost) else REFUSED
    return [number, verdict, str(error).encode(), b""]


def read_error(verdict: bytes, reason: bytes) -> EngineError | NotReady:
    kinds: dict[bytes, type[EngineError | NotReady]] = {UNREADY: NotReady, LOST: WorkerLost}
    return kinds.get(verdict, EngineError)(reason.decode())


def read_vectors(frame: bytes, texts: int) -> Vectors:
    """float32 [texts, dimensions]. Raises ``ValueError`` where the frame is not one finite vector per text."""
    if len(frame) % (4 * texts) or not frame:
        raise ValueError(f"{len(frame)} bytes are not {texts} vectors of float32")
    vectors = np.frombuffer(frame, "<f4").reshape(texts, -1)
    if not np.isfinite(vectors).all():
        raise ValueError("a vector is not finite")
    return vectors


def read_computed(frame: bytes) -> tuple[str, int, int]:
    """What ``BatchTrace.computed`` is told. Raises ``ValueError`` where the frame is not two times and a name."""
    if len(frame) < WHEN.size:
        raise ValueError(f"{len(frame)} bytes do not say when a batch was computed")
    began_ns, ended_ns = WHEN.unpack_from(frame)
    return frame[WHEN.size :].decode(), began_ns, ended_ns


def _bytes(numbers: NDArray[np.int32], dtype: str) -> bytes:
    return numbers.astype(dtype, copy=False).tobytes()
