"""What was measured at each number of clients, how far to go on, and where a server is at its best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A level over the limit may be bad luck, two in a row are not.
PATIENCE = 2


@dataclass(frozen=True)
class Level:
    """``clients`` had a request under way each. Percentiles are of what was answered; ``refused`` is the share that was not."""

    clients: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: float

    def holds(self, max_p95_ms: float) -> bool:
        return self.p95_ms <= max_p95_ms and not self.refused


def knee(levels: Sequence[Level], max_p95_ms: float) -> Level | None:
    """The highest throughput at which nothing was refused and the 95th percentile kept the limit, with the fewest clients."""
    held = [level for level in levels if level.holds(max_p95_ms)]
    return max(held, key=lambda level: (level.requests_per_s, -level.clients), default=None)


def next_clients(levels: Sequence[Level], max_p95_ms: float, most: int) -> int | None:
    """Twice as many as before, until two levels in a row are over the limit or there would be more than ``most``."""
    if not levels:
        return 1
    lately = levels[-PATIENCE:]
    if len(lately) == PATIENCE and not any(level.holds(max_p95_ms) for level in lately):
        return None
    clients = 2 * levels[-1].clients
    return clients if clients <= most else None
