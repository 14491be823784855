"""What a Prometheus answers to a board's queries."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from monitoring.expressions import DEFAULTS, filled

TIMEOUT_S = 60
LEGEND = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class Series:
    """``times`` are seconds since 1970; a value that is no number is left out."""

    legend: str
    labels: Mapping[str, str]
    times: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """``rate_s`` is what Grafana would take for ``$__rate_interval``."""

    url: str
    begin: float
    end: float
    step_s: int
    rate_s: int

    def ask(self, target: Mapping[str, Any]) -> list[Series]:
        """As a panel does: over the window, or for its end alone. Raises ``OSError`` where Prometheus does not answer."""
        own = {
            "__rate_interval": f"{self.rate_s}s",
            "__interval": f"{self.step_s}s",
            "__range": f"{self.end - self.begin:.0f}s",
        }
        query = filled(target["expr"], DEFAULTS | own)
        if target["instant"]:
            found = self._read("query", query=query, time=self.end)
        else:
            found = self._read("query_range", query=query, start=self.begin, end=self.end, step=self.step_s)
        return [series(each, target.get("legendFormat", "")) for each in found]

    def _read(self, path: str, **asked: object) -> Sequence[Mapping[str, Any]]:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(asked)}", timeout=TIMEOUT_S) as reply:
            found: Sequence[Mapping[str, Any]] = json.load(reply)["data"]["result"]
            return found


def series(found: Mapping[str, Any], legend: str) -> Series:
    points = np.array(found.get("values") or [found["value"]], np.float64)
    points = points[np.isfinite(points[:, 1])]
    labels = found["metric"]
    return Series(LEGEND.sub(lambda name: labels.get(name[1], ""), legend).strip(), labels, points[:, 0], points[:, 1])
