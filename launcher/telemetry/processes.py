"""What happened to the processes of a server, and within them, as Prometheus metrics."""

from __future__ import annotations

import gc
import platform
from collections.abc import Sequence
from typing import get_args

from prometheus_client import Counter, Gauge

from launcher.telemetry.hooks import ProcessState, Result
from launcher.telemetry.lines import SERVER
from launcher.telemetry.registry import Mode, Registry
from launcher.telemetry.usage import UsageMetrics


class ProcessMetrics:
    """Implements ``ProcessHooks`` for a server with these ``workers`` and ``gateways``, in the process that starts them. All
    series that are counted exist at 0 from the first scrape on."""

    def __init__(self, registry: Registry, workers: Sequence[str], gateways: Sequence[str] = ()) -> None:
        started = [*workers, *gateways]

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"embedding_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, mode: Mode, *labels: str) -> Gauge:
            return Gauge(f"embedding_{name}", text, labels, multiprocess_mode=mode, registry=registry)

        states = gauge("process_state", "1 for the state in which a process of this server is.", "livesum", "process", "state")
        restarts = counter("process_restarts", "Processes started in the place of one that ended.", "process")
        self_tests = counter("self_tests", "Self-tests of an engine before it may answer.", "process", "result")
        checks = counter("watchdog_checks", "Checks of a worker, every 5 s: its vector of one text.", "process", "result")
        self._loaded = gauge("model_load_seconds", "From the engine's start until its self-test was passed.", "livemax")
        self._padding = counter(
            "padding_tokens",
            "Positions that the engine computed and that held no token. SGLang's workers lay texts end to end: 0. What their "
            "CUDA graphs round a batch of up to 512 tokens up by is not counted.",
        )
        self._states = {name: {state: states.labels(name, state) for state in get_args(ProcessState)} for name in started}
        self._restarts = {name: restarts.labels(name) for name in started}
        # An engine without workers is in the process that was started.
        self._self_tests = {name: results(self_tests, name) for name in workers or [SERVER]}
        self._checks = {name: results(checks, name) for name in workers}
        self._usage = UsageMetrics(registry, started)

    def model_loaded(self, seconds: float) -> None:
        self._loaded.set(seconds)

    def process_started(self, process: str, pid: int) -> None:
        self._usage.started(process, pid)

    def process_state(self, process: str, state: ProcessState) -> None:
        for candidate, series in self._states[process].items():
            series.set(candidate == state)
        if state == "dead":
            self._usage.ended(process)

    def process_restart(self, process: str) -> None:
        self._restarts[process].inc()

    def self_test(self, process: str, result: Result) -> None:
        self._self_tests[process][result].inc()

    def watchdog_check(self, process: str, result: Result) -> None:
        self._checks[process][result].inc()

    def padding(self, tokens: int) -> None:
        self._padding.inc(tokens)


class PythonMetrics:
    """Of this process, called ``process``."""

    def __init__(self, registry: Registry, process: str) -> None:
        collections = Counter(
            "embedding_python_gc_collections",
            "Searches for garbage in cycles, which hold up all else in their process.",
            ["process", "generation"],
            registry=registry,
        )
        self._collections = [collections.labels(process, str(generation)) for generation in range(len(gc.get_stats()))]
        self._known = [0] * len(self._collections)
        Gauge(
            "embedding_python_info",
            "What runs the server.",
            ["version", "implementation"],
            multiprocess_mode="livemax",
            registry=registry,
        ).labels(platform.python_version(), platform.python_implementation()).set(1)
        registry.on_refresh(self._refresh)

    def _refresh(self) -> None:
        now = [generation["collections"] for generation in gc.get_stats()]
        for series, known, count in zip(self._collections, self._known, now, strict=True):
            series.inc(count - known)
        self._known = now


def results(counter: Counter, process: str) -> dict[Result, Counter]:
    return {result: counter.labels(process, result) for result in get_args(Result)}
