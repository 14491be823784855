"""Starts SGLang workers, tests each before it serves, and watches them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from launcher.engines.base import Batch, Vectors
from launcher.engines.client import MAX_SOCKET_PATH_BYTES, WorkerClient
from launcher.engines.sglang.argv import WorkerSpec, worker_argv, worker_env
from launcher.engines.sglang.engine import SglangEngine
from launcher.errors import EngineError
from launcher.supervisor.process import ChildProcess, free_ports, unless_dead

log = logging.getLogger("launcher.supervisor")

# SGLang looks for the signal every 5 s once it has served a request.
STOP_TIMEOUT_S = 10.0

LONGEST_SOCKET_NAME = len("/worker-999")

SelfTest = Callable[[Callable[[Batch], Awaitable[Vectors]]], Awaitable[None]]


class Supervisor:
    """Keeps one process per spec and adds each to ``engine`` once ``self_test`` passed on it.

    ``start_timeout_s`` counts from process start to a passed self-test.
    """

    def __init__(
        self, specs: Sequence[WorkerSpec], engine: SglangEngine, self_test: SelfTest, *, start_timeout_s: float
    ) -> None:
        self._specs = specs
        self._engine = engine
        self._self_test = self_test
        self._start_timeout_s = start_timeout_s
        self._processes: list[ChildProcess] = []

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start all workers, call ``on_ready``, and watch until cancelled; every process has ended on return.

        Raises ``WorkerDied`` as soon as a worker ends, ``EngineError`` where one cannot start, is too slow or gives wrong
        vectors.
        """
        # Only this user may enter it, and so send batches; a worker's own HTTP API listens on loopback, without a key.
        with TemporaryDirectory(prefix="sgl-embed-") as folder:
            _refuse_long(folder)
            try:
                await self._start_all(Path(folder))
                on_ready()
                await self._watch()
            finally:
                await self._stop_all()

    async def _start_all(self, folder: Path) -> None:
        ports = free_ports(len(self._specs))
        try:
            async with asyncio.TaskGroup() as group:
                for number, (spec, port) in enumerate(zip(self._specs, ports, strict=True)):
                    address = f"ipc://{folder}/worker-{number}"
                    group.create_task(self._start(f"worker {number}", spec, port, address))
        except ExceptionGroup as failures:
            # The first to fail is the cause; the others were cancelled for it.
            raise failures.exceptions[0] from None

    async def _watch(self) -> None:
        deaths = [asyncio.create_task(process.exited()) for process in self._processes]
        try:
            first, _ = await asyncio.wait(deaths, return_when=asyncio.FIRST_COMPLETED)
            raise first.pop().result()
        finally:
            for death in deaths:
                death.cancel()

    async def _stop_all(self) -> None:
        await self._engine.stop()
        await asyncio.gather(*(process.stop(STOP_TIMEOUT_S) for process in self._processes))

    async def _start(self, name: str, spec: WorkerSpec, port: int, address: str) -> None:
        # A start is full of warnings that do not hold for an encoder; the process keeps the last of them for its death.
        level = logging.DEBUG

        def relay(line: str) -> None:
            log.log(level, "%s: %s", name, line)

        process = ChildProcess(name, worker_argv(spec, port=port), worker_env(spec, batches=address), relay)
        self._processes.append(process)
        log.info("%s: starting SGLang (takes 15-60 s)", name)
        await process.start()
        client = WorkerClient(address)
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._timed(f"{name}: model loaded", unless_dead(process, client.ready()))
                await self._timed(f"{name}: self-test passed", unless_dead(process, self._self_test(client.encode)))
        except BaseException as error:
            await client.close()
            if isinstance(error, TimeoutError):
                raise EngineError(self._too_slow(process)) from None
            raise
        level = logging.INFO
        self._engine.add(client)

    async def _timed(self, done: str, work: Coroutine[Any, Any, None]) -> None:
        started = time.perf_counter()
        await work
        log.info("%s in %.1f s", done, time.perf_counter() - started)

    def _too_slow(self, process: ChildProcess) -> str:
        return (
            f"{process.name} was not ready within {self._start_timeout_s:g} s (engine.sglang.start_timeout_s); "
            f"the last it printed:\n{process.tail}"
        )


def _refuse_long(folder: str) -> None:
    """Raises ``EngineError`` before any process starts where the path of a socket would be too long."""
    if len(os.fsencode(folder)) + LONGEST_SOCKET_NAME > MAX_SOCKET_PATH_BYTES:
        raise EngineError(f"too long a path for sockets: {folder}; set TMPDIR to a folder with a shorter one")
