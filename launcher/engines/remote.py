"""The engine of another process."""

from __future__ import annotations

import asyncio

from launcher.engines.base import Batch, Vectors
from launcher.engines.client import WorkerClient
from launcher.errors import EngineError, NotReady

# An answer to whether it is there takes no longer than this, unless its event loop hangs.
CHECK_TIMEOUT_S = 5.0


class RemoteEngine:
    """What a ``SharedEngine`` answers for at ``address``. Whether it is ready is known as of the last ``check``."""

    def __init__(self, address: str, *, slots: int, max_batch_tokens: int) -> None:
        self.slots = slots
        self.max_batch_tokens = max_batch_tokens
        self._client = WorkerClient(address)
        self._unready_reason: str | None = "the engine is starting"
        self._available = asyncio.Event()

    async def run(self, batch: Batch) -> Vectors:
        try:
            return await self._client.encode(batch)
        except NotReady as error:
            self._know(str(error))
            raise

    async def available(self) -> None:
        await self._available.wait()

    async def check(self) -> None:
        """Ask whether it is ready."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._client.ready()
            self._know(None)
        except TimeoutError:
            self._know("the process that owns the engine does not answer")
        except (NotReady, EngineError) as error:
            self._know(str(error))

    def unready_reason(self) -> str | None:
        return self._unready_reason

    def _know(self, unready_reason: str | None) -> None:
        self._unready_reason = unready_reason
        if unready_reason is None:
            self._available.set()
        else:
            self._available.clear()

    async def stop(self) -> None:
        await self._client.close()
