"""A real nginx with the configuration of deploy/compose, on free ports, in a folder of its own."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import httpx

from benchmarks.server import free_port
from tests.support.processes import wait_until

SHIPPED = Path(__file__).parents[2] / "deploy/compose/nginx"
MISSING = "these tests need nginx: apt install nginx-light (Debian, Ubuntu), dnf install nginx, brew install nginx (macOS)"
STOP_TIMEOUT_S = 40


class RunningNginx:
    """``folder`` holds what compose.yaml mounts: ``nginx``, ``front``, ``tls``; ``run`` is what nginx writes in.

    Only addresses differ from what is shipped, and what ``changes`` says: for each file, what stands there and what to put in
    its place.
    """

    def __init__(
        self,
        folder: Path,
        replicas: Sequence[int],
        front: str = "plain",
        changes: Sequence[tuple[str, str, str]] = (),
        stdout: socket | None = None,
    ) -> None:
        program = shutil.which("nginx")
        assert program, MISSING
        self.port, self._local_port = free_port(), free_port()
        self.base_url = f"{'https' if front == 'tls' else 'http'}://127.0.0.1:{self.port}"
        self.folder = folder
        self.run_folder = folder / "run"
        self.run_folder.mkdir()
        shutil.copytree(SHIPPED, folder / "nginx", dirs_exist_ok=True)
        shutil.copytree(SHIPPED / front, folder / "front")
        addresses = [(f"replica-{i}:30000", f"127.0.0.1:{port}") for i, port in enumerate(replicas, 1)]
        self._change("nginx/replicas.conf", *addresses)
        self._change("front/server.conf", ("listen 8000", f"listen 127.0.0.1:{self.port}"))
        self._change("nginx/nginx.conf", ("127.0.0.1:8081", f"127.0.0.1:{self._local_port}"))
        for file, shipped, changed in changes:
            self._change(file, (shipped, changed))
        self._log = (folder / "access.log").open("ab")
        self._errors = (folder / "error.log").open("ab")
        # Else one that root starts has workers that cannot read root's temporary folders.
        user = ("-g", f"user {getpass.getuser()};")
        command = [program, *user, "-p", str(self.run_folder), "-c", str(folder / "nginx/nginx.conf")]
        self.process = subprocess.Popen(command, stdout=stdout or self._log, stderr=self._errors)

    def _change(self, file: str, *changes: tuple[str, str]) -> None:
        path = self.folder / file
        text = path.read_text()
        for shipped, changed in changes:
            assert shipped in text, f"{file} has no {shipped!r}"
            text = text.replace(shipped, changed)
        path.write_text(text)

    def wait_ready(self) -> RunningNginx:
        def lives() -> bool:
            assert self.process.poll() is None, self.errors()
            try:
                return httpx.get(f"http://127.0.0.1:{self._local_port}/live").status_code == 200
            except httpx.TransportError:
                return False

        wait_until("nginx answers", lives, 20)
        return self

    def reload(self) -> None:
        """As rollout.sh has it done."""
        script = self.folder / "nginx/reload.sh"
        done = subprocess.run(["sh", script, self.run_folder], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def errors(self) -> str:
        return (self.folder / "error.log").read_text()

    def access_log(self) -> list[dict[str, Any]]:
        """What is complete by now: a line is written after its reply was sent."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]

    def wait_log(self, lines: int) -> list[dict[str, Any]]:
        wait_until(f"{lines} lines in the log", lambda: len(self.access_log()) >= lines, 10)
        return self.access_log()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        finally:
            self.process.kill()
            self._log.close()
            self._errors.close()


@contextmanager
def running_nginx(
    replicas: Sequence[int],
    front: str = "plain",
    changes: Sequence[tuple[str, str, str]] = (),
    tls: Path | None = None,
    stdout: socket | None = None,
) -> Iterator[RunningNginx]:
    """``tls``: a folder with server.crt and server.key. ``stdout``: unless a file is to have the log."""
    with tempfile.TemporaryDirectory(prefix="nginx-") as name:
        folder = Path(name)
        if tls:
            shutil.copytree(tls, folder / "tls")
        nginx = RunningNginx(folder, replicas, front, changes, stdout)
        try:
            yield nginx.wait_ready()
        finally:
            nginx.stop()


def directive(file: str, name: str) -> str:
    """What is shipped, without the semicolon."""
    (found,) = re.findall(rf"^\s*{name}\s+([^;]+);", (SHIPPED / file).read_text(), re.MULTILINE)
    return str(found)
