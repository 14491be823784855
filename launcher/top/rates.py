"""Counters between two scrapes: what they grew by, a second, and the quantiles of histograms. NaN: nothing to say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from launcher.telemetry.exposition import Labels, Samples

NOTHING = math.nan


def restarted(earlier: Samples, later: Samples) -> bool:
    """No counter falls or goes while a server lives."""
    return any(
        later.get(name, {}).get(labels, 0.0) < value for name, series in earlier.items() for labels, value in series.items()
    )


def rates(earlier: Samples, later: Samples, seconds: float) -> Samples:
    """A second. After a restart all counters began at 0; one that was not there before did too."""
    if restarted(earlier, later):
        earlier = {}
    return {
        name: {labels: (value - earlier.get(name, {}).get(labels, 0.0)) / seconds for labels, value in series.items()}
        for name, series in later.items()
    }


def added(several: Sequence[Samples]) -> Samples:
    sums: dict[str, dict[Labels, float]] = {}
    for samples in several:
        for name, series in samples.items():
            into = sums.setdefault(name, {})
            for labels, value in series.items():
                into[labels] = into.get(labels, 0.0) + value
    return sums


def total(samples: Samples | None, name: str, **labels: str) -> float:
    """Of the series that have these labels, and maybe others."""
    if samples is None:
        return NOTHING
    wanted = labels.items()
    return sum(value for has, value in samples.get(name, {}).items() if wanted <= has)


def by(samples: Samples | None, name: str, label: str) -> Mapping[str, float]:
    """Sums over all other labels."""
    sums: dict[str, float] = {}
    for labels, value in (samples or {}).get(name, {}).items():
        of = dict(labels).get(label, "")
        sums[of] = sums.get(of, 0.0) + value
    return sums


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else NOTHING


def mean(samples: Samples | None, histogram: str, **labels: str) -> float:
    return ratio(total(samples, f"{histogram}_sum", **labels), total(samples, f"{histogram}_count", **labels))


def quantile(q: float, samples: Samples | None, histogram: str, **labels: str) -> float:
    """As ``histogram_quantile`` of a classic histogram: linear within the bucket, which begins at 0 where it is the first;
    beyond the last bound, that bound.

    https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
    """
    wanted = labels.items()
    buckets: dict[float, float] = {}
    for has, value in (samples or {}).get(f"{histogram}_bucket", {}).items():
        if wanted <= has:
            bound = float(dict(has)["le"])
            buckets[bound] = buckets.get(bound, 0.0) + value
    return quantile_of(q, buckets)


def quantile_of(q: float, buckets: Mapping[float, float]) -> float:
    """For ``q`` above 0. ``buckets``: how much is at or below each bound; the greatest is infinite."""
    bounds = sorted(buckets)
    if len(bounds) < 2 or not buckets[bounds[-1]] > 0:
        return NOTHING
    rank = q * buckets[bounds[-1]]
    below, start = 0.0, 0.0
    for bound in bounds[:-1]:
        if buckets[bound] >= rank:
            return start + (bound - start) * (rank - below) / (buckets[bound] - below)
        # A server that counts while it is scraped may show a bucket before what the next lower one lacks.
        below, start = max(below, buckets[bound]), bound
    return start
