"""SGLang as an engine: batches go to the worker with the fewest in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.engines.base import Batch, Vectors
from launcher.engines.client import WorkerClient
from launcher.errors import NotReady

# One running and one prepared.
SLOTS_PER_WORKER = 2


@dataclass(slots=True, eq=False)
class _Worker:
    client: WorkerClient
    in_flight: int = 0


class SglangEngine:
    """Encodes on whichever of ``workers`` processes are there; who keeps them tells ``add`` and ``remove``."""

    def __init__(self, *, max_batch_tokens: int, workers: int) -> None:
        self.slots = SLOTS_PER_WORKER * workers
        self.max_batch_tokens = max_batch_tokens
        self._workers: dict[str, _Worker] = {}
        self._room = asyncio.Event()

    def add(self, client: WorkerClient) -> None:
        """Send batches to this worker too."""
        self._workers[client.address] = _Worker(client)
        self._room.set()

    def remove(self, client: WorkerClient) -> None:
        """Send no more batches there; those on their way are the client's."""
        self._workers.pop(client.address, None)

    async def available(self) -> None:
        while not any(worker.in_flight < SLOTS_PER_WORKER for worker in self._usable()):
            self._room.clear()
            await self._room.wait()

    async def run(self, batch: Batch) -> Vectors:
        if reason := self.unready_reason():
            raise NotReady(reason)
        worker = min(self._usable(), key=lambda candidate: candidate.in_flight)
        worker.in_flight += 1
        try:
            return await worker.client.encode(batch)
        finally:
            worker.in_flight -= 1
            self._room.set()

    def unready_reason(self) -> str | None:
        return None if any(self._usable()) else "no SGLang worker is ready"

    def _usable(self) -> Iterator[_Worker]:
        return (worker for worker in self._workers.values() if not worker.client.closed)

    async def stop(self) -> None:
        self._workers.clear()
