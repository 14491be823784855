"""Batches that say whose traces they are part of; where tracing is on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from launcher.engines.base import Batch
from launcher.scheduling.batcher import pack_batch
from launcher.scheduling.queue import Piece
from launcher.telemetry.tracing import Tracer


class TracedPacking:
    """Packs as ``pack_batch`` does."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __call__(self, pieces: Sequence[Piece]) -> Batch:
        began = time.perf_counter()
        batch = pack_batch(pieces)
        # Each once, in their order: a request may have several pieces in a batch that is tried again.
        traces = list(dict.fromkeys(trace for piece in pieces for trace in piece.job.traces))
        if not traces:
            return batch
        return replace(batch, trace=self._tracer.batch(traces, len(batch.lengths), len(batch.ids), began))
