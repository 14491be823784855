"""What was measured and what follows from it, in words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from benchmarks.capacity.advice import MANIFEST, Pod, figure, hpa_sim, load_without_one, pods_for
from benchmarks.capacity.knee import Level


def table(levels: Sequence[Level], best: Level | None) -> str:
    lines = [
        f"| {level.clients}{' **knee**' if level is best else ''} | {level.requests_per_s:.1f} | {level.p50_ms:.1f} "
        f"| {level.p95_ms:.1f} | {level.p99_ms:.1f} | {level.refused:.1%} |"
        for level in levels
    ]
    head = ["| clients | requests/s | p50 ms | p95 ms | p99 ms | refused |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *lines])


def summary(pod: Pod, best: Level, at_target: Level, max_p95_ms: float) -> str:
    told = (
        f"One pod can do {figure(pod.qps)} requests/s ({figure(pod.tokens_per_s)} tokens/s), with {best.clients} under way and "
        f"a p95 of {best.p95_ms:.0f} ms.\n"
        f"At its target, {figure(pod.target_qps)} requests/s at random times, p50, p95 and p99 were {at_target.p50_ms:.0f}, "
        f"{at_target.p95_ms:.0f} and {at_target.p99_ms:.0f} ms;\n{at_target.refused:.1%} were refused, and up to "
        f"{at_target.clients} were under way."
    )
    if at_target.holds(max_p95_ms):
        return told
    return f"{told}\nTHAT IS TOO MUCH: either other programs used this machine, or a lower --target is needed."


def describe(pod: Pod, usual_qps: float, peak_qps: float, cold_start_s: float) -> str:
    rows = [
        ("threshold of offered-qps", figure(pod.target_qps), f"{pod.target:g} of {figure(pod.qps)} requests/s"),
        ("threshold of tokens-in-flight", figure(pod.tokens_per_s), "one second of a pod's tokens"),
        ("minReplicaCount", str(pods_for(usual_qps, pod)), _reason(usual_qps, pod)),
        ("maxReplicaCount, at least", str(pods_for(peak_qps, pod)), _reason(peak_qps, pod)),
    ]
    return (
        f"In {MANIFEST}; in autoscaling-adapter/hpa.yaml they are averageValue, minReplicas and maxReplicas:\n\n"
        + "\n".join(f"  {name:30} {value:>8}   {reason}" for name, value, reason in rows)
        + "\n\nThen see what comes of it:\n\n  "
        + shlex.join(hpa_sim(pod, usual_qps, peak_qps, cold_start_s))
    )


def _reason(qps: float, pod: Pod) -> str:
    return f"{figure(qps)} requests/s; with one pod lost the others are at {load_without_one(qps, pod):.0%}"
