"""Our OpenVINO encoder called in a loop: what the arithmetic alone allows on this machine.

The texts are tokenized beforehand, and nothing is encoded as JSON: only ``Encoder.encode`` is in the loop, with the texts
of one request a call.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import busy_s
from benchmarks.records import Figures
from launcher.config.schema import Model
from launcher.embedding.tokens import Tokenizer
from launcher.engines.base import Batch, Vectors
from launcher.engines.openvino.encoder import Encoder
from launcher.models.checkpoint import read_checkpoint


class Loop:
    def __init__(self, folder: Path, dtype: str) -> None:
        checkpoint = read_checkpoint(folder, Model())
        self._tokenizer = Tokenizer(folder, checkpoint.max_tokens, checkpoint.shape.vocab_size)
        self._encoder = Encoder(checkpoint, dtype=dtype, threads=0)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        return np.concatenate([self._encoder.encode(self.batch([text])).vectors for text in texts])

    def batch(self, texts: Sequence[str]) -> Batch:
        ids = [item.ids for item in self._tokenizer.encode(list(texts), "end")]
        return Batch(np.concatenate(ids), np.fromiter(map(len, ids), np.int32, len(ids)))

    def repeat(self, batches: Sequence[Batch], seconds: float) -> Figures:
        """Go through ``batches`` again and again."""
        latencies_s: list[float] = []
        inputs = tokens = 0
        busy_before, cpu_before, began = busy_s(), time.process_time(), time.perf_counter()
        end = began
        while end - began < seconds:
            batch = batches[len(latencies_s) % len(batches)]
            started = end
            self._encoder.encode(batch)
            end = time.perf_counter()
            latencies_s.append(end - started)
            inputs += len(batch.lengths)
            tokens += len(batch.ids)
        cpu_s = time.process_time() - cpu_before
        p50, p95, p99 = (float(p) * 1e3 for p in np.percentile(latencies_s, (50, 95, 99)))
        return {
            "requests_per_s": len(latencies_s) / (end - began),
            "embeddings_per_s": inputs / (end - began),
            "tokens_per_s": tokens / (end - began),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "cpu_ms_per_embedding": cpu_s * 1e3 / inputs,
            "other_cores": (busy_s() - busy_before - cpu_s) / (end - began),
        }


def main(folder: str, dtype: str, what: str, *arguments: str) -> None:
    """``vectors``: texts as JSON on standard input, an array file on standard output. ``loop BODIES WARMUP_S SECONDS
    REPETITIONS``: figures as JSON on standard output."""
    loop = Loop(Path(folder), dtype)
    if what == "vectors":
        np.save(sys.stdout.buffer, loop.vectors(json.load(sys.stdin)))
        return
    bodies, warmup_s, seconds, repetitions = arguments
    batches = [loop.batch(json.loads(body)["input"]) for body in Path(bodies).read_bytes().splitlines()]
    loop.repeat(batches, float(warmup_s))
    print(json.dumps([loop.repeat(batches, float(seconds)) for _ in range(int(repetitions))]))


if __name__ == "__main__":
    main(*sys.argv[1:])
