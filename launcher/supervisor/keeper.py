"""What starts an engine and holds it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from launcher.errors import EngineError
from launcher.telemetry.hooks import ProcessHooks


class Keeper(Protocol):
    async def run(self, on_ready: Callable[[], None]) -> None:
        """Return only by an error or by being cancelled; the engine is stopped then."""
        ...


class Timed:
    """A keeper of which the metrics know how long it took until its engine was ready."""

    def __init__(self, keeper: Keeper, hooks: ProcessHooks) -> None:
        self._keeper = keeper
        self._hooks = hooks

    async def run(self, on_ready: Callable[[], None]) -> None:
        started = time.perf_counter()

        def ready() -> None:
            self._hooks.model_loaded(time.perf_counter() - started)
            on_ready()

        await self._keeper.run(ready)


async def counted(self_test: Awaitable[None], process: str, hooks: ProcessHooks) -> None:
    """Pass the self-test of the engine in ``process``, or raise its ``EngineError``."""
    try:
        await self_test
    except EngineError:
        hooks.self_test(process, "failed")
        raise
    hooks.self_test(process, "passed")
