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

    async def run(self, batch: Batch) -> Vectors:
        return await self._client.encode(batch)

    async def check(self) -> None:
        """Ask whether it is ready."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._client.ready()
            self._unready_reason = None
        except TimeoutError:
            self._unready_reason = "the process that owns the engine does not answer"
        except (NotReady, EngineError) as error:
            self._unready_reason = str(error)

    def unready_reason(self) -> str | None:
        return self._unready_reason

    async def stop(self) -> None:
        await self._client.close()
