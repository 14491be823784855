"""What happened, as Prometheus metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from launcher.telemetry.counts import WorkerCounts
from launcher.telemetry.hooks import CacheLevel, ProcessState, Reason, Stage, Task

# Read by prometheus_client when it is imported.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
Registry = CollectorRegistry
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
POWERS_OF_FOUR = tuple(4.0**n for n in range(9))
# How a gauge's values in several processes become one.
Mode = Literal["livesum", "livemax", "livemostrecent"]


class Metrics:
    """Implements ``Hooks``. All series without a free label exist at 0 from the first scrape on.

    Where several gateway processes count together, ``folder`` is where: each must have been started with ``FOLDER_VARIABLE``
    naming it, and each then shows what all of them counted.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        model_info: Mapping[str, str],
        ready: Callable[[], bool],
        folder: Path | None = None,
    ) -> None:
        self._registry = registry
        self._ready = ready
        self._folder = folder

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"embedding_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"embedding_{name}", text, labels, buckets=buckets, registry=registry)

        def gauge(name: str, text: str, mode: Mode, *labels: str) -> Gauge:
            return Gauge(f"embedding_{name}", text, labels, multiprocess_mode=mode, registry=registry)

        # What a key's limit refuses is no load that more servers could take.
        offered = counter("requests_offered", "Requests that arrived, but for those refused for their API key.", "task")
        rejected = counter("requests_rejected", "Requests and connections that got an error; probes are left out.", "reason")
        requests = counter("requests", "Requests answered.", "task", "status")
        duration = histogram("request_duration_seconds", "From the request's head to the reply's end.", SECONDS, "task")
        stages = histogram("stage_duration_seconds", "Time of one request in one stage.", SECONDS, "stage")
        self._inputs = counter("inputs", "Inputs answered.")
        self._tokens = counter("tokens", "Tokens of answered inputs, special tokens included.")
        self._truncated = counter("truncated_inputs", "Inputs cut to the model's limit.")
        cached = counter("cached_inputs", "Inputs answered from the cache.", "level")
        self._deduplicated = counter("deduplicated_inputs", "Inputs that got the vector of an equal one under way.")
        self._batch_inputs = histogram("batch_inputs", "Inputs in one engine batch.", POWERS_OF_FOUR)
        self._batch_tokens = histogram("batch_tokens", "Tokens in one engine batch.", POWERS_OF_FOUR)
        self._batch_duration = histogram("batch_duration_seconds", "Time of one engine batch.", SECONDS)
        self._key_requests = counter("key_requests", "Requests with this API key, refused ones included.", "key")
        self._key_limited = counter("key_limited_requests", "Requests refused because the key's limits were used up.", "key")
        self._key_tokens = counter("key_tokens", "Tokens of inputs answered for this API key.", "key")
        under_way = gauge("requests_in_flight", "Requests that have arrived and are not answered yet.", "livesum", "task")
        self._in_flight = gauge("tokens_in_flight", "Tokens waiting or running.", "livesum")
        # As the process that is asked sees it: it sets the value just before it shows it.
        self._is_ready = gauge("ready", "1 while new requests are taken.", "livemostrecent")
        # An ``Info`` cannot be shared among processes.
        gauge("model_info", "The vector space served.", "livemax", *model_info).labels(**model_info).set(1)
        # Looking a series up by its labels costs more than counting in it.
        self._stages = {stage: stages.labels(stage) for stage in get_args(Stage)}
        self._cached = {level: cached.labels(level) for level in get_args(CacheLevel)}
        self._callers: dict[str, _Caller] = {}
        self._rejected = {reason: rejected.labels(reason) for reason in get_args(Reason)}
        self._tasks = {task: _Task(task, offered, requests, duration, under_way) for task in get_args(Task)}

    def offered(self, task: Task) -> None:
        series = self._tasks[task]
        series.offered.inc()
        series.in_flight.inc()

    def answered(self, task: Task, status: int, seconds: float) -> None:
        series = self._tasks[task]
        series.answered(status).inc()
        series.duration.observe(seconds)
        series.in_flight.dec()

    def rejected(self, reason: Reason) -> None:
        self._rejected[reason].inc()

    def stage(self, stage: Stage, seconds: float) -> None:
        self._stages[stage].observe(seconds)

    def inputs(self, count: int, tokens: int, truncated: int) -> None:
        self._inputs.inc(count)
        self._tokens.inc(tokens)
        if truncated:
            self._truncated.inc(truncated)

    def spared(self, cached: Mapping[CacheLevel, int], deduplicated: int) -> None:
        for level, count in cached.items():
            self._cached[level].inc(count)
        if deduplicated:
            self._deduplicated.inc(deduplicated)

    def batch(self, inputs: int, tokens: int, seconds: float) -> None:
        self._batch_inputs.observe(inputs)
        self._batch_tokens.observe(tokens)
        self._batch_duration.observe(seconds)

    def callers(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._callers:
                self._callers[name] = _Caller(name, self._key_requests, self._key_limited, self._key_tokens)

    def called(self, name: str) -> None:
        self._callers[name].requests.inc()

    def limited(self, name: str) -> None:
        self._callers[name].limited.inc()

    def spent(self, name: str, tokens: int) -> None:
        self._callers[name].tokens.inc(tokens)

    def tokens_in_flight(self, tokens: int) -> None:
        self._in_flight.set(tokens)

    def render(self) -> bytes:
        self._is_ready.set(float(self._ready()))
        return generate_latest(everyones(self._folder) if self._folder else self._registry)


class ProcessMetrics:
    """Implements ``ProcessHooks`` for these ``processes``. All series exist at 0 from the first scrape on."""

    def __init__(self, registry: CollectorRegistry, processes: Sequence[str]) -> None:
        states = Gauge(
            "embedding_process_state",
            "1 for the state in which a process of this server is.",
            ["process", "state"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        restarts = Counter(
            "embedding_process_restarts", "Processes started in the place of one that ended.", ["process"], registry=registry
        )
        self._loaded = Gauge(
            "embedding_model_load_seconds",
            "From the engine's start until its self-test was passed.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._states = {
            process: {state: states.labels(process, state) for state in get_args(ProcessState)} for process in processes
        }
        self._restarts = {process: restarts.labels(process) for process in processes}

    def model_loaded(self, seconds: float) -> None:
        self._loaded.set(seconds)

    def process_state(self, process: str, state: ProcessState) -> None:
        for candidate, series in self._states[process].items():
            series.set(candidate == state)

    def process_restart(self, process: str) -> None:
        self._restarts[process].inc()


@contextmanager
def counting_in(folder: Path) -> Iterator[None]:
    """What is made meanwhile counts in ``folder``, in a process that was started without ``FOLDER_VARIABLE``.

    The variable is not left behind: other programs that this process starts would take it for theirs.
    """
    os.environ[FOLDER_VARIABLE] = str(folder)
    kept, values.ValueClass = values.ValueClass, values.MultiProcessValue()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        values.ValueClass = kept
        del os.environ[FOLDER_VARIABLE]


def everyones(folder: Path) -> CollectorRegistry:
    """What all processes that count in ``folder`` have counted."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(WorkerCounts(folder))
    return registry


def forget_process(pid: int, folder: Path) -> None:
    """After a process's end: what it measured is true no more; what it counted stays."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class _Task:
    """The series of one task."""

    def __init__(self, task: Task, offered: Counter, requests: Counter, duration: Histogram, in_flight: Gauge) -> None:
        self.offered = offered.labels(task)
        self.duration = duration.labels(task)
        self.in_flight = in_flight.labels(task)
        self._requests = requests
        self._task = task
        self._answered: dict[int, Counter] = {}
        self.answered(200)

    def answered(self, status: int) -> Counter:
        series = self._answered.get(status)
        if series is None:
            series = self._answered[status] = self._requests.labels(self._task, str(status))
        return series


class _Caller:
    """The series of one API key. They stay when the key goes: a counter that vanishes looks like a restart."""

    def __init__(self, name: str, requests: Counter, limited: Counter, tokens: Counter) -> None:
        self.requests = requests.labels(name)
        self.limited = limited.labels(name)
        self.tokens = tokens.labels(name)
