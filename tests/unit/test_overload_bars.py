"""How requests and probes become verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.clients import answered_per_s
from benchmarks.overload.bars import Observed, goodput, judge, recovery_s, table


def rows(begin: float, end: float, rate: float, took: float, status: int) -> np.ndarray:
    due = np.arange(begin, end, 1 / rate)
    return np.column_stack([due, np.full(len(due), took), np.full(len(due), status)])


GOOD = Observed(
    capacity=100.0,
    max_wait_s=5.0,
    begin=10.0,
    end=70.0,
    before=rows(0, 10, 20, 0.02, 200),
    overload=np.concatenate([rows(10, 70, 95, 0.0, 200), rows(10, 70, 405, 0.002, 429)]),
    after=rows(70, 80, 20, 0.02, 200),
    probes_ms={"/live": [5.0] * 100, "/ready": [5.0] * 100},
    failed_probes=0,
    load_cores=0.1,
    other_cores=0.0,
    idle_mb=500.0,
    peak_mb=600.0,
)


def lost(observed: Observed) -> list[str]:
    return [verdict.what for verdict in judge(observed) if not verdict.held]


def test_a_good_run_holds_everything():
    assert lost(GOOD) == []
    assert "| statuses | 200, 429, 503, 504 | 5700 of 200, 24300 of 429 | yes |" in table(judge(GOOD))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"overload": np.concatenate([GOOD.overload, rows(10, 11, 1, 0.1, 500)])}, "statuses"),
        ({"overload": np.concatenate([GOOD.overload, rows(10, 11, 1, 0.1, 0)])}, "statuses"),
        ({"overload": np.concatenate([GOOD.overload, rows(10, 12, 50, 5.1, 200)])}, "accepted, p99"),
        ({"capacity": 106.0}, "answered of capacity"),
        ({"probes_ms": {"/live": [5.0] * 98 + [51.0] * 2, "/ready": [5.0]}}, "/live, p99"),
        ({"failed_probes": 1}, "probes that failed"),
        ({"peak_mb": 757.0}, "memory above idle"),
        ({"after": np.concatenate([rows(70, 75.4, 20, 0.5, 200), rows(75.5, 80, 20, 0.02, 200)])}, "back to normal after"),
        ({"after": np.concatenate([GOOD.after, rows(76, 76.1, 20, 0.002, 429)])}, "back to normal after"),
    ],
)
def test_each_bar_can_fail(changes, what):
    assert lost(replace(GOOD, **changes)) == [what]


def test_what_is_answered_after_the_end_is_no_goodput():
    assert goodput(rows(0, 10, 10, 5.0, 200), 0.0, 10.0) == pytest.approx(5, abs=0.1)


def test_recovery_ends_with_the_last_slow_window_before_a_second_and_a_half_of_normal_ones():
    assert recovery_s(GOOD) == 0
    normal, slow = rows(70, 71, 20, 0.02, 200), rows(71.0, 71.4, 20, 1.0, 200)
    assert recovery_s(replace(GOOD, after=np.concatenate([normal, slow]))) == 1.5
    later = rows(73.0, 73.4, 20, 1.0, 200)
    assert recovery_s(replace(GOOD, after=np.concatenate([normal, slow, rows(71.5, 73, 20, 0.02, 200), later]))) == 1.5


def test_capacity_leaves_out_the_beginning_and_what_was_refused():
    answered = [(float(at), 0.5, 200) for at in range(100)] + [(float(at), 0.1, 429) for at in range(100)]
    assert answered_per_s(answered, 100.0) == pytest.approx(1.0)
