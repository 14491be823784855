"""``sgl-embed hpa-sim``."""

from __future__ import annotations

from pathlib import Path

from launcher.autoscaling.manifest import read_autoscaler
from launcher.autoscaling.plot import plot
from launcher.autoscaling.report import describe, report
from launcher.autoscaling.simulate import Cluster, simulate
from launcher.autoscaling.sweep import Limits, sweep
from launcher.autoscaling.sweep import describe as describe_sweep
from launcher.autoscaling.traces import Trace


def hpa_sim(manifest: Path, cluster: Cluster, trace: Trace, sweep_within: Limits | None, picture: Path | None) -> int:
    """Prints what becomes of ``trace``; with limits also what becomes of it with other settings."""
    autoscaler = read_autoscaler(manifest)
    moments = simulate(autoscaler, cluster, trace)
    print(f"{autoscaler.deployment}, {autoscaler.least} to {autoscaler.most} pods, {trace.name}")
    print(describe(report(moments, trace, cluster.shape.qps), trace))
    if picture:
        plot(moments, cluster.shape.qps, f"{trace.name}, {manifest}", picture)
    if sweep_within:
        print(f"\n{describe_sweep(list(sweep(autoscaler, cluster, trace)), sweep_within)}")
    return 0
