"""What a run must show, as ratios between contenders of that same run."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

from benchmarks.records import Run

COMPARISONS = {"≥": operator.ge, "≤": operator.le}


@dataclass(frozen=True)
class Bar:
    """``figure`` of ``ours`` in a case, divided by that of ``other``; undivided where there is no other."""

    model: str
    case: str
    figure: str
    ours: str
    other: str | None
    comparison: Literal["≥", "≤"]
    limit: float


@dataclass(frozen=True)
class Verdict:
    """``ratio`` is None where a run left one of the two out."""

    bar: Bar
    ratio: float | None
    passed: bool | None


BARS = (
    Bar("tiny", "32x1", "requests_per_s", "ours-sglang", "sglang-tuned", "≥", 4.5),
    Bar("tiny", "32x1", "requests_per_s", "ours-sglang", "sglang-stock", "≥", 9),
    Bar("tiny", "8x32", "embeddings_per_s", "ours-sglang", "sglang-tuned", "≥", 4),
    Bar("tiny", "8x32", "embeddings_per_s", "ours-sglang", "sglang-stock", "≥", 8),
    Bar("tiny", "1x1", "p50_ms", "ours-sglang", "sglang-tuned", "≤", 1 / 2),
    Bar("tiny", "1x1", "p50_ms", "ours-sglang", "sglang-stock", "≤", 1 / 12),
    Bar("tiny", "32x1", "requests_per_s", "ours-openvino", "infinity", "≥", 4.5),
    Bar("tiny", "8x32", "embeddings_per_s", "ours-openvino", "infinity", "≥", 2),
    Bar("tiny", "8x32", "embeddings_per_s", "ours-openvino", "loop-openvino", "≥", 0.75),
    Bar("tiny", "1x1", "p50_ms", "ours-openvino", "infinity", "≤", 1 / 10),
    Bar("large", "1x1", "p50_ms", "ours-openvino", "infinity", "≤", 0.42),
    Bar("large", "4x8-64", "tokens_per_s", "ours-openvino", "infinity", "≥", 1.15),
    Bar("large", "4x8-64", "tokens_per_s", "ours-openvino", "loop-openvino", "≥", 0.93),
    Bar("large", "4x8-64", "tokens_per_s", "ours-sglang", "sglang-tuned", "≥", 1.15),
    Bar("large", "repeated", "requests_per_s", "ours-openvino-cached", "ours-openvino", "≥", 5),
    Bar("large", "ingest", "wait_in_batches", "ours-openvino", None, "≤", 2),
    Bar("large", "ingest", "wait_in_batches", "ours-sglang", None, "≤", 2),
    Bar("tiny", "memory", "gateway_above_model_mb", "ours-openvino", None, "≤", 150),
    Bar("tiny", "memory", "gateway_above_model_mb", "ours-sglang", None, "≤", 150),
    Bar("large", "memory", "gateway_above_model_mb", "ours-openvino", None, "≤", 150),
)


def judge(run: Run) -> list[Verdict]:
    return [_verdict(bar, _ratio(run, bar)) for bar in BARS]


def _ratio(run: Run, bar: Bar) -> float | None:
    ours = run.figure(bar.model, bar.case, bar.ours, bar.figure)
    if bar.other is None or ours is None:
        return ours
    other = run.figure(bar.model, bar.case, bar.other, bar.figure)
    return ours / other if other else None


def _verdict(bar: Bar, ratio: float | None) -> Verdict:
    return Verdict(bar, ratio, None if ratio is None else COMPARISONS[bar.comparison](ratio, bar.limit))
