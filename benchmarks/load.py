"""Drives a server with ``wrk``, which costs the machine little, and turns what it says into figures."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.bodies import Bodies
from benchmarks.machine import busy_s, own_s
from benchmarks.records import Figures
from benchmarks.server import Server
from benchmarks.target import ContenderFailed

SCRIPT = Path(__file__).with_name("rotate.lua")
MARK = "RESULT "
REPLY_TIMEOUT_S = 120

Span = tuple[float, float]


class Counted(msgspec.Struct, frozen=True):
    """What rotate.lua prints. ``spans``: per client, when each request was sent and answered, one after the other."""

    requests: int
    seconds: float
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    spans: list[list[float]]


def measure(server: Server, bodies: Bodies, file: Path, clients: int, seconds: float, *, timed: bool) -> Figures:
    """One repetition. Raises ``ContenderFailed`` where any request failed."""
    busy_before, own_before, before = busy_s(), own_s(), server.cpu_s()
    counted = run_wrk(server.url, file, clients, seconds, timed=timed)
    cpu_s = server.cpu_s() - before
    other_s = busy_s() - busy_before - cpu_s - (own_s() - own_before)
    if counted.failed:
        raise ContenderFailed(f"{counted.failed} of {counted.requests} requests failed")
    if not counted.requests:
        raise ContenderFailed(f"it answered no request within {seconds:g} s")
    figures = timed_figures(counted.spans) if timed else counted_figures(counted)
    figures["embeddings_per_s"] = figures["requests_per_s"] * bodies.texts_per_request
    figures["tokens_per_s"] = figures["requests_per_s"] * bodies.tokens_per_request
    figures["cpu_ms_per_embedding"] = cpu_s * 1e3 / counted.seconds / figures["embeddings_per_s"]
    figures["other_cores"] = other_s / counted.seconds
    return figures


def run_wrk(url: str, bodies: Path, clients: int, seconds: float, *, timed: bool) -> Counted:
    threads = clients if timed else 1
    command = [
        *("wrk", "--threads", str(threads), "--connections", str(clients), "--duration", f"{math.ceil(seconds)}s"),
        *("--timeout", f"{REPLY_TIMEOUT_S}s", "--script", str(SCRIPT), url),
        *("--", str(bodies), str(threads), "timed" if timed else "counted"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + REPLY_TIMEOUT_S)
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise ContenderFailed(f"wrk ended with status {done.returncode}: {done.stderr[-500:]}{done.stdout[-500:]}")
    return msgspec.json.decode(line.removeprefix(MARK), type=Counted)


def counted_figures(counted: Counted) -> Figures:
    return {
        "requests_per_s": counted.requests / counted.seconds,
        "p50_ms": counted.p50_ms,
        "p95_ms": counted.p95_ms,
        "p99_ms": counted.p99_ms,
    }


def timed_figures(times: Sequence[Sequence[float]]) -> Figures:
    """``times`` as in ``Counted.spans``."""
    clients = [list(zip(each[::2], each[1::2], strict=True)) for each in times]
    if not all(clients):
        raise ContenderFailed("a client got no answer at all in a whole repetition")
    latencies_ms = [(answered - sent) * 1e3 for spans in clients for sent, answered in spans]
    p50, p95, p99 = (float(p) for p in np.percentile(latencies_ms, (50, 95, 99)))
    return {"requests_per_s": rate(clients), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def rate(clients: Sequence[Sequence[Span]]) -> float:
    """Requests per second while all clients were busy.

    Slow requests that end in step would make a plain count jump by several at a time, so each is spread evenly over its own
    span, and counts as far as that lies in the window.
    """
    begin = max(spans[0][0] for spans in clients)
    end = min(spans[-1][1] for spans in clients)
    if end <= begin:
        raise ContenderFailed("the clients were never all busy at the same time")
    inside = sum(
        max(min(answered, end) - max(sent, begin), 0) / (answered - sent) for spans in clients for sent, answered in spans
    )
    return inside / (end - begin)
