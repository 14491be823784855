"""One run: how much a server can do, then several times as much asked of it, then peace."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import busy_s, own_s
from benchmarks.overload.bars import Observed, Rows
from benchmarks.overload.watch import watching
from benchmarks.server import Server
from benchmarks.target import ContenderFailed

FACTOR = 5.0
# Of capacity: enough requests to say what is normal, and nothing waits.
CALM = 0.2
# What is not answered a minute after the last request will not be.
GRACE_S = 90.0


@dataclass(frozen=True)
class Schedule:
    """Seconds of each part; ``clients`` of the closed loop, enough to fill batches while others are on their way."""

    overload_s: float
    capacity_s: float = 20.0
    calm_s: float = 10.0
    clients: int = 128


async def observe(server: Server, schedule: Schedule, max_wait_s: float, rows_file: Path) -> Observed:
    """Raises ``ContenderFailed`` where the load could not be made."""
    began, busy_before, own_before, server_before = time.monotonic(), busy_s(), own_s(), server.cpu_s()
    # Probes cost something too, so they are sent all the time.
    async with watching(server) as seen:
        await measure_capacity(server, schedule)
        first = await measure_capacity(server, schedule)
        idle_mb = server.memory_mb()[1]
        begins, rows = await overload(server, first, schedule, rows_file)
        # A machine is not equally fast all the time.
        capacity = (first + await measure_capacity(server, schedule)) / 2
    load_s = own_s() - own_before
    other_s = busy_s() - busy_before - (server.cpu_s() - server_before) - load_s
    _, begin, end, _ = begins
    during = {path: [took for at, took in probes if begin <= at < end] for path, probes in seen.probes.items()}
    return Observed(
        capacity=capacity,
        max_wait_s=max_wait_s,
        begin=begin,
        end=end,
        before=rows[rows[:, 0] < begin],
        overload=rows[(rows[:, 0] >= begin) & (rows[:, 0] < end)],
        after=rows[rows[:, 0] >= end],
        probes_ms={path: [took * 1e3 for took in times if took is not None] for path, times in during.items()},
        failed_probes=sum(took is None for times in during.values() for took in times),
        load_cores=load_s / (time.monotonic() - began),
        other_cores=other_s / (time.monotonic() - began),
        idle_mb=idle_mb,
        peak_mb=max(megabytes for _, megabytes in seen.memory_mb),
    )


async def measure_capacity(server: Server, schedule: Schedule) -> float:
    arguments = ("closed", str(server.port), str(schedule.capacity_s), str(schedule.clients))
    lines = await run_load(arguments, schedule.capacity_s)
    return float(lines[-1])


async def overload(server: Server, capacity: float, schedule: Schedule, rows_file: Path) -> tuple[list[float], Rows]:
    """When each phase began and the last ended, and a row for each request."""
    rates = [(CALM, schedule.calm_s), (FACTOR, schedule.overload_s), (CALM, schedule.calm_s)]
    phases = [f"{factor * capacity}:{seconds}" for factor, seconds in rates]
    lines = await run_load(("open", str(server.port), str(rows_file), *phases), sum(seconds for _, seconds in rates))
    return [float(line) for line in lines], np.load(rows_file)


async def run_load(arguments: tuple[str, ...], seconds: float) -> list[bytes]:
    """The lines that it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.overload.load", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds + GRACE_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise ContenderFailed(f"the load was not done {GRACE_S:g} s after its time") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ContenderFailed(f"the load ended with status {process.returncode}")
    return output.splitlines()
