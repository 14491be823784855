"""Writes ``docs/metrics.md`` from the metrics themselves: ``python -m monitoring.reference``; ``make metrics-doc`` runs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from prometheus_client.metrics import MetricWrapperBase

from launcher.telemetry.gpus import GpuMetrics
from launcher.telemetry.hooks import CacheLevel, ProcessState, Reason, Result, Stage, Status, Task
from launcher.telemetry.lines import SERVER
from launcher.telemetry.metrics import Metrics
from launcher.telemetry.processes import ProcessMetrics, PythonMetrics
from launcher.telemetry.registry import Registry

PAGE = Path(__file__).parents[1] / "docs/metrics.md"
MODEL_LABELS = ("name", "fingerprint", "engine", "dtype")
VALUES = {
    "task": Task,
    "status": Status,
    "stage": Stage,
    "reason": Reason,
    "level": CacheLevel,
    "state": ProcessState,
    "result": Result,
}
FREE = {
    "key": "the name of an API key, as in the server's own list of keys",
    "process": "`server`: the process that was started; `worker 0` … with SGLang, and `gateway 0` … where there are several",
    "gpu": "as in CUDA_VISIBLE_DEVICES: a number or a UUID",
    "generation": "of Python's garbage collector: `0` is searched often, `2` is searched in whole",
    "version": "of Python",
    "implementation": "of Python",
    **dict.fromkeys(MODEL_LABELS, "of the served model"),
}
HEAD = """# Metrics

`GET /metrics` shows these, in Prometheus' text format, or in OpenMetrics for who asks for it: names and values are the same,
and there the duration of requests has the [traces](operations/tracing.md) of some as exemplars. It needs no API key and does
not wait for the engine. Names begin with `embedding_`; units are seconds, bytes, tokens and numbers of things. All that is
counted is there from the first scrape on, at 0, and nothing that a client sends adds a series; an API key has its own once the
server knows it. Where there are several gateway processes, each shows what all of them counted.

With `engine.sglang.metrics: true` the metrics that SGLang keeps itself are shown too, under its names (`sglang:...`) and with
the label `process`: some 270 series a worker, most of them about generating text and 0 for ever, since batches do not pass
SGLang's scheduler. Memory, the times of its start and its processes' CPU are true: `sglang:weight_memory_usage_gb`,
`sglang:startup_time_seconds`, `sglang:scheduler_process_cpu_seconds_total`. They begin anew when a worker does.

This page is written by `make metrics-doc`, and a test holds it to the code.

"""
TAIL = """
Once all are answered, `offered` = `accepted` + those refused after they were offered + those whose client had gone by then.
What was accepted may still fail.

A `status` of 499 says that the client had gone. Statuses that only come before a request asks the model, such as 401, are among
the rejected ones.

## What is measured and not counted

What waits, whether requests are taken, and what processes and GPUs use, is measured about once a second, each process by itself
or by the one that was started.

- A worker counts with all processes that it started. `embedding_process_cpu_seconds_total` goes on when a process is started
  anew (less what it used in its last second); `embedding_process_start_time_seconds` says when. While a process is dead its
  gauges are not there.
- GPUs are those of the server's SGLang workers, asked through NVML. Without a GPU or a driver, or where a GPU answers no more,
  their series are not there. CUDA and NVML number GPUs alike where they are of one kind; else set CUDA_DEVICE_ORDER to
  PCI_BUS_ID. This was tested with a stand-in for NVML and has not been run on a real GPU.
"""


def page() -> str:
    rows = ["| metric | type | labels | |", "| --- | --- | --- | --- |", *map(row, sorted(shown(), key=lambda each: each[0]))]
    labels = ["| label | values |", "| --- | --- |"]
    labels += [f"| `{name}` | {', '.join(f'`{value}`' for value in get_args(values))} |" for name, values in VALUES.items()]
    labels += [f"| `{name}` | {text} |" for name, text in FREE.items()]
    return HEAD + "\n".join(rows) + "\n\n## Labels\n\n" + "\n".join(labels) + "\n" + TAIL


def shown() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Of each metric its name as it is scraped, its type, its labels and what it says of itself."""
    registry = Registry()
    Metrics(registry, dict.fromkeys(MODEL_LABELS, ""), ready=lambda: True)
    ProcessMetrics(registry, [])
    PythonMetrics(registry, SERVER)
    GpuMetrics(registry, [], dict)
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
