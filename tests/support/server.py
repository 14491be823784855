"""A real ``sgl-embed serve`` in its own process, on a free port, started and stopped by the test that uses it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty, Queue
from time import monotonic

# On standard output, or in a log in JSON.
READY_LINE = re.compile(r"""(?:^\s+|"url":")(https?://[^\s"]+)/v1\b""")
STOP_TIMEOUT_S = 40


class ServerExited(Exception):
    def __init__(self, status: int, output: str) -> None:
        super().__init__(f"the server ended with status {status}:\n{output}")
        self.status = status
        self.output = output


THIS_CHECKOUT = (sys.executable, "-m", "launcher")


class RunningServer:
    """Starts at once; ``wait_ready`` returns when it may be called. ``lines`` holds all it printed."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = THIS_CHECKOUT,
    ) -> None:
        self.process = subprocess.Popen(
            [*program, "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
        )
        self.base_url = ""
        self.lines: list[str] = []
        self._queue: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def output(self) -> str:
        return "".join(self.lines)

    def wait_line(self, pattern: re.Pattern[str], timeout_s: float) -> re.Match[str]:
        """The next line that fits ``pattern``. Raises ``ServerExited`` or ``TimeoutError``, with the output so far."""
        deadline = monotonic() + timeout_s
        while True:
            try:
                line = self._queue.get(timeout=max(deadline - monotonic(), 0))
            except Empty:
                raise TimeoutError(f"no line like {pattern.pattern!r} within {timeout_s} s:\n{self.output()}") from None
            if line is None:
                raise ServerExited(self.process.wait(), self.output())
            if match := pattern.search(line):
                return match

    def wait_ready(self, timeout_s: float = 120) -> RunningServer:
        self.base_url = self.wait_line(READY_LINE, timeout_s).group(1)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit status; what does not end in time is killed and fails the test."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise TimeoutError(f"the server did not stop within {STOP_TIMEOUT_S} s:\n{self.output()}") from None
        self._reader.join()
        return status


@contextmanager
def running_server(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 120,
    program: Sequence[str] = THIS_CHECKOUT,
) -> Iterator[RunningServer]:
    """A server that is ready; it is stopped at the end and must have ended well."""
    server = RunningServer(arguments, environment, program)
    try:
        yield server.wait_ready(timeout_s)
    finally:
        if server.process.poll() is None:
            status = server.stop()
            assert status == 0, server.output()
