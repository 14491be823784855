"""Processes that have to live: whenever one ends, another takes its place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

from launcher.errors import EngineError, NotReady, WorkerDied
from launcher.supervisor.backoff import count_failures, restart_delay_s
from launcher.telemetry.hooks import ProcessHooks

log = logging.getLogger("launcher.supervisor")

# One process from its start to its end, of which it raises an EngineError; it calls what it is given once it is ready.
Live = Callable[[Callable[[], None]], Awaitable[NoReturn]]


async def keep_alive(name: str, live: Live, hooks: ProcessHooks, on_ready: Callable[[], None]) -> NoReturn:
    """Live again and again until cancelled; ``on_ready`` is called each time that the process is ready.

    Raises ``EngineError`` where the first life ends before it was ready: what is wrong then will not pass. Later, where one
    life after the other ends too soon.
    """
    failures = 0
    was_ready = False
    ready_since: float | None = None

    def ready() -> None:
        nonlocal was_ready, ready_since
        was_ready, ready_since = True, time.monotonic()
        hooks.process_state(name, "ready")
        on_ready()

    while True:
        ready_since = None
        hooks.process_state(name, "starting")
        try:
            await live(ready)
        except (EngineError, NotReady, OSError) as cause:
            hooks.process_state(name, "dead")
            # A socket that closes before its first answer, or a machine without a free file descriptor, ends a life too.
            error = cause if isinstance(cause, EngineError) else EngineError(f"{name}: {cause}")
            failures = count_failures(failures, time.monotonic() - ready_since if ready_since else 0.0)
            delay_s = restart_delay_s(failures) if was_ready else None
            if delay_s is None:
                raise error from None
            _tell(error, failures, delay_s)
        except asyncio.CancelledError:
            hooks.process_state(name, "draining")
            raise
        await asyncio.sleep(delay_s)
        hooks.process_restart(name)


async def all_ready(keeping: Sequence[asyncio.Task[NoReturn]], ready: Sequence[asyncio.Event]) -> None:
    """Wait until each was ready once. Raises what the first failed with."""
    waiting = asyncio.create_task(_wait_all(ready))
    try:
        await asyncio.wait({waiting, *keeping}, return_when=asyncio.FIRST_COMPLETED)
        for task in keeping:
            if task.done():
                task.result()
    finally:
        waiting.cancel()


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Return once all have ended, however."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _tell(error: EngineError, failures: int, delay_s: float) -> None:
    log.error("%s; it is started again in %g s (%d in a row)", error, delay_s, failures)
    if isinstance(error, WorkerDied) and error.log_tail:
        log.error("%s: the last it printed:\n%s", error.worker, error.log_tail)
