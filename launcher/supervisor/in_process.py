"""The keeper of an engine that runs in this process: start, self-test, hold, stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from launcher.engines.base import Batch, Vectors
from launcher.engines.openvino.engine import OpenVinoEngine
from launcher.supervisor.keeper import counted
from launcher.telemetry.hooks import ProcessHooks
from launcher.telemetry.lines import SERVER

log = logging.getLogger("launcher.supervisor")


class InProcess:
    def __init__(
        self,
        engine: OpenVinoEngine,
        self_test: Callable[[Callable[[Batch], Awaitable[Vectors]]], Awaitable[None]],
        hooks: ProcessHooks,
    ) -> None:
        self._engine = engine
        self._self_test = self_test
        self._hooks = hooks

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Call ``on_ready`` once the engine passed its self-test, then hold it until cancelled.

        Raises ``EngineError`` where the engine cannot start or its vectors are wrong.
        """
        started = time.perf_counter()
        await self._engine.start()
        log.info("model loaded in %.1f s", time.perf_counter() - started)
        try:
            started = time.perf_counter()
            await counted(self._self_test(self._engine.try_out), SERVER, self._hooks)
            log.info("self-test passed in %.1f s", time.perf_counter() - started)
            on_ready()
            await asyncio.Event().wait()
        finally:
            await self._engine.stop()
