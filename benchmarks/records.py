"""What a run writes down: the result file, as types."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

# requests_per_s, embeddings_per_s, tokens_per_s, p50_ms, p95_ms, p99_ms, cpu_ms_per_embedding, …
Figures = dict[str, float]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One contender in one case. ``error`` says why there are no figures."""

    model: str
    case: str
    contender: str
    repetitions: tuple[Figures, ...] = ()
    median: Figures = {}
    # The worst cosine between a reply's vectors and the reference; None: not an HTTP contender.
    min_cosine: float | None = None
    error: str | None = None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A contender's process. ``command`` holds no path of the machine."""

    model: str
    contender: str
    command: str
    seconds_to_first_reply: float


class Run(msgspec.Struct, frozen=True, kw_only=True):
    date: str
    quick: bool
    machine: Mapping[str, str | int | float]
    versions: Mapping[str, str]
    # Runnable processes per core, over the minute before the start: above 0.5 the machine was not ours alone.
    load_per_core: float
    started: tuple[Started, ...]
    measurements: tuple[Measurement, ...]

    def figure(self, model: str, case: str, contender: str, name: str) -> float | None:
        """The median of a figure; None where it was not measured."""
        for found in self.measurements:
            if (found.model, found.case, found.contender) == (model, case, contender):
                return found.median.get(name)
        return None


def median_of(repetitions: Sequence[Figures]) -> Figures:
    """Figure by figure."""
    return {name: statistics.median(each[name] for each in repetitions) for name in repetitions[0]}
