"""The server as process 1 of a container: nobody else passes signals on or takes the dead away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.server import THIS_CHECKOUT, RunningServer

# A process namespace of its own, which ends with its process 1.
AS_PROCESS_ONE = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
ALLOWED = sys.platform == "linux" and subprocess.run([*AS_PROCESS_ONE, "true"], capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not ALLOWED, reason="process namespaces (unshare --pid) are not allowed here; root may")

ORPHANS = """
import asyncio, os
from launcher.supervisor.process import ChildProcess

async def main():
    assert os.getpid() == 1
    child = ChildProcess("a shell", ["/bin/sh", "-c", "sleep 600 & sleep 600 & kill -9 $$"], {}, print)
    await child.start()
    print(await child.exited())
    print("left:", [pid for pid in os.listdir("/proc") if pid.isdigit()])

asyncio.run(main())
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_ends_it_with_status_0(tiny_checkpoint: Path, processes: str) -> None:
    arguments = ("--model", str(tiny_checkpoint), "--engine", "openvino", "--processes", processes)
    server = RunningServer(arguments, program=(*AS_PROCESS_ONE, *THIS_CHECKOUT)).wait_ready()
    try:
        assert httpx.get(f"{server.base_url}/ready").status_code == 200
        (process_one,) = psutil.Process(server.process.pid).children()
        process_one.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    finally:
        server.stop(signal.SIGKILL)


def test_orphans_of_a_process_that_ended_are_taken_away() -> None:
    """As the children of a worker whose main process was killed are."""
    ran = subprocess.run([*AS_PROCESS_ONE, sys.executable, "-c", ORPHANS], capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "left: ['1']"
