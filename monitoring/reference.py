"""Writes ``docs/metrics.md`` from the metrics themselves: ``python -m monitoring.reference``; ``make metrics-doc`` runs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from prometheus_client.metrics import MetricWrapperBase

from launcher.telemetry.hooks import CacheLevel, ProcessState, Reason, Stage, Task
from launcher.telemetry.metrics import Metrics, ProcessMetrics, Registry

PAGE = Path(__file__).parents[1] / "docs/metrics.md"
MODEL_LABELS = ("name", "fingerprint", "engine", "dtype")
VALUES = {"task": Task, "stage": Stage, "reason": Reason, "level": CacheLevel, "state": ProcessState}
FREE = {
    "status": "the HTTP status; 499: the client had gone",
    "key": "the name of an API key, as in the server's own list of keys",
    "process": "`worker 0` …, and `gateway 0` … where there are several",
    **dict.fromkeys(MODEL_LABELS, "of the served model"),
}
HEAD = """# Metrics

`GET /metrics` shows these, in Prometheus' text format. It needs no API key and does not wait for the engine. Names begin with
`embedding_`; units are seconds, tokens and numbers of things. All series but those of a status or of an API key are there from
the first scrape on, at 0. Where there are several gateway processes, each shows what all of them counted.

With `engine.sglang.metrics: true` the metrics that SGLang keeps itself are shown too, under its names (`sglang:...`) and with
the label `process`: some 270 series a worker, most of them about generating text and 0 for ever, since batches do not pass
SGLang's scheduler. Memory, the times of its start and its processes' CPU are true: `sglang:weight_memory_usage_gb`,
`sglang:startup_time_seconds`, `sglang:scheduler_process_cpu_seconds_total`. They begin anew when a worker does.

This page is written by `make metrics-doc`, and a test holds it to the code.

"""


def page() -> str:
    rows = ["| metric | type | labels | |", "| --- | --- | --- | --- |", *map(row, sorted(shown(), key=lambda each: each[0]))]
    labels = ["| label | values |", "| --- | --- |"]
    labels += [f"| `{name}` | {', '.join(f'`{value}`' for value in get_args(values))} |" for name, values in VALUES.items()]
    labels += [f"| `{name}` | {text} |" for name, text in FREE.items()]
    return HEAD + "\n".join(rows) + "\n\n## Labels\n\n" + "\n".join(labels) + "\n"


def shown() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Of each metric its name as it is scraped, its type, its labels and what it says of itself."""
    registry = Registry()
    Metrics(registry, dict.fromkeys(MODEL_LABELS, ""), ready=lambda: True)
    ProcessMetrics(registry, [])
    for metric in registry._collector_to_names:
        assert isinstance(metric, MetricWrapperBase)
        (described,) = metric.describe()
        suffix = "_total" if described.type == "counter" else ""
        yield described.name + suffix, described.type, tuple(metric._labelnames), described.documentation


def row(metric: tuple[str, str, tuple[str, ...], str]) -> str:
    name, kind, labels, text = metric
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
