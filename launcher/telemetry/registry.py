"""Where the metrics of a process are, and how those that tell of a moment are kept true."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from typing import Literal, NoReturn

from prometheus_client import CollectorRegistry, Metric, disable_created_metrics

log = logging.getLogger(__name__)

REFRESH_S = 1.0
# What a gauge holds while there is nothing to say: it is not shown then.
NOTHING = math.nan
# How a gauge's values in several processes become one.
Mode = Literal["livesum", "livemax"]


class Registry(CollectorRegistry):
    """Shows no gauge that holds ``NOTHING``, and not when each counter began."""

    def __init__(self) -> None:
        super().__init__()
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._measures: list[Callable[[], None]] = []

    def on_refresh(self, measure: Callable[[], None]) -> None:
        """Have ``measure`` called, which must not take long, before anything is shown and once a second."""
        self._measures.append(measure)

    def refresh(self) -> None:
        for measure in self._measures:
            try:
                measure()
            except Exception:
                log.exception("something could not be measured: a bug")

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            if metric.type == "gauge":
                metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric


async def keep_fresh(registry: Registry) -> NoReturn:
    """For whoever shows what this process measured: another, where several count together."""
    while True:
        registry.refresh()
        await asyncio.sleep(REFRESH_S)
