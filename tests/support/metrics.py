"""What a server shows at /metrics."""

from __future__ import annotations

import httpx


def metrics_of(client: httpx.Client) -> dict[str, float]:
    """Series to values."""
    lines = client.get("/metrics").text.splitlines()
    series = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in series}
