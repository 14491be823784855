"""What one picture says, as plain values. Rates are a second, times seconds; NaN: not known, or nothing to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from launcher.telemetry.exposition import Samples
from launcher.telemetry.hooks import CacheLevel, Stage, Task
from launcher.top.rates import added, by, mean, quantile, rates, ratio, restarted, total
from launcher.top.scrape import NoScrape, Scrape

State = Literal["asking", "no answer", "not ready", "ready"]
MOST_KEYS = 4


@dataclass(frozen=True, slots=True)
class Watched:
    """A server as it was seen so far. ``rates`` are those between its last two answers."""

    url: str
    last: Scrape | None = None
    rates: Samples | None = None
    failure: str | None = None
    restarts: int = 0

    def after(self, seen: Scrape | NoScrape) -> Watched:
        if isinstance(seen, NoScrape):
            # Its counters are kept: when it answers again they tell whether it is the same process.
            return replace(self, rates=None, failure=seen.reason)
        if self.last is None:
            return replace(self, last=seen, failure=None)
        earlier, later = self.last.shown.counters, seen.shown.counters
        return replace(
            self,
            last=seen,
            rates=rates(earlier, later, seen.at_s - self.last.at_s),
            failure=None,
            restarts=self.restarts + restarted(earlier, later),
        )

    @property
    def gauges(self) -> Samples:
        """None of a server that does not answer: what it measured is true no more."""
        return self.last.shown.gauges if self.last and not self.failure else {}

    @property
    def state(self) -> State:
        if self.failure:
            return "no answer"
        if not self.last:
            return "asking"
        return "ready" if total(self.gauges, "embedding_ready") else "not ready"


@dataclass(frozen=True, slots=True)
class TaskLine:
    task: str
    offered: float
    answered: float
    failed: float
    in_flight: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class StageLine:
    stage: str
    mean: float
    p95: float


@dataclass(frozen=True, slots=True)
class Batches:
    """``under_way`` is their mean number."""

    rate: float
    inputs: float
    tokens: float
    seconds: float
    under_way: float


@dataclass(frozen=True, slots=True)
class KeyLine:
    key: str
    tokens: float
    requests: float
    limited: float


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """``restarts`` since its server began."""

    url: str
    process: str
    state: str
    restarts: float


@dataclass(frozen=True, slots=True)
class ServerLine:
    """``restarts`` are those seen from here."""

    url: str
    state: State
    failure: str
    restarts: int
    offered: float
    p95: float
    tokens: float
    tokens_in_flight: float


@dataclass(frozen=True, slots=True)
class Frame:
    """``models`` are written as name, engine, dtype; ``fingerprints`` leads from each to the servers that have it;
    ``queue_oldest_s`` is of the server where something waits longest."""

    models: Sequence[str]
    fingerprints: dict[str, list[str]]
    servers: Sequence[ServerLine]
    tasks: Sequence[TaskLine]
    rejected: Sequence[tuple[str, float]]
    tokens: float
    inputs: float
    truncated: float
    tokens_in_flight: float
    queue_oldest_s: float
    batches: Batches
    stages: Sequence[StageLine]
    cached: Sequence[tuple[str, float]]
    deduplicated: float
    keys: Sequence[KeyLine]
    processes: Sequence[ProcessLine]

    @property
    def offered(self) -> float:
        return sum(line.offered for line in self.tasks)


def frame(watched: Sequence[Watched]) -> Frame:
    """All of them together; what one of them did is in ``servers`` and ``processes``."""
    measured = [server.rates for server in watched if server.rates is not None]
    rate = added(measured) if measured else None
    now = added([server.gauges for server in watched]) or None
    inputs = total(rate, "embedding_inputs_total")
    return Frame(
        models=_models(watched),
        fingerprints=_fingerprints(watched),
        servers=[_server(server) for server in watched],
        tasks=[_task(task, rate, now) for task in get_args(Task)],
        rejected=_most(by(rate, "embedding_requests_rejected_total", "reason").items()),
        tokens=total(rate, "embedding_tokens_total"),
        inputs=inputs,
        truncated=total(rate, "embedding_truncated_inputs_total"),
        tokens_in_flight=total(now, "embedding_tokens_in_flight"),
        queue_oldest_s=max((total(server.gauges, "embedding_queue_oldest_seconds") for server in watched), default=0.0),
        batches=_batches(rate),
        stages=[_stage(stage, rate) for stage in get_args(Stage)],
        cached=[
            (level, ratio(total(rate, "embedding_cached_inputs_total", level=level), inputs)) for level in get_args(CacheLevel)
        ],
        deduplicated=ratio(total(rate, "embedding_deduplicated_inputs_total"), inputs),
        keys=_keys(rate),
        processes=[line for server in watched for line in _processes(server)],
    )


def _task(task: Task, rate: Samples | None, now: Samples | None) -> TaskLine:
    answered = total(rate, "embedding_requests_total", task=task, status="200")
    p50, p95, p99 = (quantile(q, rate, "embedding_request_duration_seconds", task=task) for q in (0.5, 0.95, 0.99))
    return TaskLine(
        task=task,
        offered=total(rate, "embedding_requests_offered_total", task=task),
        answered=answered,
        failed=total(rate, "embedding_requests_total", task=task) - answered,
        in_flight=total(now, "embedding_requests_in_flight", task=task),
        p50=p50,
        p95=p95,
        p99=p99,
    )


def _stage(stage: Stage, rate: Samples | None) -> StageLine:
    name = "embedding_stage_duration_seconds"
    return StageLine(stage, mean(rate, name, stage=stage), quantile(0.95, rate, name, stage=stage))


def _batches(rate: Samples | None) -> Batches:
    return Batches(
        rate=total(rate, "embedding_batch_inputs_count"),
        inputs=mean(rate, "embedding_batch_inputs"),
        tokens=mean(rate, "embedding_batch_tokens"),
        seconds=mean(rate, "embedding_batch_duration_seconds"),
        # Little's law: seconds of batches a second.
        under_way=total(rate, "embedding_batch_duration_seconds_sum"),
    )


def _keys(rate: Samples | None) -> list[KeyLine]:
    def of(key: str, metric: str) -> float:
        return total(rate, f"embedding_key_{metric}_total", key=key)

    keys = by(rate, "embedding_key_requests_total", "key")
    lines = [KeyLine(key, of(key, "tokens"), of(key, "requests"), of(key, "limited_requests")) for key in keys]
    return sorted((line for line in lines if line.requests or line.tokens), key=lambda line: (-line.tokens, -line.requests))[
        :MOST_KEYS
    ]


def _most(counts: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted((pair for pair in counts if pair[1]), key=lambda pair: -pair[1])


def _server(server: Watched) -> ServerLine:
    return ServerLine(
        url=server.url,
        state=server.state,
        failure=server.failure or "",
        restarts=server.restarts,
        offered=total(server.rates, "embedding_requests_offered_total"),
        p95=quantile(0.95, server.rates, "embedding_request_duration_seconds", task="embeddings"),
        tokens=total(server.rates, "embedding_tokens_total"),
        tokens_in_flight=total(server.gauges or None, "embedding_tokens_in_flight"),
    )


def _processes(server: Watched) -> list[ProcessLine]:
    if not server.last or server.failure:
        return []
    restarts = by(server.last.shown.counters, "embedding_process_restarts_total", "process")
    states = (dict(labels) for labels, on in server.gauges.get("embedding_process_state", {}).items() if on)
    return [ProcessLine(server.url, state["process"], state["state"], restarts.get(state["process"], 0.0)) for state in states]


def _models(watched: Sequence[Watched]) -> list[str]:
    found = (info for server in watched for info in _infos(server))
    return sorted({f"{info['name']}, {info['engine']}, {info['dtype']}" for info in found})


def _fingerprints(watched: Sequence[Watched]) -> dict[str, list[str]]:
    servers: dict[str, list[str]] = {}
    for server in watched:
        for info in _infos(server):
            servers.setdefault(info["fingerprint"], []).append(server.url)
    return servers


def _infos(server: Watched) -> list[dict[str, str]]:
    return [dict(labels) for labels in server.gauges.get("embedding_model_info", {})]
