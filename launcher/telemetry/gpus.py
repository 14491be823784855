"""What a server's GPUs are used for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import Gauge

from launcher.devices import GpuUse
from launcher.telemetry.readings import Readings
from launcher.telemetry.registry import NOTHING, Registry

UNKNOWN = GpuUse(NOTHING, NOTHING, NOTHING)


class GpuMetrics:
    """Of ``gpus``, as ``read`` tells it; what it does not tell is not shown."""

    def __init__(self, registry: Registry, gpus: Sequence[str], read: Callable[[], Mapping[str, GpuUse]]) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"embedding_gpu_{name}", text, ["gpu"], multiprocess_mode="livemax", registry=registry)

        used = gauge("memory_used_bytes", "Memory of the GPU in use, by whomever.")
        total = gauge("memory_total_bytes", "Memory of the GPU.")
        utilization = gauge("utilization_ratio", "Share of the last moments in which the GPU computed anything, 0 to 1.")
        self._series = {gpu: [metric.labels(gpu) for metric in (used, total, utilization)] for gpu in gpus}
        self._readings = Readings(read, "gpus")
        self._show({})
        if gpus:
            registry.on_refresh(self._refresh)

    def _refresh(self) -> None:
        self._show(self._readings.latest() or {})

    def _show(self, uses: Mapping[str, GpuUse]) -> None:
        for gpu, series in self._series.items():
            for gauge, value in zip(series, uses.get(gpu, UNKNOWN), strict=True):
                gauge.set(value)
