"""A real Alertmanager of the test's own, on a free port."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from benchmarks.server import free_port
from tests.support.processes import wait_until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
# As Debian calls it, and as its makers do.
PROGRAMS = ("prometheus-alertmanager", "alertmanager")
MISSING = (
    "this needs Alertmanager: apt install prometheus-alertmanager (Debian, Ubuntu), brew install alertmanager (macOS), or the "
    "archive from https://prometheus.io/download/"
)


@contextmanager
def running_alertmanager(folder: Path, config: Mapping[str, object]) -> Iterator[str]:
    """Its address, ``host:port``. ``config`` is a whole alertmanager.yml; it knows no other Alertmanager."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, MISSING
    file, log, address = folder / "alertmanager.yml", folder / "alertmanager.log", f"127.0.0.1:{free_port()}"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    options = (f"--storage.path={folder / 'alertmanager'}", f"--web.listen-address={address}", "--cluster.listen-address=")
    with log.open("wb") as output:
        process = subprocess.Popen([program, f"--config.file={file}", *options], stdout=output, stderr=subprocess.STDOUT)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://{address}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until("Alertmanager is ready", ready, START_TIMEOUT_S)
        yield address
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
