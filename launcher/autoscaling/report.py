"""What a simulated run comes to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from launcher.autoscaling.simulate import Moment
from launcher.autoscaling.traces import Trace


@dataclass(frozen=True, slots=True)
class Report:
    """``shed`` and the latency are of the load that is judged; hours and changes are of the whole run.

    ``capacity_s`` is when the ready pods could do all that was offered and could from then on; None: not before the load ended.
    ``rises_after`` counts the changes to more pods once the load had ended.
    """

    shed: float
    p95_latency_s: float
    gpu_hours: float
    capacity_s: int | None
    most: int
    last: int
    ups: int
    downs: int
    rises_after: int

    @property
    def capacity(self) -> str:
        return "never" if self.capacity_s is None else f"{self.capacity_s} s"


def report(moments: Sequence[Moment], trace: Trace, pod_qps: float) -> Report:
    busy = [moment for moment in moments if moment.at < trace.busy_s]
    changes = [(later.at, later.replicas - earlier.replicas) for earlier, later in pairwise(moments)]
    return Report(
        shed=sum(moment.refused for moment in busy) / max(1e-9, sum(moment.offered for moment in busy)),
        p95_latency_s=percentile((pair for moment in busy for pair in moment.accepted), 0.95),
        gpu_hours=sum(moment.gpus for moment in moments) / 3600,
        capacity_s=_capacity(busy, pod_qps),
        most=max(moment.replicas for moment in moments),
        last=moments[-1].replicas,
        ups=sum(change > 0 for _, change in changes),
        downs=sum(change < 0 for _, change in changes),
        rises_after=sum(change > 0 for at, change in changes if at >= trace.busy_s),
    )


def percentile(weighted: Iterable[tuple[float, float]], share: float) -> float:
    """The smallest value that ``share`` of all weight is not above; pairs are (weight, value)."""
    ordered = sorted((value, weight) for weight, value in weighted if weight > 0)
    left = share * sum(weight for _, weight in ordered)
    for value, weight in ordered:
        left -= weight
        if left <= 1e-9:
            return value
    return 0.0


def _capacity(busy: Sequence[Moment], pod_qps: float) -> int | None:
    # A sum of as many thirds as there are pods may miss by a rounding.
    short = [moment.at for moment in busy if moment.ready * pod_qps < moment.offered * (1 - 1e-9)]
    if not short:
        return 0
    return None if short[-1] == busy[-1].at else short[-1] + 1


def describe(found: Report, trace: Trace) -> str:
    lines = (
        ("refused", f"{found.shed:.1%} of what was offered in the {trace.busy_s} s of load"),
        ("latency, p95", f"{found.p95_latency_s:.2f} s of those accepted"),
        ("capacity reached after", found.capacity),
        ("pods", f"at most {found.most}, {found.last} at the end"),
        ("changes", f"{found.ups} up, {found.downs} down; {found.rises_after} up after the load had ended"),
        ("GPU-hours", f"{found.gpu_hours:.2f} in {trace.length_s} s"),
    )
    return "\n".join(f"{name:<23} {value}" for name, value in lines)
