"""The keeper of an engine that another process owns: wait until it is ready, and keep asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from launcher.engines.remote import RemoteEngine

CHECK_EVERY_S = 1.0
# While batches wait for it.
CHECK_UNREADY_EVERY_S = 0.1


class Elsewhere:
    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Call ``on_ready`` once the engine is ready, then keep what is known of its state fresh until cancelled."""
        told = False
        try:
            while True:
                await self._engine.check()
                if not told and self._engine.unready_reason() is None:
                    on_ready()
                    told = True
                await asyncio.sleep(CHECK_UNREADY_EVERY_S if self._engine.unready_reason() else CHECK_EVERY_S)
        finally:
            await self._engine.stop()
