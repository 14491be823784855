"""The child process, tried with small Python children."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from launcher.errors import EngineError
from launcher.supervisor.process import TAIL_LINES, ChildProcess, free_port

DEADLINE_S = 20.0
# A child that starts a grandchild holding the same output, and names it.
WITH_GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("grandchild", child.pid, flush=True)
"""


class Lines:
    """Collects a child's lines and lets a test wait for one."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.all.append(line)
        self._changed.set()

    async def containing(self, word: str) -> str:
        async with asyncio.timeout(DEADLINE_S):
            while not (found := [line for line in self.all if word in line]):
                self._changed.clear()
                await self._changed.wait()
        return found[0]


async def start(script: str, lines: Lines | None = None, **env: str) -> ChildProcess:
    process = ChildProcess("worker 0", [sys.executable, "-u", "-c", script], env, lines or Lines())
    await process.start()
    return process


async def gone(pid: int) -> bool:
    """Whether the process ends within the deadline; a zombie, which nobody may be there to reap, has ended."""
    async with asyncio.timeout(DEADLINE_S):
        while alive(pid):  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_a_death_is_told_with_status_and_last_lines() -> None:
    lines = Lines()
    process = await start("import sys; print('loading'); print('no such model', file=sys.stderr); sys.exit(3)", lines)
    died = await asyncio.wait_for(process.exited(), DEADLINE_S)
    assert (died.worker, died.exit_code, died.log_tail) == ("worker 0", 3, "loading\nno such model")
    assert lines.all == ["loading", "no such model"]


async def test_a_signal_is_told_as_a_negative_status() -> None:
    process = await start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    died = await asyncio.wait_for(process.exited(), DEADLINE_S)
    assert died.exit_code == -signal.SIGKILL
    assert "killed by signal 9" in str(died)


async def test_only_the_last_lines_are_kept() -> None:
    process = await start("for i in range(1000): print(i)")
    died = await asyncio.wait_for(process.exited(), DEADLINE_S)
    assert died.log_tail.splitlines() == [str(i) for i in range(1000 - TAIL_LINES, 1000)]


async def test_a_progress_bar_and_a_last_line_without_an_end_are_lines() -> None:
    lines = Lines()
    process = await start(r"print('10%\r50%\r\n100%', end='')", lines)
    await asyncio.wait_for(process.exited(), DEADLINE_S)
    assert lines.all == ["10%", "50%", "100%"]


async def test_bytes_that_are_not_text_and_endless_lines_do_no_harm() -> None:
    lines = Lines()
    process = await start(r"import sys; sys.stdout.buffer.write(b'\xff\xfe' + b'x' * 300_000 + b'\nend\n')", lines)
    await asyncio.wait_for(process.exited(), DEADLINE_S)
    assert lines.all[-1] == "end"
    assert sum(line.count("x") for line in lines.all) == 300_000


async def test_environment_is_added_to_what_is_inherited() -> None:
    lines = Lines()
    process = await start("import os; print(os.environ['ADDED'], 'PATH' in os.environ)", lines, ADDED="yes")
    await asyncio.wait_for(process.exited(), DEADLINE_S)
    assert lines.all == ["yes True"]


async def test_a_command_that_cannot_run_is_an_engine_error() -> None:
    process = ChildProcess("worker 0", ["/no/such/python"], {}, Lines())
    with pytest.raises(EngineError, match="cannot run /no/such/python"):
        await process.start()
    await process.stop(1.0)


async def test_stop_lets_the_process_finish() -> None:
    lines = Lines()
    process = await start(
        "import signal, sys\n"
        "def finish(*_):\n    print('finished'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, finish); print('up'); signal.pause()",
        lines,
    )
    await lines.containing("up")
    await process.stop(DEADLINE_S)
    assert lines.all == ["up", "finished"]


async def test_stop_kills_what_will_not_end() -> None:
    lines = Lines()
    process = await start(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\nwhile True: signal.pause()", lines
    )
    await lines.containing("up")
    await process.stop(0.1)
    assert (await process.exited()).exit_code == -signal.SIGKILL


@pytest.mark.parametrize("how", ["stop", "death"])
async def test_no_grandchild_outlives_the_process(how: str) -> None:
    lines = Lines()
    process = await start(WITH_GRANDCHILD + ("time.sleep(600)" if how == "stop" else ""), lines)
    grandchild = int((await lines.containing("grandchild")).split()[1])
    if how == "stop":
        await process.stop(DEADLINE_S)
    await asyncio.wait_for(process.exited(), DEADLINE_S)
    assert await gone(grandchild)


async def test_a_cancelled_stop_still_kills() -> None:
    lines = Lines()
    process = await start(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\nwhile True: signal.pause()", lines
    )
    await lines.containing("up")
    stopping = asyncio.create_task(process.stop(600.0))
    await asyncio.sleep(0)
    stopping.cancel()
    died = await asyncio.wait_for(process.exited(), DEADLINE_S)
    assert died.exit_code == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
async def test_the_child_does_not_outlive_a_killed_parent() -> None:
    script = (
        "import asyncio, sys\n"
        "from launcher.supervisor.process import ChildProcess\n"
        "async def main():\n"
        "    process = ChildProcess('inner', [sys.executable, '-u', '-c',\n"
        "        'import os, time; print(\"inner\", os.getpid()); time.sleep(600)'], {}, print)\n"
        "    await process.start()\n"
        "    await process.exited()\n"
        "asyncio.run(main())"
    )
    lines = Lines()
    outer = await start(script, lines)
    inner = int((await lines.containing("inner")).split()[1])
    assert alive(inner)
    assert outer._process is not None
    os.kill(outer._process.pid, signal.SIGKILL)
    assert await gone(inner)


def test_a_port_that_is_taken_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match="no free port"):
            free_port([port])
    assert free_port([port]) == port
