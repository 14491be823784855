"""A contender's process: started, waited for, watched and stopped, with everything it started itself."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.target import EMBEDDINGS, ContenderFailed, Target

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
PROBE_INTERVAL_S = 0.1
LOG_TAIL_LINES = 15


class Server:
    """A running contender; ``seconds_to_first_reply`` counts from the start of its process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}{EMBEDDINGS}"
        self.target = Target("127.0.0.1", port)
        self.seconds_to_first_reply = 0.0
        self._process = process
        self._root = psutil.Process(process.pid)
        self._log = log
        self._started = time.monotonic()

    def post(self, body: bytes) -> bytes:
        """As ``Target.post``."""
        return self.target.post(body)

    def get(self, path: str) -> str:
        return self.target.get(path)

    def wait_ready(self, body: bytes) -> None:
        """Until ``body`` is answered."""
        while time.monotonic() - self._started < START_TIMEOUT_S:
            if self._process.poll() is not None:
                raise ContenderFailed(f"it ended with status {self._process.returncode} while starting:\n{self._log_tail()}")
            with suppress(OSError, http.client.HTTPException, ContenderFailed):
                self.post(body)
                self.seconds_to_first_reply = time.monotonic() - self._started
                return
            time.sleep(PROBE_INTERVAL_S)
        raise ContenderFailed(f"it gave no answer within {START_TIMEOUT_S:g} s:\n{self._log_tail()}")

    def cpu_s(self) -> float:
        """CPU time of the process and all below it, those that have ended included."""
        total = 0.0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory: of the process that was started, and of all below it too (pages they share count for each)."""
        sizes = []
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                sizes.append(process.memory_info().rss / 1e6)
        return sizes[0], sum(sizes)

    def stop(self) -> None:
        family = self._tree() if self._process.poll() is None else []
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(family, STOP_TIMEOUT_S)

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


@contextmanager
def running(command: list[str], environment: dict[str, str], port: int, log: Path, first_body: bytes) -> Iterator[Server]:
    """Raises ``ContenderFailed`` where it does not come up."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(process, port, log)
    try:
        server.wait_ready(first_body)
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def vectors_in(reply: bytes) -> list[list[float]]:
    """In the order of the inputs."""
    items = sorted(json.loads(reply)["data"], key=lambda item: item["index"])
    return [item["embedding"] for item in items]


def cores() -> int:
    return len(os.sched_getaffinity(0))
