"""A run as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.bars import Bar, Verdict, judge
from benchmarks.cases import ALL_CASES, Case
from benchmarks.models import MODELS
from benchmarks.records import Measurement, Run

FIGURES = {
    "requests_per_s": "requests/s",
    "embeddings_per_s": "embeddings/s",
    "tokens_per_s": "tokens/s",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "cpu_ms_per_embedding": "CPU ms per embedding",
    "other_cores": "cores busy with else",
    "p95_alone_ms": "p95 alone ms",
    "p50_beside_ms": "p50 beside ms",
    "p95_beside_ms": "p95 beside ms",
    "queries_beside": "queries beside",
    "batch_ms": "batch ms",
    "wait_in_batches": "longer by, in batches",
    "gateway_mb": "main process MB",
    "all_mb": "all processes MB",
    "gateway_above_model_mb": "main process above the model MB",
}
MEMORY = "memory"


def markdown(run: Run) -> str:
    parts = [
        f"# Benchmark of {run.date[:10]}",
        _facts(run),
        *(["**A quick run: it shows that everything works, and its figures tell nothing.**"] if run.quick else []),
        *_bars(run),
        *(part for case in ALL_CASES for part in _case(run, case)),
        *(part for model in MODELS for part in _section(f"{model}: {MODELS[model].title}: memory", _found(run, model, MEMORY))),
        "## Started as",
        *(
            f"{s.model}, {s.contender} (first reply after {s.seconds_to_first_reply:.1f} s):\n\n    {s.command}"
            for s in run.started
        ),
    ]
    return "\n\n".join(parts) + "\n"


def describe(bar: Bar) -> str:
    return f"{bar.model}, {_title(bar)}: {FIGURES[bar.figure]}, {bar.ours}"


def _title(bar: Bar) -> str:
    return next((case.title for case in ALL_CASES if (case.model, case.name) == (bar.model, bar.case)), bar.case)


def _facts(run: Run) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in run.machine.items())
    return f"{machine}; load per core before the start {run.load_per_core:.2f}\n\n" + ", ".join(
        f"{name} {version}" for name, version in run.versions.items()
    )


def _bars(run: Run) -> list[str]:
    """There are none for the models of a GPU."""
    measured = {found.model for found in run.measurements}
    verdicts = [verdict for verdict in judge(run) if verdict.bar.model in measured]
    return ["## Bars", _verdicts(verdicts)] if verdicts else []


def _verdicts(verdicts: Iterable[Verdict]) -> str:
    words = {True: "yes", False: "**no**", None: "not measured"}
    return table(
        ["figure", "against", "wanted", "measured", "held"],
        [
            [
                describe(verdict.bar),
                verdict.bar.other or "",
                f"{verdict.bar.comparison} {number(verdict.bar.limit)}",
                "" if verdict.ratio is None else number(verdict.ratio),
                words[verdict.passed],
            ]
            for verdict in verdicts
        ],
    )


def _case(run: Run, case: Case) -> list[str]:
    return _section(f"{case.model}: {case.title}", _found(run, case.model, case.name))


def _found(run: Run, model: str, case: str) -> list[Measurement]:
    return [found for found in run.measurements if (found.model, found.case) == (model, case)]


def _section(title: str, measurements: Sequence[Measurement]) -> list[str]:
    if not measurements:
        return []
    columns = [name for name in FIGURES if any(name in found.median for found in measurements)]
    rows = [
        [found.contender, *([f"failed: {found.error.splitlines()[0]}"] if found.error else _cells(found, columns))]
        for found in measurements
    ]
    return [f"## {title}", table(["", *(FIGURES[name] for name in columns)], rows)]


def _cells(measurement: Measurement, columns: Iterable[str]) -> list[str]:
    return [number(measurement.median[name]) if name in measurement.median else "" for name in columns]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits, as many as the repetitions agree in."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
