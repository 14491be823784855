"""What happened, as Prometheus metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from prometheus_client import Counter, Gauge, Histogram, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from launcher.telemetry.counts import WorkerCounts
from launcher.telemetry.formats import Encode, plain
from launcher.telemetry.hooks import CacheLevel, Reason, Stage, Status, Task
from launcher.telemetry.registry import Mode, Registry
from launcher.telemetry.tallies import Tallies

# Read by prometheus_client when it is imported.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
POWERS_OF_FOUR = tuple(4.0**n for n in range(9))


class Metrics:
    """Implements ``Hooks``. All series exist at 0 from the first scrape on; those of an API key, once there is that key.

    Where several gateway processes count together, ``folder`` is where: each must have been started with ``FOLDER_VARIABLE``
    naming it, and each then shows what all of them counted.
    """

    def __init__(
        self,
        registry: Registry,
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
        accepted = counter(
            "requests_accepted", "Requests whose inputs were checked and given room, or found in the cache.", "task"
        )
        rejected = counter("requests_rejected", "Requests and connections that got an error; probes are left out.", "reason")
        requests = counter("requests", "Requests answered.", "task", "status")
        duration = histogram("request_duration_seconds", "From the request's head to the reply's end.", SECONDS, "task")
        stages = histogram("stage_duration_seconds", "Time of one request in one stage.", SECONDS, "stage")
        tallies = self._tallies = Tallies(soon=folder is not None)
        self._inputs = tallies.tally(counter("inputs", "Inputs answered."))
        self._tokens = tallies.tally(counter("tokens", "Tokens of answered inputs, special tokens included."))
        self._truncated = counter("truncated_inputs", "Inputs cut to the model's limit.")
        cached = counter("cached_inputs", "Inputs answered from the cache.", "level")
        self._deduplicated = counter("deduplicated_inputs", "Inputs that got the vector of an equal one under way.")
        observed = tallies.observations
        self._batch_inputs = observed(histogram("batch_inputs", "Inputs in one engine batch.", POWERS_OF_FOUR))
        self._batch_tokens = observed(histogram("batch_tokens", "Tokens in one engine batch.", POWERS_OF_FOUR))
        self._batch_duration = observed(histogram("batch_duration_seconds", "Time of one engine batch.", SECONDS))
        self._key_requests = counter("key_requests", "Requests with this API key, refused ones included.", "key")
        self._key_limited = counter("key_limited_requests", "Requests refused because the key's limits were used up.", "key")
        self._key_tokens = counter("key_tokens", "Tokens of inputs answered for this API key.", "key")
        under_way = gauge("requests_in_flight", "Requests that have arrived and are not answered yet.", "livesum", "task")
        self._in_flight = gauge("tokens_in_flight", "Tokens waiting or running.", "livesum")
        self._tokens_in_flight = 0
        self._queue_tokens = gauge("queue_tokens", "Tokens that wait and are in no batch yet.", "livesum")
        self._queue_oldest = gauge(
            "queue_oldest_seconds", "For how long the input has waited that has waited longest; 0: none waits.", "livemax"
        )
        # Where several gateways count together, connections go to those that take requests.
        self._is_ready = gauge("ready", "1 while new requests are taken.", "livemax")
        # An ``Info`` cannot be shared among processes.
        gauge("model_info", "The vector space served.", "livemax", *model_info).labels(**model_info).set(1)
        # Looking a series up by its labels costs more than counting in it.
        self._stages = {stage: observed(stages.labels(stage)) for stage in get_args(Stage)}
        self._cached = {level: cached.labels(level) for level in get_args(CacheLevel)}
        self._callers: dict[str, _Caller] = {}
        self._rejected = {reason: rejected.labels(reason) for reason in get_args(Reason)}
        self._tasks = {task: _Task(task, tallies, offered, accepted, requests, duration, under_way) for task in get_args(Task)}
        registry.on_refresh(self._refresh)

    def offered(self, task: Task) -> None:
        series = self._tasks[task]
        series.offered.more += 1
        series.in_flight.more += 1
        self._tallies.changed()

    def accepted(self, task: Task) -> None:
        self._tasks[task].accepted.more += 1
        self._tallies.changed()

    def answered(self, task: Task, status: int, seconds: float, trace_id: str | None = None) -> None:
        series = self._tasks[task]
        series.answered[status].more += 1
        if trace_id:
            series.traced.observe(seconds, {"trace_id": trace_id})
        else:
            series.durations.add(seconds)
        series.in_flight.more -= 1
        self._tallies.changed()

    def rejected(self, reason: Reason) -> None:
        self._rejected[reason].inc()

    def stage(self, stage: Stage, seconds: float) -> None:
        self._stages[stage].add(seconds)
        self._tallies.changed()

    def inputs(self, count: int, tokens: int, truncated: int) -> None:
        self._inputs.more += count
        self._tokens.more += tokens
        self._tallies.changed()
        if truncated:
            self._truncated.inc(truncated)

    def spared(self, cached: Mapping[CacheLevel, int], deduplicated: int) -> None:
        for level, count in cached.items():
            self._cached[level].inc(count)
        if deduplicated:
            self._deduplicated.inc(deduplicated)

    def batch(self, inputs: int, tokens: int, seconds: float) -> None:
        self._batch_inputs.add(inputs)
        self._batch_tokens.add(tokens)
        self._batch_duration.add(seconds)
        self._tallies.changed()

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
        self._tokens_in_flight = tokens

    def queue(self, tokens: int, oldest_s: float) -> None:
        self._queue_tokens.set(tokens)
        self._queue_oldest.set(oldest_s)

    def render(self, encode: Encode = plain) -> bytes:
        self._registry.refresh()
        return encode(everyones(self._folder) if self._folder else self._registry)

    def _refresh(self) -> None:
        self._tallies.flush()
        self._in_flight.set(self._tokens_in_flight)
        self._is_ready.set(float(self._ready()))


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


def everyones(folder: Path) -> Registry:
    """What all processes that count in ``folder`` have counted."""
    registry = Registry()
    registry.register(_Everyone(folder))
    registry.register(WorkerCounts(folder))
    return registry


class _Everyone(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        # One that is empty was only just made, by a process that starts or that was killed there and then.
        files = [str(file) for file in self._folder.glob("*.db") if not is_empty(file)]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged


def is_empty(file: Path) -> bool:
    try:
        return not file.stat().st_size
    except FileNotFoundError:
        # What a process measured goes with it.
        return True


def forget_process(pid: int, folder: Path) -> None:
    """After a process's end: what it measured is true no more; what it counted stays."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class _Task:
    """The series of one task."""

    def __init__(
        self,
        task: Task,
        tallies: Tallies,
        offered: Counter,
        accepted: Counter,
        requests: Counter,
        duration: Histogram,
        in_flight: Gauge,
    ) -> None:
        self.offered = tallies.tally(offered.labels(task))
        self.accepted = tallies.tally(accepted.labels(task))
        # For those with an exemplar, which goes with the number.
        self.traced = duration.labels(task)
        self.durations = tallies.observations(self.traced)
        self.in_flight = tallies.tally(in_flight.labels(task))
        self.answered = {status: tallies.tally(requests.labels(task, str(status))) for status in get_args(Status)}


class _Caller:
    """The series of one API key. They stay when the key goes: a counter that vanishes looks like a restart."""

    def __init__(self, name: str, requests: Counter, limited: Counter, tokens: Counter) -> None:
        self.requests = requests.labels(name)
        self.limited = limited.labels(name)
        self.tokens = tokens.labels(name)
