"""One child process: started in a session of its own, listened to, and ended with everything it started itself."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress

from launcher.errors import EngineError, WorkerDied

TAIL_LINES = 60
LONGEST_LINE_BYTES = 65536
# From SIGKILL to the end of the last process of the group.
KILL_TIMEOUT_S = 5.0
# Of processes that were killed, between two looks at whether they are gone.
REAP_INTERVAL_S = 0.01
# From the end of a process's sockets to its own, which says more about the cause.
EXIT_TIMEOUT_S = 2.0
# Below the range from which Linux takes the ports of outgoing connections (32768 on): the child binds its port half a minute
# after it was found free.
PORTS = range(20000, 30000)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ChildProcess:
    """Runs ``argv`` with ``env`` added to this process's environment and ``pass_fds`` open.

    ``on_line`` gets each line that it or its children print; None: they print where this process does.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        on_line: Callable[[str], None] | None = None,
        *,
        pass_fds: Collection[int] = (),
    ) -> None:
        self.name = name
        self._argv = argv
        self._env = env
        self._pass_fds = pass_fds
        self._output = _Output(on_line) if on_line else _Inherited()
        self._process: asyncio.subprocess.Process | None = None
        self._end: asyncio.Task[int] | None = None

    @property
    def started(self) -> bool:
        return self._end is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "pid before start()"
        return self._process.pid

    @property
    def tail(self) -> str:
        """The last lines printed so far; none where it prints where this process does."""
        return "\n".join(self._output.tail)

    async def start(self) -> None:
        """Raises ``EngineError`` where the command cannot be run at all."""
        writing: int | None = None
        try:
            writing = await self._output.open()
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env={**os.environ, **self._env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                pass_fds=self._pass_fds,
                # A Ctrl-C in the terminal is for the parent alone, which stops its children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        except OSError as error:
            self._output.close()
            raise EngineError(f"{self.name}: cannot run {self._argv[0]}: {error.strerror or error}") from error
        finally:
            if writing is not None:
                os.close(writing)
        self._end = asyncio.create_task(self._wait(self._process), name=f"{self.name}: wait")

    async def exited(self) -> WorkerDied:
        """Wait for the end and tell of it; by then all it printed is in ``tail`` and none of its children lives."""
        assert self._end is not None, "exited() before start()"
        return WorkerDied(self.name, await asyncio.shield(self._end), self.tail)

    def signal(self, number: int) -> None:
        """Harmless after the end and before the start."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, time to finish, then SIGKILL to what is left. Harmless after the end and before the start.

        The signal goes to the main process alone: SGLang's scheduler, told too, would drop what the main one drains.
        """
        if self._process is None or self._end is None:
            return
        try:
            if not self._end.done():
                self.signal(signal.SIGTERM)
                await asyncio.wait({self._end}, timeout=timeout_s)
        finally:
            if not self._end.done():
                self._kill_group(self._process)
        await asyncio.shield(self._end)

    async def _wait(self, process: asyncio.subprocess.Process) -> int:
        code = await process.wait()
        self._kill_group(process)
        # Every process of the group holds the pipe; its end is the end of the last of them.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._output.ended.wait(), KILL_TIMEOUT_S)
        self._output.close()
        await _reap_group(process.pid)
        return code

    def _kill_group(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class _Output(asyncio.Protocol):
    """Cuts a stream of bytes into lines; a progress bar's carriage return ends one too."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.ended = asyncio.Event()
        self._on_line = on_line
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None

    async def open(self) -> int:
        """The end to write into, for the child; close it here once the child has it."""
        # Not asyncio's own pipe: there, the end of the process is told only after the end of every heir of the pipe.
        reading, writing = os.pipe()
        await asyncio.get_running_loop().connect_read_pipe(lambda: self, os.fdopen(reading, "rb", 0))
        return writing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + data)
        for line in lines:
            self._take(line)
        if len(self._rest) > LONGEST_LINE_BYTES:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._flush()
        self.ended.set()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        self._take(self._rest)
        self._rest = b""

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self.tail.append(text)
            self._on_line(text)


class _Inherited:
    """Output that is not listened to."""

    def __init__(self) -> None:
        self.tail = ()
        self.ended = asyncio.Event()
        self.ended.set()

    async def open(self) -> None:
        return None

    def close(self) -> None:
        pass


async def unless_dead(process: ChildProcess, work: Awaitable[None]) -> None:
    """Wait for ``work``; raises ``WorkerDied`` as soon as the process ends, or where that is why the work failed."""
    working = asyncio.ensure_future(work)
    death = asyncio.create_task(process.exited())
    try:
        await asyncio.wait({working, death}, return_when=asyncio.FIRST_COMPLETED)
        if not death.done() and working.exception():
            await asyncio.wait({death}, timeout=EXIT_TIMEOUT_S)
        if death.done():
            raise death.result()
        working.result()
    finally:
        working.cancel()
        death.cancel()
        await asyncio.gather(working, death, return_exceptions=True)


def free_port(ports: Sequence[int]) -> int:
    """One of ``ports`` that nobody listens on at loopback now. Raises ``EngineError`` where there is none."""
    for port in random.sample(ports, len(ports)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EngineError(f"no free port from {min(ports)} to {max(ports)}")


async def _reap_group(group: int) -> None:
    """Where this is process 1, as in a container, the orphans of a group are its children, and stay as zombies otherwise."""
    with suppress(ChildProcessError, TimeoutError):
        async with asyncio.timeout(KILL_TIMEOUT_S):
            while True:
                if not os.waitpid(-group, os.WNOHANG)[0]:  # noqa: ASYNC222 - WNOHANG does not block
                    await asyncio.sleep(REAP_INTERVAL_S)


def _die_with_parent() -> Callable[[], None] | None:
    """Run in the child: have the kernel end it when this process is killed without a chance to clean up."""
    if sys.platform != "linux":
        return None
    # Loaded here: after the fork, only what is already in memory is safe to call.
    prctl = ctypes.CDLL(None).prctl

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask_kernel
