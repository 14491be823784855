"""Load, pods, Prometheus and the controller, second by second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.autoscaling.algorithm import Controller, Tolerance, combine, for_average, for_pods, for_value
from launcher.autoscaling.pods import Fleet, PodShape
from launcher.autoscaling.rules import SYNC_S, Autoscaler, Metric
from launcher.autoscaling.scrapes import Prometheus
from launcher.autoscaling.traces import Trace

TICK_S = 1
# Before the trace begins its first load has been there for so long that rates and replicas are settled.
WARM_UP_S = 300


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything that is not in the manifest. ``phase_s`` is when after the trace's beginning the controller looks first."""

    shape: PodShape
    scrape_s: int = 15
    sync_s: int = SYNC_S
    phase_s: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """One second. ``accepted`` holds (requests, their latency in seconds), one for each pod that took some."""

    at: int
    offered: float
    refused: float
    replicas: int
    ready: int
    gpus: int
    accepted: tuple[tuple[float, float], ...]


def simulate(autoscaler: Autoscaler, cluster: Cluster, trace: Trace) -> list[Moment]:
    """What happens from the trace's beginning to its end."""
    fleet = Fleet(cluster.shape)
    fleet.resize(_settled(autoscaler, cluster.shape, trace.qps(0.0 - WARM_UP_S)), -WARM_UP_S, cold_start_s=0.0)
    windows = [metric.signal.window_s or 0.0 for metric in autoscaler.metrics]
    prometheus = Prometheus(cluster.scrape_s, max(*windows, cluster.scrape_s * 2.0), cluster.shape.tokens_per_request)
    controller = Controller(autoscaler)
    moments = []
    for now in range(-WARM_UP_S, trace.length_s, TICK_S):
        prometheus.scrape(now, [*fleet.ready(now), *fleet.leaving])
        if (now - cluster.phase_s) % cluster.sync_s == 0:
            current = len(fleet.pods)
            wanted = combine([_proposal(metric, autoscaler, fleet, prometheus, now) for metric in autoscaler.metrics], current)
            fleet.resize(controller.decide(now, current, wanted), now, cluster.shape.cold_start_s)
        offered = trace.qps(now) * TICK_S
        accepted = tuple(fleet.serve(now, trace.qps(now), TICK_S))
        if now >= 0:
            refused = max(0.0, offered - sum(requests for requests, _ in accepted))
            moments.append(Moment(now, offered, refused, len(fleet.pods), len(fleet.ready(now)), fleet.gpus(), accepted))
    return moments


def _settled(autoscaler: Autoscaler, shape: PodShape, qps: float) -> int:
    """What this load has led to, if it has been there for long."""
    needed: Sequence[int] = [
        for_average(qps, metric.target, autoscaler.least, Tolerance())
        for metric in autoscaler.metrics
        if metric.signal.window_s and metric.compared == "average"
    ]
    return min(max(autoscaler.least, -int(-qps // shape.qps), *needed), autoscaler.most)


def _proposal(metric: Metric, autoscaler: Autoscaler, fleet: Fleet, prometheus: Prometheus, now: int) -> int | None:
    """How many pods this metric asks for; None where it has no value."""
    current = len(fleet.pods)
    tolerance = Tolerance(autoscaler.down.tolerance, autoscaler.up.tolerance)
    if metric.compared == "pods":
        ready = fleet.ready(now)
        values = [prometheus.of_pod(pod.number, metric.signal, now) for pod in ready]
        return for_pods(values, current - len(ready), metric.target, current, tolerance)
    total = prometheus.total(metric.signal, now)
    if total is None:
        if not metric.null_is_zero:
            return None
        total = 0.0
    if metric.compared == "average":
        return for_average(total, metric.target, current, tolerance)
    return for_value(total, metric.target, current, len(fleet.ready(now)), tolerance)
