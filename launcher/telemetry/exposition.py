"""Prometheus' text format, read: what a server shows at /metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
# Values by name and labels.
Samples = Mapping[str, Mapping[Labels, float]]
# A histogram is counters: its buckets, its count and, as nothing negative is observed here, its sum.
COUNTERS = ("counter", "histogram")


@dataclass(frozen=True, slots=True)
class Exposition:
    counters: Samples
    gauges: Samples


def read(text: str) -> Exposition:
    """Raises ``ValueError`` where ``text`` is something else. Values that are no numbers are left out."""
    counters: dict[str, dict[Labels, float]] = {}
    gauges: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        kind = counters if family.type in COUNTERS else gauges
        for sample in family.samples:
            if math.isfinite(sample.value):
                labels = frozenset((label, printable(value)) for label, value in sample.labels.items())
                kind.setdefault(sample.name, {})[labels] = sample.value
    return Exposition(counters, gauges)


def printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)
