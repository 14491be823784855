"""A run as pictures: throughput case by case, and latency against the number of clients."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.cases import ALL_CASES, Case
from benchmarks.records import Run

COLOURS = {
    "ours-openvino": "#0b6e4f",
    "ours-openvino-cached": "#08a045",
    "ours-sglang": "#2274a5",
    "sglang-tuned": "#e08e45",
    "sglang-stock": "#b3541e",
    "infinity": "#8a6fa8",
    "naive": "#888888",
    "loop-openvino": "#c8c8c8",
}
# One short text a request, from few clients to many.
LADDER = {"1x1": 1, "32x1": 32, "256x1": 256}


def plot(run: Run, folder: Path) -> None:
    """Write throughput.png and latency.png; what was not measured is left out."""
    shown = [case for case in ALL_CASES if any(_embeddings_per_s(run, case, name) for name in case.contenders)]
    if shown:
        columns = min(3, len(shown))
        rows = -(-len(shown) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns, 2.6 * rows), squeeze=False, layout="constrained")
        for axis, case in zip(axes.flat, shown, strict=False):
            _bars(axis, run, case)
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        figure.suptitle("Embeddings per second")
        figure.savefig(folder / "throughput.png", dpi=110)
        plt.close(figure)
    if any(len(_ladder_points(run, name)) > 1 for name in COLOURS):
        figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
        _ladder(axis, run)
        figure.savefig(folder / "latency.png", dpi=110)
        plt.close(figure)


def _bars(axis: Axes, run: Run, case: Case) -> None:
    measured = [(name, _embeddings_per_s(run, case, name)) for name in reversed(case.contenders)]
    found = {name: value for name, value in measured if value}
    bars = axis.barh(list(found), list(found.values()), color=[COLOURS[name] for name in found])
    axis.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8)
    axis.margins(x=0.16)
    axis.set_title(f"{case.model}: {case.title}", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _ladder(axis: Axes, run: Run) -> None:
    for name, colour in COLOURS.items():
        points = _ladder_points(run, name)
        if not points:
            continue
        axis.plot([rate for rate, _, _ in points], [p50 for _, p50, _ in points], marker="o", color=colour, label=name)
        for rate, p50, clients in points:
            axis.annotate(str(clients), (rate, p50), textcoords="offset points", xytext=(5, 4), fontsize=7)
    axis.set(xscale="log", yscale="log", xlabel="requests per second", ylabel="p50 in ms")
    axis.set_title("Latency against load: tiny, one short text a request; the number is the clients'", fontsize=9)
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)


def _ladder_points(run: Run, contender: str) -> list[tuple[float, float, int]]:
    """Requests per second, p50 in ms, and the clients that made them."""
    points = [
        (run.figure("tiny", case, contender, "requests_per_s"), run.figure("tiny", case, contender, "p50_ms"), clients)
        for case, clients in LADDER.items()
    ]
    return [(rate, p50, clients) for rate, p50, clients in points if rate and p50]


def _embeddings_per_s(run: Run, case: Case, contender: str) -> float | None:
    return run.figure(case.model, case.name, contender, "embeddings_per_s")
