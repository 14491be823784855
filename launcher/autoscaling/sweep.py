"""Other targets and other ways up than the manifest's, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from launcher.autoscaling.report import Report, report
from launcher.autoscaling.rules import DEFAULT_UP, Autoscaler, Policy, Rules
from launcher.autoscaling.simulate import Cluster, simulate
from launcher.autoscaling.traces import Trace

# Of what one pod can do.
TARGETS = (0.5, 0.6, 0.65, 0.7, 0.8, 0.9)
# Nobody chooses when load comes: as many moments of the controller's period are tried, and the worst counts.
PHASES = 3


def _a_minute(pods: int) -> Rules:
    return Rules((Policy("Percent", 100, 60), Policy("Pods", pods, 60)), window_s=0)


WAYS_UP = {
    "Kubernetes' default": DEFAULT_UP,
    "100 % or 4 pods a minute": _a_minute(4),
    "100 % or 6 pods a minute": _a_minute(6),
    "100 % or 8 pods a minute": _a_minute(8),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """``found`` is the run, of those at different phases, in which most was refused."""

    target: float
    way_up: str
    found: Report


def sweep(autoscaler: Autoscaler, cluster: Cluster, trace: Trace) -> Iterator[Candidate]:
    for way_up, rules in {"as it is": autoscaler.up, **WAYS_UP}.items():
        if way_up != "as it is" and rules == autoscaler.up:
            continue
        for share in TARGETS:
            target = share * cluster.shape.qps
            yield Candidate(target, way_up, worst(replace(_aiming_at(autoscaler, target), up=rules), cluster, trace))


def worst(autoscaler: Autoscaler, cluster: Cluster, trace: Trace, phases: int = PHASES) -> Report:
    shifted = (replace(cluster, phase_s=round(cluster.sync_s * phase / phases)) for phase in range(phases))
    found = (report(simulate(autoscaler, each, trace), trace, cluster.shape.qps) for each in shifted)
    return max(found, key=lambda each: each.shed)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a recommendation has to keep: the share refused, and the latency of 95 % of what is accepted."""

    shed: float
    p95_latency_s: float

    def hold(self, found: Report) -> bool:
        return found.shed <= self.shed and found.p95_latency_s <= self.p95_latency_s and not found.rises_after


def recommend(candidates: Sequence[Candidate], limits: Limits) -> Candidate | None:
    """The cheapest that keeps to the limits and does not flap; None where there is none."""
    good = [each for each in candidates if limits.hold(each.found)]
    return min(good, key=lambda each: (each.found.gpu_hours, each.found.shed), default=None)


def describe(candidates: Sequence[Candidate], limits: Limits) -> str:
    lines = [f"{'up':<25} {'target QPS':>10} {'refused':>8} {'p95':>7} {'capacity':>9} {'pods':>5} {'GPU-hours':>9}"]
    for each in candidates:
        found = each.found
        lines.append(
            f"{each.way_up:<25} {each.target:>10g} {found.shed:>8.1%} {found.p95_latency_s:>5.2f} s {found.capacity:>9} "
            f"{found.most:>5} {found.gpu_hours:>9.2f}"
        )
    chosen = recommend(candidates, limits)
    wanted = f"at most {limits.shed:.0%} refused and a p95 of {limits.p95_latency_s:g} s"
    if chosen is None:
        lines.append(f"None keeps to {wanted}. Keep more pods at the least, or make them start sooner.")
    else:
        lines.append(f"Recommended, the cheapest with {wanted}: {chosen.way_up}, target {chosen.target:g}.")
    return "\n".join(lines)


def _aiming_at(autoscaler: Autoscaler, target_qps: float) -> Autoscaler:
    """Only rates are aimed anew: what is in flight has no part in how busy the pods are meant to be."""
    metrics = (replace(each, target=target_qps) if each.signal.window_s else each for each in autoscaler.metrics)
    return replace(autoscaler, metrics=tuple(metrics))
