"""One gateway over HTTP in this process: serve, wait for a signal, and take everything down in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import time
from collections.abc import Callable

from launcher.compose import Parts
from launcher.serve.http import HttpServer
from launcher.serve.memory import release_unused
from launcher.serve.reload import Reload
from launcher.serve.signals import Signals
from launcher.telemetry.registry import keep_fresh

log = logging.getLogger("launcher.serve")

# What even a hurried stop leaves for the last replies, which tell callers that the server is going.
CLOSING_S = 1.0
# How long a thread with a finished batch waits for Python's lock while the event loop is busy. With Python's own 5 ms, a
# 2-layer model gave 3,300 to 3,600 short texts a second on 2 cores, with this 3,700 to 3,900 (2026-11-21).
SWITCH_INTERVAL_S = 0.0002
# New objects between two searches for garbage in cycles. With Python's own 700, and all that is loaded searched each time, a
# request of one short text cost 104 us in the gateway instead of 81, and one in a hundred waited 20 ms (2026-11-21).
GC_THRESHOLD = 10_000


async def run_server(
    parts: Parts,
    http: HttpServer,
    listeners: list[socket.socket],
    drain_timeout_s: float,
    signals: Signals,
    reload: Reload,
    on_ready: Callable[[], None],
) -> int:
    """Serve until SIGINT or SIGTERM, or until the engine or HTTP ends; ``on_ready`` is called once requests are taken."""

    def open_gates() -> None:
        spare_what_is_loaded()
        release_unused()
        parts.readiness.serve(parts.faults, parts.pauses)
        on_ready()

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    parts.batcher.start()
    engine = asyncio.create_task(parts.keeper.run(open_gates), name="engine")
    serving = asyncio.create_task(http.serve(listeners), name="http")
    stop = asyncio.create_task(signals.first.wait(), name="signal")
    reloading = asyncio.create_task(reload.on(signals.hangup), name="reload")
    measuring = asyncio.create_task(keep_fresh(parts.registry), name="measure")
    try:
        async with parts.spans(signals.second), parts.redis:
            await asyncio.wait({engine, serving, stop}, return_when=asyncio.FIRST_COMPLETED)
            return await shut_down(parts, http, serving, signals, drain_timeout_s if stop.done() else 0)
    finally:
        stop.cancel()
        reloading.cancel()
        measuring.cancel()
        await end(engine)


def spare_what_is_loaded() -> None:
    """What lives now lives as long as the process, so that searching it for garbage is work for nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def shut_down(parts: Parts, http: HttpServer, serving: asyncio.Task[None], signals: Signals, timeout_s: float) -> int:
    """Wait for accepted requests and for their replies to leave; a second signal or the timeout ends the wait.

    Returns the exit status: 0 where every accepted request was answered.
    """
    deadline = time.monotonic() + timeout_s
    parts.readiness.drain()
    if timeout_s:
        log.info("stopping: finishing accepted requests (at most %g s; a second signal stops at once)", timeout_s)
    again = asyncio.create_task(signals.second.wait())
    idle = asyncio.create_task(parts.readiness.idle())
    await asyncio.wait({idle, again}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    answered = idle.done()
    idle.cancel()
    await parts.batcher.stop()
    http.stop(within_s=max(deadline - time.monotonic(), CLOSING_S))
    await asyncio.wait({serving, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    sent = http.stop(within_s=0)
    await serving
    if answered and sent:
        return 0
    log.warning("stopped with requests unanswered")
    return 1


async def end(engine: asyncio.Task[None]) -> None:
    """Stop the engine and pass on the error it died of, if it did."""
    died = engine.done()
    engine.cancel()
    try:
        await engine
    except asyncio.CancelledError:
        if died:
            raise
