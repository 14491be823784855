"""One SGLang worker, kept alive: whenever its process ends or hangs, another takes its place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import Any, NoReturn

from launcher.engines.base import Batch, Vectors
from launcher.engines.client import WorkerClient
from launcher.engines.sglang.argv import WorkerSpec, worker_argv, worker_env
from launcher.engines.sglang.engine import SglangEngine
from launcher.errors import EngineError
from launcher.supervisor.keeper import counted
from launcher.supervisor.lives import keep_alive
from launcher.supervisor.process import EXIT_TIMEOUT_S, ChildProcess, free_port, unless_dead
from launcher.supervisor.watchdog import watch
from launcher.telemetry.counts import counts_folder
from launcher.telemetry.hooks import ProcessHooks
from launcher.telemetry.lines import Event

log = logging.getLogger("launcher.supervisor")

# SGLang looks for the signal every 5 s once it has served a request.
STOP_TIMEOUT_S = 10.0

SelfTest = Callable[[Callable[[Batch], Awaitable[Vectors]]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What every worker of a server is kept by.

    ``self_test`` is what a process must pass before it gets batches, within ``start_timeout_s`` of its start; ``canary`` the
    batch by which it is seen later that it neither hangs nor went wrong.
    """

    engine: SglangEngine
    self_test: SelfTest
    canary: Batch
    hooks: ProcessHooks
    start_timeout_s: float
    hang_timeout_s: float


class Worker:
    """One worker; each of its lives is a process with a socket of its own."""

    def __init__(self, name: str, spec: WorkerSpec, ports: Sequence[int], folder: Path, upkeep: Upkeep) -> None:
        """``ports``: that no other worker takes its HTTP port from; ``folder`` is for sockets."""
        self._name = name
        self._spec = spec
        self._ports = ports
        self._folder = folder
        self._upkeep = upkeep
        self._lives = count()
        upkeep.hooks.process_state(name, "new")

    async def run(self, on_ready: Callable[[], None]) -> NoReturn:
        """Keep it alive until cancelled. Raises as ``keep_alive`` does."""
        await keep_alive(self._name, self._live, self._upkeep.hooks, on_ready)

    async def _live(self, on_ready: Callable[[], None]) -> NoReturn:
        """One process from its start to its end, of which it raises. Nothing of it is left then."""
        socket = self._folder / f"{self._name.replace(' ', '-')}.{next(self._lives)}"
        address = f"ipc://{socket}"
        relay = _Relay(self._name)
        argv = worker_argv(self._spec, port=free_port(self._ports))
        counts = counts_folder(self._folder, self._name)
        if self._spec.metrics:
            counts.mkdir(exist_ok=True)
        # Nobody calls a worker's own HTTP API but the worker itself, at its start.
        environment = worker_env(self._spec, name=self._name, batches=address, key=token_hex(), counts=counts)
        process = ChildProcess(self._name, argv, environment, relay)
        client = WorkerClient(address)
        patience_s = 0.0
        try:
            await self._start(process, client)
            relay.level = logging.INFO
            self._upkeep.engine.add(client)
            on_ready()
            raise await self._end(process, client)
        except asyncio.CancelledError:
            patience_s = STOP_TIMEOUT_S
            raise
        finally:
            self._upkeep.engine.remove(client)
            # Whoever stops the server may do so in the middle of this.
            try:
                await client.close()
            finally:
                await process.stop(patience_s)
            socket.unlink(missing_ok=True)
            rmtree(counts, ignore_errors=True)

    async def _start(self, process: ChildProcess, client: WorkerClient) -> None:
        log.info("%s: starting SGLang (takes 15-60 s)", self._name)
        await process.start()
        self._upkeep.hooks.process_started(self._name, process.pid)
        try:
            async with asyncio.timeout(self._upkeep.start_timeout_s):
                await self._timed("model loaded", unless_dead(process, client.ready()))
                tested = unless_dead(process, self._upkeep.self_test(client.encode))
                await self._timed("self-test passed", counted(tested, self._name, self._upkeep.hooks))
        except TimeoutError:
            raise EngineError(
                f"{self._name} was not ready within {self._upkeep.start_timeout_s:g} s (engine.sglang.start_timeout_s); "
                f"the last it printed:\n{process.tail}"
            ) from None

    async def _end(self, process: ChildProcess, client: WorkerClient) -> EngineError:
        """Wait until the process ends, or until there is a reason to end it."""
        exited = asyncio.create_task(process.exited())
        gone = asyncio.create_task(client.gone())
        check = partial(self._upkeep.hooks.watchdog_check, self._name)
        wrong = asyncio.create_task(
            watch(client, self._upkeep.canary, self._upkeep.hang_timeout_s, on_passed=partial(check, "passed"))
        )
        try:
            await asyncio.wait({exited, gone, wrong}, return_when=asyncio.FIRST_COMPLETED)
            if wrong.done() and not client.closed:
                check("failed")
                # No answer of it may be used any more.
                return EngineError(f"{self._name} {wrong.result()}")
            await asyncio.wait({exited}, timeout=EXIT_TIMEOUT_S)
            return exited.result() if exited.done() else EngineError(f"{self._name} lost its scheduler process")
        finally:
            for task in (exited, gone, wrong):
                task.cancel()

    async def _timed(self, done: str, work: Coroutine[Any, Any, None]) -> None:
        started = time.perf_counter()
        await work
        log.info("%s: %s in %.1f s", self._name, done, time.perf_counter() - started)


class _Relay:
    """Passes what a worker prints on to the log. A start is full of warnings that do not hold for an encoder."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.level = logging.DEBUG

    def __call__(self, line: str) -> None:
        if log.isEnabledFor(self.level):
            log.log(self.level, Event(f"{self._name}: {line}", process=self._name, message=line))
