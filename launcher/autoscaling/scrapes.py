"""What Prometheus knows of the pods: samples of their counters, some seconds old, and rates over them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from launcher.autoscaling.pods import Pod
from launcher.autoscaling.rules import Counted, Signal

# A gap of more than this many average intervals to the window's edge is not filled in by rate().
REACH = 1.1


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    offered: float
    completed: float
    tokens_in_flight: float


@dataclass(slots=True)
class Prometheus:
    """Scrapes every pod each ``scrape_s``, each at its own moment, and remembers ``keep_s``."""

    scrape_s: int
    keep_s: float
    tokens_per_request: float
    _series: dict[int, deque[Sample]] = field(default_factory=dict, init=False)
    _present: set[int] = field(default_factory=set, init=False)

    def scrape(self, now: int, pods: Iterable[Pod]) -> None:
        """``pods`` are those that serve /metrics now; those that stopped have no value from now on, but keep their past."""
        pods = list(pods)
        self._present = {pod.number for pod in pods}
        for pod in pods:
            series = self._series.setdefault(pod.number, deque())
            # Prometheus spreads its targets over the interval.
            if (now + round(pod.number * 0.618 * self.scrape_s)) % self.scrape_s == 0:
                series.append(Sample(now, pod.offered, pod.completed, pod.in_flight * self.tokens_per_request))
        for number, series in list(self._series.items()):
            while series and series[0].at <= now - self.keep_s:
                series.popleft()
            if not series and number not in self._present:
                del self._series[number]

    def total(self, signal: Signal, now: float) -> float | None:
        """``sum(…)``: None where no pod has a value."""
        values = [value for number in self._series if (value := self.of_pod(number, signal, now)) is not None]
        return sum(values) if values else None

    def of_pod(self, number: int, signal: Signal, now: float) -> float | None:
        series = self._series.get(number, deque())
        if signal.window_s is None:
            return series[-1].tokens_in_flight if series and number in self._present else None
        return rate([sample for sample in series if sample.at > now - signal.window_s], signal.counted, now, signal.window_s)


def rate(samples: list[Sample], counted: Counted, now: float, window_s: float) -> float | None:
    """As Prometheus computes it: the samples' rise, carried on to the window's edges where they are near.

    https://github.com/prometheus/prometheus/blob/main/promql/functions.go, extrapolatedRate; counters here never restart.
    """
    if len(samples) < 2:
        return None
    first, last = samples[0], samples[-1]
    start = getattr(first, counted)
    rise = getattr(last, counted) - start
    covered = last.at - first.at
    interval = covered / (len(samples) - 1)
    before = first.at - (now - window_s)
    after = now - last.at
    before = before if before < interval * REACH else interval / 2
    if rise > 0 and start >= 0:
        # It cannot have been below 0.
        before = min(before, covered * start / rise)
    after = after if after < interval * REACH else interval / 2
    return float(rise * (covered + before + after) / covered / window_s)
