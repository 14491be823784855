"""What a run must show: hardly less throughput with the instrumentation than without, and scrapes that do not wait. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from benchmarks.overload.bars import Verdict
from benchmarks.records import Figures

MAX_COST = 0.03
MAX_SCRAPE_MS = 100.0
# Each contender's cost is reckoned against another's; "again" is the same server twice, which says what chance alone does.
BASES = {"metrics": "nothing", "log": "metrics", "again": "metrics"}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """``rounds``: of each start of all servers, of each round, the figures of each contender. ``scrapes_ms``: of each kind of
    server, how long each scrape under load took."""

    date: str
    machine: Mapping[str, str | int | float]
    versions: Mapping[str, str]
    load_per_core: float
    cores: str
    rounds: list[Mapping[str, Figures]]
    scrapes_ms: Mapping[str, list[float]]


def cost(rounds: Sequence[Mapping[str, Figures]], contender: str) -> float:
    """The share of its base's throughput that it lacks: the median of all rounds, each of which compares neighbours in time."""
    return 1 - statistics.median(
        each[contender]["requests_per_s"] / each[BASES[contender]]["requests_per_s"] for each in rounds
    )


def cpu_us(rounds: Sequence[Mapping[str, Figures]], contender: str) -> float:
    """Of a request, in all of the server."""
    return statistics.median(each[contender]["cpu_ms_per_embedding"] * 1e3 for each in rounds)


def judge(record: Record) -> list[Verdict]:
    metrics, chance = cost(record.rounds, "metrics"), cost(record.rounds, "again")
    costs = [
        Verdict("throughput that metrics cost", f"≤ {MAX_COST:.0%}", f"{metrics:.1%}", metrics <= MAX_COST),
        Verdict("the same server against itself", f"within {MAX_COST:.0%}", f"{chance:.1%}", abs(chance) <= MAX_COST),
    ]
    return costs + [_of_scrapes(name, ms) for name, ms in record.scrapes_ms.items()]


def _of_scrapes(name: str, ms: Sequence[float]) -> Verdict:
    median, p99 = np.percentile(ms, (50, 99))
    measured = f"p50 {median:.1f}, p99 {p99:.1f}, max {max(ms):.1f} ms of {len(ms)}"
    return Verdict(f"a scrape under load, {name}", f"< {MAX_SCRAPE_MS:g} ms", measured, max(ms) < MAX_SCRAPE_MS)


def describe(record: Record) -> str:
    names = ["nothing", *BASES]
    rates = {name: statistics.median(each[name]["requests_per_s"] for each in record.rounds) for name in names}
    shown = ", ".join(f"{name} {rates[name]:.0f} ({cpu_us(record.rounds, name):.0f} us of CPU)" for name in names)
    return (
        f"{record.machine['cpu']}, {record.cores}; load per core before it {record.load_per_core:.2f}. Requests/s, medians of "
        f"{len(record.rounds)} rounds: {shown}. A line for each request costs {cost(record.rounds, 'log'):.1%} more."
    )
