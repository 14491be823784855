"""How many threads OpenVINO may use. It looks at the CPUs of the machine and does not know of a container's CPU limit."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def usable_threads(wanted: int, cpus: int | None = None, cgroup: Path = CGROUP_ROOT) -> int:
    """``wanted``, or where that is 0 the container's CPU limit, or 0 again where OpenVINO may decide.

    ``cpus`` is how many the process may run on. More threads than the limit would be stopped for most of each period.
    """
    if wanted:
        return wanted
    limit = cpu_limit(cgroup)
    if cpus is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(limit)) if limit is not None and limit < cpus else 0


def cpu_limit(cgroup: Path) -> float | None:
    """CPUs' worth of time this container may use, or None without a limit.

    cgroup v2 has ``cpu.max`` ("200000 100000"), v1 two files; https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
