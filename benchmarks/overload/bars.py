"""What a run must show: answers by the contract, in time, nearly as many as without the overload, and a quick return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What an overloaded server may say: too much at present, not now, not in time.
BY_CONTRACT = frozenset({200, 429, 503, 504})
MIN_GOODPUT = 0.9
MAX_PROBE_MS = 50.0
MAX_GROWTH_MB = 256.0
MAX_RECOVERY_S = 5.0
# Latencies are compared window by window.
WINDOW_S = 0.5
NORMAL_WINDOWS = 3

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Observed:
    """``before``, ``overload`` and ``after`` hold a row for each request: when it was due, how long it took (both in seconds),
    its status. The overload lasted from ``begin`` to ``end``. ``probes_ms``: by path, of those that were answered;
    ``failed_probes`` counts the others. ``load_cores`` were busy with the load and the probes, ``other_cores``
    with neither those nor the server."""

    capacity: float
    max_wait_s: float
    begin: float
    end: float
    before: Rows
    overload: Rows
    after: Rows
    probes_ms: Mapping[str, Sequence[float]]
    failed_probes: int
    load_cores: float
    other_cores: float
    idle_mb: float
    peak_mb: float


@dataclass(frozen=True)
class Verdict:
    what: str
    wanted: str
    measured: str
    held: bool


def judge(observed: Observed) -> list[Verdict]:
    accepted = observed.overload[observed.overload[:, 2] == 200]
    statuses = Counter(observed.overload[:, 2].astype(int).tolist())
    share = goodput(accepted, observed.begin, observed.end) / observed.capacity
    p99_s = float(np.percentile(accepted[:, 1], 99)) if len(accepted) else float("inf")
    back_s = recovery_s(observed)
    probes = [
        Verdict(f"{path}, p99", f"< {MAX_PROBE_MS:g} ms", f"{p99:.1f} ms of {len(ms)}", p99 < MAX_PROBE_MS)
        for path, ms in observed.probes_ms.items()
        for p99 in [float(np.percentile(ms, 99))]
    ]
    growth_mb = observed.peak_mb - observed.idle_mb
    return [
        Verdict(
            "statuses",
            "200, 429, 503, 504",
            ", ".join(f"{count} of {status or 'no reply'}" for status, count in sorted(statuses.items())),
            statuses.keys() <= BY_CONTRACT,
        ),
        Verdict("accepted, p99", f"≤ {observed.max_wait_s:g} s", f"{p99_s:.2f} s", p99_s <= observed.max_wait_s),
        Verdict("answered of capacity", f"≥ {MIN_GOODPUT:.0%}", f"{share:.0%}", share >= MIN_GOODPUT),
        *probes,
        Verdict("probes that failed", "0", str(observed.failed_probes), not observed.failed_probes),
        Verdict("memory above idle", f"≤ {MAX_GROWTH_MB:.0f} MB", f"{growth_mb:.0f} MB", growth_mb <= MAX_GROWTH_MB),
        Verdict("back to normal after", f"≤ {MAX_RECOVERY_S:g} s", f"{back_s:.1f} s", back_s <= MAX_RECOVERY_S),
    ]


def goodput(accepted: Rows, begin: float, end: float) -> float:
    """Answers per second between the two."""
    ended = accepted[:, 0] + accepted[:, 1]
    return float(np.sum((ended >= begin) & (ended < end)) / (end - begin))


def recovery_s(observed: Observed) -> float:
    """From when on all is answered, and, in ``NORMAL_WINDOWS`` in a row, half of it within what was the 99th percentile before.

    Not in all that follow: of a few requests in a window half are slow by chance.
    """
    normal_s = np.percentile(observed.before[:, 1], 99)
    windows = (observed.after[:, 0] - observed.end) // WINDOW_S
    rows_of = {float(window): observed.after[windows == window] for window in np.unique(windows)}
    unanswered = [window for window, rows in rows_of.items() if np.any(rows[:, 2] != 200)]
    since = max(unanswered) + 1 if unanswered else 0.0
    normal_for = 0
    for window, rows in rows_of.items():
        if normal_for == NORMAL_WINDOWS:
            break
        normal_for = normal_for + 1 if np.median(rows[:, 1]) <= normal_s else 0
        if not normal_for:
            since = max(since, window + 1)
    return since * WINDOW_S


def table(verdicts: Sequence[Verdict]) -> str:
    lines = [f"| {each.what} | {each.wanted} | {each.measured} | {'yes' if each.held else '**no**'} |" for each in verdicts]
    return "\n".join(["| | wanted | measured | held |", "| --- | --- | --- | --- |", *lines])
