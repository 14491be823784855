"""What a gateway and who computes for it say to each other, as ZeroMQ frames (both sides; NumPy only).

    batch:  number | lengths of the texts, int32 [n] | ids of all texts end to end, int32 [sum of the lengths]
    answer: number | empty | vectors, float32 [n x dimensions]
        or: number | REFUSED, LOST or UNREADY | why

All numbers are little-endian. An answer carries its batch's number, since a worker may be asked by several gateways and an
asker may have gone. A batch without texts is a question whether the worker is there.
"""

from __future__ import annotations

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


def batch_frames(number: int, batch: Batch) -> list[bytes]:
    return [number.to_bytes(NUMBER_BYTES, "little"), _bytes(batch.lengths, "<i4"), _bytes(batch.ids, "<i4")]


def read_batch(frames: Sequence[bytes]) -> Batch:
    """The batch in the frames after the number. Raises ``ValueError`` where they are none."""
    if len(frames) != 2 or any(len(frame) % 4 for frame in frames):
        raise ValueError(f"a batch is two frames of int32, not {len(frames)} of {list(map(len, frames))} bytes")
    lengths, ids = (np.frombuffer(frame, "<i4") for frame in frames)
    if len(lengths) and lengths.min() < 1:
        raise ValueError("a text holds at least one token")
    total = int(lengths.sum(dtype=np.int64))
    if total != len(ids):
        raise ValueError(f"the lengths add up to {total} tokens, but {len(ids)} are there")
    return Batch(ids, lengths)


def vector_frames(number: bytes, vectors: Vectors) -> list[bytes | memoryview]:
    """Without a copy of the vectors, which must not change before the frames are sent."""
    return [number, b"", np.ascontiguousarray(vectors, "<f4").data if vectors.size else b""]


def error_frames(number: bytes, error: Exception) -> list[bytes]:
    verdict = UNREADY if isinstance(error, NotReady) else LOST if isinstance(error, WorkerLost) else REFUSED
    return [number, verdict, str(error).encode()]


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


def _bytes(numbers: NDArray[np.int32], dtype: str) -> bytes:
    return numbers.astype(dtype, copy=False).tobytes()
