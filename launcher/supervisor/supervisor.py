"""Keeps the SGLang workers of one server."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from launcher.engines.client import MAX_SOCKET_PATH_BYTES
from launcher.engines.sglang.argv import WorkerSpec
from launcher.errors import EngineError
from launcher.supervisor.lives import all_ready, cancel
from launcher.supervisor.process import PORTS
from launcher.supervisor.worker import Upkeep, Worker

log = logging.getLogger("launcher.supervisor")

# The number of the worker, and that of its life.
LONGEST_SOCKET_NAME = len("/worker-999.99999")


class Supervisor:
    """Keeps one worker per spec and has the engine know those that take batches."""

    def __init__(self, specs: Sequence[WorkerSpec], upkeep: Upkeep, folder: Path) -> None:
        """``folder``: that only this user may enter, for sockets, since who reaches one may send batches."""
        self._specs = specs
        self._upkeep = upkeep
        self._folder = folder

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start all workers, call ``on_ready`` once each was ready, and keep them until cancelled; every process has ended
        on return.

        Raises ``EngineError`` where one does not become ready the first time, and when the last is given up.
        """
        _refuse_long(self._folder)
        step = len(self._specs)
        workers = [
            Worker(name, spec, PORTS[number::step], self._folder, self._upkeep)
            for number, (name, spec) in enumerate(zip(worker_names(step), self._specs, strict=True))
        ]
        ready = [asyncio.Event() for _ in workers]
        keeping = [asyncio.create_task(worker.run(event.set)) for worker, event in zip(workers, ready, strict=True)]
        try:
            await all_ready(keeping, ready)
            on_ready()
            await _outlive(keeping)
        finally:
            await self._upkeep.engine.stop()
            await cancel(*keeping)


def worker_names(count: int) -> list[str]:
    return [f"worker {number}" for number in range(count)]


async def _outlive(keeping: Sequence[asyncio.Task[NoReturn]]) -> NoReturn:
    """As long as one worker is kept, the server has an engine. Raises what the last was given up for."""
    left = set(keeping)
    while True:
        ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            error = task.exception()
            assert error is not None
            if not left or not isinstance(error, EngineError):
                raise error
            log.error("%s; it is given up, %d of %d workers are left", error, len(left), len(keeping))


def _refuse_long(folder: Path) -> None:
    """Raises ``EngineError`` before any process starts where the path of a socket would be too long."""
    if len(os.fsencode(folder)) + LONGEST_SOCKET_NAME > MAX_SOCKET_PATH_BYTES:
        raise EngineError(f"too long a path for sockets: {folder}; set TMPDIR to a folder with a shorter one")
