"""What the processes of a server use of the machine, as /proc tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from prometheus_client import Counter, Gauge, ProcessCollector

from launcher.telemetry.lines import SERVER
from launcher.telemetry.readings import Readings
from launcher.telemetry.registry import NOTHING, Registry


class Use(NamedTuple):
    """Of one process; ``NOTHING`` where that may not be known."""

    cpu_s: float
    resident_bytes: float
    open_fds: float
    max_fds: float
    started: float


class ProcReader:
    """prometheus_client's own way through /proc, for any process."""

    def __init__(self) -> None:
        self._pid = 0
        self._collector = ProcessCollector(pid=lambda: self._pid, registry=None)

    def of(self, pid: int) -> Use | None:
        """None where there is no such process."""
        self._pid = pid
        values = {sample.name: sample.value for metric in self._collector.collect() for sample in metric.samples}
        if "process_cpu_seconds_total" not in values:
            return None
        return Use(
            values["process_cpu_seconds_total"],
            values["process_resident_memory_bytes"],
            values.get("process_open_fds", NOTHING),
            values.get("process_max_fds", NOTHING),
            values["process_start_time_seconds"],
        )


class UsageMetrics:
    """Of this process, and of those of ``names`` that it is told of: each leads a session, whose processes count as one."""

    def __init__(self, registry: Registry, names: Sequence[str]) -> None:
        cpu = Counter("embedding_process_cpu_seconds", "CPU time used, user and system.", ["process"], registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"embedding_process_{name}", text, ["process"], multiprocess_mode="livemax", registry=registry)

        resident = gauge("resident_memory_bytes", "Memory in use; what processes share counts for each of them.")
        open_fds = gauge("open_fds", "Open files and connections; of several processes, of the one nearest to its limit.")
        max_fds = gauge("max_fds", "How many it may have.")
        started = gauge("start_time_seconds", "When it was started, in seconds since 1970.")
        self._series = {
            name: _Series(
                cpu.labels(name), resident.labels(name), open_fds.labels(name), max_fds.labels(name), started.labels(name)
            )
            for name in (SERVER, *names)
        }
        self._pids = {SERVER: os.getpid()}
        self._proc = ProcReader()
        self._readings = Readings(self._read, "usage")
        registry.on_refresh(self._refresh)

    def started(self, process: str, pid: int) -> None:
        self._pids[process] = pid

    def ended(self, process: str) -> None:
        self._pids.pop(process, None)

    def _read(self) -> Mapping[str, Mapping[int, Use]]:
        """Of each process, those of its session by their ids."""
        pids = dict(self._pids)
        found = sessions()
        # This one's may be a shell's.
        of = {name: {pid} if name == SERVER else {pid, *found.get(pid, ())} for name, pid in pids.items()}
        return {name: {pid: use for pid in group if (use := self._proc.of(pid))} for name, group in of.items()}

    def _refresh(self) -> None:
        latest = self._readings.latest() or {}
        for name, series in self._series.items():
            leader = self._pids.get(name, 0)
            uses = latest.get(name, {})
            if leader in uses:
                series.show(leader, uses)
            else:
                series.hide()


class _Series:
    """Of one process, which may end and be started again."""

    def __init__(self, cpu: Counter, resident: Gauge, open_fds: Gauge, max_fds: Gauge, started: Gauge) -> None:
        self._resident = resident
        self._open_fds = open_fds
        self._max_fds = max_fds
        self._started = started
        self._cpu = cpu
        self._cpu_known: dict[tuple[int, float], float] = {}
        self._cpu_last: dict[tuple[int, float], float] = {}
        self.hide()

    def show(self, leader: int, uses: Mapping[int, Use]) -> None:
        self._resident.set(sum(use.resident_bytes for use in uses.values()))
        fullest = max(uses.values(), key=lambda use: use.open_fds / use.max_fds)
        self._open_fds.set(fullest.open_fds)
        self._max_fds.set(fullest.max_fds)
        self._started.set(uses[leader].started)
        now = {(pid, use.started): use.cpu_s for pid, use in uses.items()}
        self._cpu.inc(growth(self._cpu_known, now))
        # What is not listed this time may be next time; then it is gone.
        self._cpu_known, self._cpu_last = self._cpu_last | now, now

    def hide(self) -> None:
        for gauge in (self._resident, self._open_fds, self._max_fds, self._started):
            gauge.set(NOTHING)


def growth(before: Mapping[tuple[int, float], float], now: Mapping[tuple[int, float], float]) -> float:
    """How much CPU time was used since ``before``, by processes named by their id and start; new ones began at 0."""
    return sum(max(cpu_s - before.get(process, 0.0), 0.0) for process, cpu_s in now.items())


def sessions() -> Mapping[int, Sequence[int]]:
    """The processes of this machine by the leader of their session; none where there is no /proc."""
    found: dict[int, list[int]] = {}
    # There is no /proc everywhere.
    with suppress(OSError):
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        for pid in pids:
            # It may have ended meanwhile.
            with suppress(OSError):
                found.setdefault(os.getsid(pid), []).append(pid)
    return found
