"""The gateway processes of a server: started together, watched, drained together."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NoReturn

from launcher.errors import EngineError, WorkerDied
from launcher.supervisor.lives import all_ready, cancel, keep_alive
from launcher.supervisor.process import ChildProcess, unless_dead
from launcher.telemetry.hooks import ProcessHooks
from launcher.telemetry.metrics import FOLDER_VARIABLE, forget_process

log = logging.getLogger("launcher.supervisor")

# What goes over a process's socket besides its setup.
READY = b"ready"
CONNECTION = b"c"
BEAT = b"b"
BEAT_S = 1.0
# Without any, a gateway is given up.
HANG_BEATS = 20
# More than the kernel's buffer for a socket takes.
MAX_SETUP_BYTES = 1 << 20
# Until what could not be accepted or given is tried again.
RETRY_S = 0.1
# From a ready engine to a gateway that takes requests.
START_TIMEOUT_S = 120.0
# What a gateway may take longer than it was given before it is hurried, and then before it is killed.
GRACE_S = 5.0


class GatewayProcess:
    """``module`` in a process of its own, at the other end of a socket whose file descriptor is its only argument.

    There it is told ``setup``, says when it takes requests and from then on every second that it lives, and is given
    connections. SIGTERM drains it; SIGINT after that ends it at once.
    """

    def __init__(self, name: str, module: str, setup: object, metrics_folder: Path) -> None:
        self.name = name
        self.was_ready = False
        self._reload_missed = False
        self._setup = setup
        self._metrics_folder = metrics_folder
        # A message stays a message.
        self._channel, self._its_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        fd = self._its_channel.fileno()
        # Modules are found where this process found them, and nowhere else.
        env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), FOLDER_VARIABLE: str(metrics_folder)}
        self._process = ChildProcess(name, [sys.executable, "-P", "-m", module, str(fd)], env, pass_fds=[fd])

    @property
    def started(self) -> bool:
        return self._process.started

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        # Others could read the API keys in a command line or in an environment.
        self._channel.send(pickle.dumps(self._setup))
        await self._process.start()
        self._its_channel.close()

    async def ready(self) -> None:
        """Wait until it takes requests. Raises ``WorkerDied`` where it ends before that."""
        await unless_dead(self._process, self._told())
        self.was_ready = True
        if self._reload_missed:
            self.reload()

    async def silent(self) -> EngineError:
        """Wait until nothing was heard of it for too long: its event loop hangs, and with it all of its connections."""
        missed = 0
        # Beat by beat, so that it is not blamed where this process was stopped itself.
        while missed < HANG_BEATS:
            try:
                beat = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._channel, len(BEAT)), BEAT_S)
            except TimeoutError:
                missed += 1
            except ConnectionResetError:
                # It ended with connections that it had been given, and had not taken yet.
                raise await self.exited() from None
            else:
                missed = 0
                if not beat:
                    raise await self.exited()
        return EngineError(f"{self.name} has given no sign of life for {HANG_BEATS * BEAT_S:g} s")

    async def exited(self) -> WorkerDied:
        return await self._process.exited()

    def give(self, connection: socket.socket) -> bool:
        """Have it serve ``connection`` too. Returns whether it could be given: it may have ended, or be far behind."""
        try:
            socket.send_fds(self._channel, [CONNECTION], [connection.fileno()])
        except OSError:
            return False
        return True

    def reload(self) -> None:
        """SIGHUP; before it takes requests, when that might still end it, it is kept for then."""
        if self.was_ready:
            self.signal(signal.SIGHUP)
        else:
            self._reload_missed = True

    def signal(self, number: int) -> None:
        self._process.signal(number)

    async def kill(self) -> None:
        """Also where it has ended by itself: what it counted stays, what it measured is gone."""
        await self._process.stop(timeout_s=0)
        if self.started:
            forget_process(self.pid, self._metrics_folder)
        self._channel.close()
        self._its_channel.close()

    async def _told(self) -> None:
        told = b""
        # One that ends with its setup unread resets the channel.
        with suppress(ConnectionResetError):
            told = await asyncio.get_running_loop().sock_recv(self._channel, len(READY))
        if not told:
            raise await self._process.exited()


class Gateways:
    """The gateway processes of one server: one for each of ``names``, made by ``make`` for each of its lives."""

    def __init__(self, names: Sequence[str], make: Callable[[str], GatewayProcess], hooks: ProcessHooks) -> None:
        self._make = make
        self._hooks = hooks
        # The present life of each; before the first, none.
        self._processes: dict[str, GatewayProcess] = {}
        self._names = names
        self._turn = cycle(names)

    async def run(self, engine_ready: asyncio.Event, on_ready: Callable[[], None]) -> NoReturn:
        """Start all, call ``on_ready`` once each takes requests, which none does before the engine is ready, and keep them.

        When it is cancelled they live on, for ``drain`` or ``kill``. Raises ``EngineError`` where one does not come up the
        first time, or keeps on ending.
        """
        ready = {name: asyncio.Event() for name in self._names}
        keeping = [
            asyncio.create_task(keep_alive(name, partial(self._live, name, engine_ready), self._hooks, ready[name].set))
            for name in self._names
        ]
        try:
            await all_ready(keeping, list(ready.values()))
            on_ready()
            ended, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
            raise next(error for task in ended if (error := task.exception()))
        finally:
            await cancel(*keeping)

    async def hand_out(self, listener: socket.socket) -> NoReturn:
        """Accept connections and give them to the processes in turn.

        Were they to accept from one socket themselves, whichever wakes first would take all that are waiting.
        """
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        # What it accepts inherits this.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failing = False
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                if not failing:
                    log.warning("cannot accept connections, trying again every %g s: %s", RETRY_S, error.strerror)
                failing = True
                await asyncio.sleep(RETRY_S)
                continue
            failing = False
            with connection:
                await self._give(connection)

    def reload(self) -> None:
        """Have each read anew what it may."""
        for process in self._processes.values():
            process.reload()

    async def drain(self, timeout_s: float, hurry: asyncio.Event) -> bool:
        """Have each finish its accepted requests and end; ``hurry`` or the timeout ends the wait.

        Returns whether every accepted request was answered. None lives on return.
        """
        started = [process for process in self._processes.values() if process.started]
        ends = asyncio.gather(*(process.exited() for process in started))
        self._signal(signal.SIGTERM)
        hurried: asyncio.Future[Any] = asyncio.create_task(hurry.wait())
        patience_s = timeout_s + GRACE_S if timeout_s else 0
        await asyncio.wait({ends, hurried}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        self._signal(signal.SIGINT)
        await asyncio.wait({ends}, timeout=GRACE_S)
        await self.kill()
        codes = [end.exit_code for end in await ends]
        return not any(code and process.was_ready for process, code in zip(started, codes, strict=True))

    async def kill(self) -> None:
        await asyncio.gather(*(process.kill() for process in self._processes.values()))

    async def _give(self, connection: socket.socket) -> None:
        while not any(process.give(connection) for process in self._candidates()):  # noqa: ASYNC110 - nobody tells of room
            await asyncio.sleep(RETRY_S)

    def _candidates(self) -> list[GatewayProcess]:
        """In turn; those that start last, which is where probes go while there are no others."""
        in_turn = [self._processes[name] for name in islice(self._turn, len(self._names)) if name in self._processes]
        # islice leaves the turn where it began; the next connection begins one further.
        next(self._turn)
        return sorted(in_turn, key=lambda process: not process.was_ready)

    def _signal(self, number: int) -> None:
        for process in self._processes.values():
            process.signal(number)

    async def _live(self, name: str, engine_ready: asyncio.Event, on_ready: Callable[[], None]) -> NoReturn:
        process = self._processes[name] = self._make(name)
        try:
            await process.start()
            self._hooks.process_started(name, process.pid)
            await _ready(process, engine_ready)
            on_ready()
            raise await _end(process)
        except Exception:
            await process.kill()
            raise


async def _end(process: GatewayProcess) -> EngineError:
    """Wait until the process ends, or until there is a reason to end it."""
    exited = asyncio.create_task(process.exited())
    silent = asyncio.create_task(process.silent())
    try:
        await asyncio.wait({exited, silent}, return_when=asyncio.FIRST_COMPLETED)
        return exited.result() if exited.done() else silent.result()
    finally:
        exited.cancel()
        silent.cancel()


async def _ready(process: GatewayProcess, engine_ready: asyncio.Event) -> None:
    """Raises ``WorkerDied`` where it ends, ``EngineError`` where it takes no requests long after the engine is ready."""
    ready = asyncio.create_task(process.ready())
    opened = asyncio.create_task(engine_ready.wait())
    try:
        await asyncio.wait({ready, opened}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait_for(ready, START_TIMEOUT_S)
    except TimeoutError:
        raise EngineError(f"{process.name} took no requests within {START_TIMEOUT_S:g} s") from None
    finally:
        ready.cancel()
        opened.cancel()
