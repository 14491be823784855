"""What SGLang counts in its own processes, shown among our metrics.

SGLang has prometheus_client count in files (https://prometheus.github.io/client_python/multiprocess/); they are read where they
lie, so that a scrape asks no worker for anything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

SUFFIX = ".counts"


def counts_folder(folder: Path, process: str) -> Path:
    """Where ``process`` counts, in a server's private ``folder``."""
    return folder / f"{process}{SUFFIX}"


class WorkerCounts(Collector):
    """What all processes count that have a ``counts_folder`` in ``folder``, with the label ``process``.

    A process that ends takes its series with it, and begins at 0 when it is there again, as after any restart.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failed = False

    def describe(self) -> Iterator[Metric]:
        """Nothing: what there will be is not known before a worker runs."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        for counts in sorted(self._folder.glob(f"*{SUFFIX}")):
            for metric in self._of(counts):
                shown = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                shown.samples += [
                    sample._replace(labels={**sample.labels, "process": counts.stem}) for sample in metric.samples
                ]
        return iter(merged.values())

    def _of(self, counts: Path) -> list[Metric]:
        try:
            return list(MultiProcessCollector(None, str(counts)).collect())  # type: ignore[no-untyped-call]
        except Exception as error:
            # A worker may end, and its folder go, in the middle of this; or write what this version cannot read.
            if counts.exists() and not self._failed:
                self._failed = True
                log.warning("the metrics of %s cannot be read, and are left out: %s", counts.stem, error)
            return []
