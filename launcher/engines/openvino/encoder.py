"""A loaded model: batches in, unit vectors out, on the calling thread."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import openvino as ov

from launcher.config.schema import WeightFormat
from launcher.engines.base import Batch, Vectors
from launcher.engines.openvino.graph import build_bert
from launcher.engines.openvino.int8 import Int8Weights
from launcher.engines.openvino.pooling import kept_tokens, mean_states, unit_rows, widened
from launcher.engines.openvino.rows import Run, arrange, fill, padded, run_cost
from launcher.engines.openvino.threads import usable_threads
from launcher.engines.openvino.weights import MappedWeights
from launcher.errors import EngineError
from launcher.models.checkpoint import Checkpoint

PRECISIONS = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16}


class Encoded(NamedTuple):
    """``vectors`` as of ``Engine.run``; ``padding`` counts the positions that were computed for them and held no token."""

    vectors: Vectors
    padding: int


class Encoder:
    """``encode`` may be called from one thread at a time."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: str, weights: WeightFormat = "dtype", threads: int) -> None:
        """Raises ``ModelError`` where the checkpoint is unusable, ``EngineError`` where OpenVINO cannot take it."""
        self._pooling = checkpoint.pooling
        self._dimensions = checkpoint.dimensions
        self._run_cost = run_cost(checkpoint.shape.hidden_size)
        # Kept: OpenVINO goes on reading the mapping, and Python must not end it.
        mapped = MappedWeights(checkpoint.weights, bfloat16_tables=dtype == "bfloat16")
        self._weights = Int8Weights(mapped) if weights == "int8" else mapped
        graph = build_bert(checkpoint.shape, self._weights, keep_all=self._pooling == "mean", states=PRECISIONS[dtype])
        try:
            compiled = ov.Core().compile_model(graph, "CPU", compile_options(dtype, threads))
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile the model: {error}") from error
        self._request = compiled.create_infer_request()
        self.encode(Batch(np.zeros(1, np.int32), np.ones(1, np.int32)))
        # That call has laid the weights out for the CPU in memory of OpenVINO's own; the mapped ones have done their part.
        self._weights.forget_pages()

    def encode(self, batch: Batch) -> Encoded:
        """Raises as ``Engine.run``."""
        offsets = np.cumsum(batch.lengths) - batch.lengths
        vectors = np.empty((len(batch.lengths), self._dimensions), np.float32)
        positions = 0
        try:
            for run in arrange(batch.lengths.tolist(), self._run_cost):
                positions += run.rows * run.width
                vectors[run.inputs] = self._encode_run(run, batch, offsets)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on {len(batch.lengths)} inputs of {len(batch.ids)} tokens: {error}") from error
        return Encoded(vectors, positions - len(batch.ids))

    def _encode_run(self, run: Run, batch: Batch, offsets: np.ndarray) -> Vectors:
        kept = kept_tokens(self._pooling, run.starts, run.lengths)
        if kept is None:
            return unit_rows(mean_states(self._infer(fill(run, batch, offsets)), run.starts, run.lengths))
        return unit_rows(self._infer([*fill(run, batch, offsets), padded(kept)])[: len(kept)])

    def _infer(self, inputs: list[np.ndarray]) -> Vectors:
        request = self._request
        for place, numbers in enumerate(inputs):
            # Shared: OpenVINO reads numpy's memory as it is. What is kept of the result is copied.
            request.set_input_tensor(place, ov.Tensor(numbers, shared_memory=True))
        # ``infer`` computes a part in this thread, and takes 80 us longer for one short text and 160 us for 32 (2-layer model,
        # 2 cores of an Intel Xeon, 2026-11-22).
        request.start_async()
        request.wait()
        states = request.get_output_tensor(0)
        result: Vectors = states.data if states.element_type == ov.Type.f32 else widened(states.data)
        return result


def compile_options(dtype: str, threads: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        # All threads on one batch: the shortest wait, and continuous batching brings the throughput.
        "PERFORMANCE_HINT": "LATENCY",
        # Threads tied to cores would queue up behind another process that ties its own to the same.
        "ENABLE_CPU_PINNING": False,
    }
    if limit := usable_threads(threads):
        options["INFERENCE_NUM_THREADS"] = limit
    return options
