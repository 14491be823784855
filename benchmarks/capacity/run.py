"""Levels are measured one after the other, each by clients of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import uvloop

from benchmarks.capacity.knee import Level, next_clients
from benchmarks.clients import PATIENCE_S, Answered, Load, answered_per_s
from benchmarks.overload.bars import BY_CONTRACT
from benchmarks.target import ContenderFailed, Target

# Answers of which a percentile says something.
LEAST_ANSWERS = 20
# At a level's beginning batches grow, and that is not counted; as in ``answered_per_s``.
SKIPPED = 1 / 5


def served_model(target: Target) -> str:
    """The name of the one that is served."""
    name: str = json.loads(target.get("/v1/models"))["data"][0]["id"]
    return name


def climb(measure: Callable[[int], Level], max_p95_ms: float, most_clients: int) -> Iterator[Level]:
    """One client, then always twice as many, as far as it makes sense."""
    levels: list[Level] = []
    while clients := next_clients(levels, max_p95_ms, most_clients):
        levels.append(measure(clients))
        yield levels[-1]


def closed(target: Target, bodies: Iterator[bytes], clients: int, seconds: float) -> Level:
    """Clients that each ask as soon as they were answered."""
    load = Load(target, bodies)
    _run(load.closed(clients, seconds))
    return level_of(load.answered, clients, seconds)


def open_at(target: Target, bodies: Iterator[bytes], requests_per_s: float, seconds: float) -> Level:
    """Requests at random times with this mean, whatever has been answered; ``clients`` is the most that were under way."""
    load = Load(target, bodies)
    _run(load.open([(requests_per_s, seconds)]))
    return level_of(load.answered, most_under_way(load.answered), seconds)


def _run(asking: Coroutine[Any, Any, None]) -> None:
    try:
        uvloop.run(asking)
    except TimeoutError:
        raise ContenderFailed(f"requests were left without a reply {PATIENCE_S:g} s after the last was sent") from None


def level_of(answered: Sequence[Answered], clients: int, seconds: float) -> Level:
    """Raises ``ContenderFailed`` where a request failed otherwise than by being refused, or where too few were answered."""
    statuses = Counter(status for _, _, status in answered)
    if strange := sorted(statuses.keys() - BY_CONTRACT):
        told = ", ".join(f"{statuses[status]} of {status or 'no reply'}" for status in strange)
        raise ContenderFailed(f"of {len(answered)} requests some failed: {told}")
    begin = min((due for due, _, _ in answered), default=0.0)
    counted = [row for row in answered if row[0] >= begin + SKIPPED * seconds]
    took_ms = [took * 1e3 for _, took, status in counted if status == 200]
    if len(took_ms) < LEAST_ANSWERS:
        raise ContenderFailed(f"only {len(took_ms)} requests were answered in {seconds:g} s; more --seconds are needed")
    p50, p95, p99 = (float(value) for value in np.percentile(took_ms, (50, 95, 99)))
    refused = 1 - len(took_ms) / len(counted)
    return Level(clients, answered_per_s(answered, seconds), p50, p95, p99, refused)


def most_under_way(answered: Sequence[Answered]) -> int:
    changes = sorted(change for due, took, _ in answered for change in ((due, 1), (due + took, -1)))
    return int(np.max(np.cumsum([change for _, change in changes])))
