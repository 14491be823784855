"""Takes the place of a Python with SGLang in it, and prints what a log finds hard to take.

``installed_at`` makes the program that ``engine.sglang.python`` names. Its vectors say nothing, but pass the self-test.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import zmq

from launcher.engines.base import Batch, Vectors
from launcher.engines.messages import read_batch, vector_frames

DIMENSIONS = 128
# A text of so many tokens ends it, as one may that the device cannot take.
DEADLY_TOKENS = 77
NOISE = (
    b'{"ts": "forged", "message": "half an object',
    "加载模型 100%|██████████| 1/1\r加载完毕".encode(),
    b"broken \xff\xfe bytes and \xe4\xbd half a character",
    b'"quotes" \\ and \x1b[31mcolours\x1b[0m and \x00 and \x0b',
)


def installed_at(path: Path) -> Path:
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {__name__}\n')
    path.chmod(0o755)
    return path


def vectors_of(batch: Batch) -> Vectors:
    made = [np.random.default_rng(int(ids.sum())).standard_normal(DIMENSIONS) for ids in texts_of(batch)]
    return np.array([vector / np.linalg.norm(vector) for vector in made], np.float32).reshape(-1, DIMENSIONS)


def texts_of(batch: Batch) -> list[np.ndarray]:
    return np.split(batch.ids, np.cumsum(batch.lengths)[:-1]) if len(batch.lengths) else []


def die_of(batch: Batch) -> None:
    try:
        raise MemoryError(f"CUDA out of memory: {len(batch.lengths)} texts")
    except MemoryError:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(os.environ["SGLEMBED_BATCHES"])
    while True:
        asker, number, *frames = socket.recv_multipart()
        batch = read_batch(frames)
        os.write(1, b"\n".join(NOISE) + b"\n")
        if DEADLY_TOKENS in batch.lengths:
            die_of(batch)
        began = time.perf_counter_ns()
        vectors = vectors_of(batch)
        if batch.trace:
            batch.trace.computed(os.environ["SGLEMBED_NAME"], began, time.perf_counter_ns())
        socket.send_multipart([asker, *vector_frames(number, vectors, batch)])


if __name__ == "__main__":
    main()
