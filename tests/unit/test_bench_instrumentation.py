"""How rounds and scrapes become verdicts, and that the server to compare with takes every hook there is."""

from __future__ import annotations

import inspect
from collections import Counter

import msgspec
import pytest

from benchmarks.instrumentation.bars import Record, cost, describe, judge
from benchmarks.instrumentation.run import CONTENDERS, in_turn
from benchmarks.instrumentation.uncounted import UncountedMetrics
from launcher.telemetry.hooks import Hooks, ProcessHooks
from launcher.telemetry.metrics import Metrics


def round_of(nothing: float, metrics: float, again: float = 0.0, log: float = 100.0) -> dict[str, dict[str, float]]:
    rates = {"nothing": nothing, "metrics": metrics, "again": again or metrics, "log": log}
    return {name: {"requests_per_s": rate, "cpu_ms_per_embedding": 0.05} for name, rate in rates.items()}


GOOD = Record(
    date="2026-01-02T03:04:05+00:00",
    machine={"cpu": "a CPU"},
    versions={},
    load_per_core=0.1,
    cores="2 cores",
    rounds=[round_of(1000, 990), round_of(500, 490), round_of(1000, 100)],
    scrapes_ms={"one process": [5.0] * 99 + [99.0]},
)


def lost(record: Record) -> list[str]:
    return [verdict.what for verdict in judge(record) if not verdict.held]


def test_a_cost_is_reckoned_within_rounds_and_one_that_was_disturbed_does_not_tell() -> None:
    assert cost(GOOD.rounds, "metrics") == pytest.approx(0.02)
    assert cost([round_of(100, 90, log=45)], "log") == pytest.approx(0.5)
    assert lost(GOOD) == []
    assert "50 us of CPU" in describe(GOOD)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rounds": [round_of(1000, 969)]}, "throughput that metrics cost"),
        ({"rounds": [round_of(1000, 990, again=950)]}, "the same server against itself"),
        ({"rounds": [round_of(1000, 990, again=1030)]}, "the same server against itself"),
        ({"scrapes_ms": {"one process": [5.0] * 99 + [100.0]}}, "a scrape under load, one process"),
    ],
)
def test_each_bar_can_fail(changes: dict[str, object], what: str) -> None:
    assert lost(msgspec.structs.replace(GOOD, **changes)) == [what]


def test_each_contender_has_each_place_and_no_fixed_neighbour() -> None:
    orders = [in_turn(list(CONTENDERS), number) for number in range(8)]
    assert {each[0] for each in orders} == CONTENDERS.keys()
    after = Counter(each[each.index("metrics") - 1] for each in orders if each.index("metrics"))
    assert len(after) > 1


def test_the_server_to_compare_with_takes_every_hook() -> None:
    hooks = UncountedMetrics()
    names = {name for each in (Hooks, ProcessHooks, Metrics) for name, _ in inspect.getmembers(each, inspect.isfunction)}
    for name in names:
        if not name.startswith("_"):
            assert not getattr(hooks, name)(), name
