"""Probes a server and weighs it while others load it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.server import Server

PROBE_INTERVAL_S = 0.1
PROBE_TIMEOUT_S = 10.0
WEIGH_INTERVAL_S = 0.5
PATHS = ("/live", "/ready")


@dataclass
class Seen:
    """``probes``: when each was sent and how long it took, in seconds, None where it was not answered with 200."""

    probes: dict[str, list[tuple[float, float | None]]] = field(default_factory=lambda: {path: [] for path in PATHS})
    memory_mb: list[tuple[float, float]] = field(default_factory=list)


@asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Seen]:
    """Until the end of the block. Each probe has a connection of its own, as an orchestrator's has."""
    seen, done = Seen(), asyncio.Event()

    def weigh() -> None:
        seen.memory_mb.append((time.monotonic(), server.memory_mb()[1]))

    async def probe_all() -> None:
        began = time.monotonic()
        for path, took in zip(PATHS, await asyncio.gather(*(probe(server.port, path) for path in PATHS)), strict=True):
            seen.probes[path].append((began, took))

    async with asyncio.TaskGroup() as group:
        group.create_task(repeat(probe_all, PROBE_INTERVAL_S, done))
        group.create_task(repeat(lambda: asyncio.to_thread(weigh), WEIGH_INTERVAL_S, done))
        try:
            yield seen
        finally:
            done.set()


async def repeat(action: Callable[[], object], interval_s: float, done: asyncio.Event) -> None:
    while not done.is_set():
        began = time.monotonic()
        await action()  # type: ignore[misc]
        await asyncio.sleep(max(interval_s - (time.monotonic() - began), 0))


async def probe(port: int, path: str) -> float | None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
                reply = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return time.monotonic() - began if reply.startswith(b"HTTP/1.1 200 ") else None
