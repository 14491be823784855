"""A real Redis of the test's own, on a socket in a temporary folder, that can be frozen, killed and started again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError, ConnectionError
from redis.retry import Retry

START_TIMEOUT_S = 30
MISSING = "these tests need Redis: apt install redis-server (Debian, Ubuntu), dnf install redis, brew install redis (macOS)"


class RunningRedis:
    """Starts at once. ``client`` sees what is in it."""

    def __init__(self, folder: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        assert program, MISSING
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        # Nothing is kept on disk, so that one that was killed starts empty.
        self._command = [program, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder), "--save", "", *options]
        retry = Retry(ConstantBackoff(0.02), int(START_TIMEOUT_S / 0.02), (ConnectionError, BusyLoadingError))
        self.client = redis.Redis(unix_socket_path=str(self.socket), retry=retry)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def wait_ready(self) -> None:
        self.client.ping()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RunningRedis]:
    server = RunningRedis(folder, *options)
    try:
        server.wait_ready()
        yield server
    finally:
        server.client.close()
        server.kill()
