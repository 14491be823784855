"""The gateway processes' supervisor over small Python children; for the real ones see tests/gateway/test_processes.py."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from launcher.errors import EngineError, WorkerDied
from launcher.supervisor import backoff, gateways
from launcher.supervisor.gateways import GatewayProcess, Gateways
from launcher.telemetry.processes import ProcessMetrics
from launcher.telemetry.registry import Registry

pytestmark = pytest.mark.timeout(60)

DEADLINE_S = 20.0
# Reads its setup, which says what it does wrong; says "ready", and measures something; answers each connection with its name.
CHILD = """
import os, pickle, signal, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
name, fault = pickle.loads(channel.recv(1 << 20))
if fault == "dies":
    sys.exit(3)
def leave(*_):
    sys.exit(0 if fault != "unanswered" else 1)
signal.signal(signal.SIGTERM, signal.SIG_IGN if fault == "slow" else leave)
signal.signal(signal.SIGINT, leave)
open(f"{os.environ['PROMETHEUS_MULTIPROC_DIR']}/gauge_livesum_{os.getpid()}.db", "w").close()
if fault != "silent":
    channel.sendall(b"ready")
if fault == "deaf":
    time.sleep(600)
while True:
    _, fds, _, _ = socket.recv_fds(channel, 1, 1)
    with socket.socket(fileno=fds[0]) as connection:
        connection.sendall(name.encode())
"""


class Started:
    """Gateways that run in a task of their own."""

    def __init__(self, folder: Path, *faults: str) -> None:
        names = [f"gateway {i}" for i in range(len(faults))]
        self.faults = dict(zip(names, faults, strict=True))
        self.lives = dict.fromkeys(names, 0)
        self.engine_ready = asyncio.Event()
        self.ready = asyncio.Event()
        self.registry = Registry()
        self._folder = folder
        self.gateways = Gateways(names, self._make, ProcessMetrics(self.registry, [], names))
        self.task = asyncio.create_task(self.gateways.run(self.engine_ready, self.ready.set))

    def _make(self, name: str) -> GatewayProcess:
        self.lives[name] += 1
        return GatewayProcess(name, "stand_in_gateway", (name, self.faults[name]), self._folder)

    async def serving(self) -> Started:
        self.engine_ready.set()
        waiting = asyncio.create_task(self.ready.wait())
        await asyncio.wait({waiting, self.task}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        assert self.ready.is_set()
        return self

    def process(self, number: int) -> GatewayProcess:
        return self.gateways._processes[f"gateway {number}"]

    async def again(self, number: int, life: int) -> None:
        """Wait until this life of a gateway takes requests."""
        async with asyncio.timeout(DEADLINE_S):
            while self.lives[f"gateway {number}"] < life or not self.process(number).was_ready:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def drain(self, timeout_s: float = DEADLINE_S, hurry: asyncio.Event | None = None) -> bool:
        self.task.cancel()
        await asyncio.wait({self.task})
        return await self.gateways.drain(timeout_s, hurry or asyncio.Event())


Start = Callable[..., Started]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    (tmp_path / "stand_in_gateway.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    made: list[Started] = []

    def with_faults(*faults: str) -> Started:
        made.append(Started(tmp_path, *faults))
        return made[-1]

    yield with_faults
    for each in made:
        each.task.cancel()
        await asyncio.wait({each.task})
        await each.gateways.kill()


async def who_answers(listener: socket.socket) -> str:
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    name = (await reader.read()).decode()
    writer.close()
    return name


async def test_connections_are_handed_out_in_turn(start: Start) -> None:
    three = await start("none", "none", "none").serving()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        handing = asyncio.create_task(three.gateways.hand_out(listener))
        assert [await who_answers(listener) for _ in range(6)] == ["gateway 0", "gateway 1", "gateway 2"] * 2
        handing.cancel()


async def test_one_that_was_killed_is_started_again_and_the_others_go_on(start: Start) -> None:
    two = await start("none", "none").serving()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        handing = asyncio.create_task(two.gateways.hand_out(listener))
        # Slow to come back, so that there is a time without it.
        two.faults["gateway 0"] = "silent"
        two.process(0).signal(signal.SIGKILL)
        await two.process(0).exited()
        assert [await who_answers(listener) for _ in range(3)] == ["gateway 1"] * 3
        async with asyncio.timeout(DEADLINE_S):
            while two.lives["gateway 0"] < 2:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.005)
        assert [await who_answers(listener) for _ in range(3)] == ["gateway 1"] * 3
        two.faults["gateway 0"] = "none"
        two.process(0).signal(signal.SIGKILL)
        await two.again(0, life=3)
        assert {await who_answers(listener) for _ in range(4)} == {"gateway 0", "gateway 1"}
        handing.cancel()
    assert two.registry.get_sample_value("embedding_process_restarts_total", {"process": "gateway 0"}) == 2
    assert two.registry.get_sample_value("embedding_process_restarts_total", {"process": "gateway 1"}) == 0
    assert not two.task.done()


async def test_one_that_ended_with_connections_untaken_is_told_as_any_other(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two = await start("deaf", "none").serving()
    pid = two.process(0).pid
    with socket.create_server(("127.0.0.1", 0)) as connection:
        assert two.process(0).give(connection)
    two.process(0).signal(signal.SIGKILL)
    await two.again(0, life=2)
    assert "gateway 0 ended (killed by signal 9)" in caplog.text
    assert pid not in measured_by(tmp_path)


async def test_what_one_measured_that_hung_is_forgotten(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "BEAT_S", 0.1)
    monkeypatch.setattr(gateways, "HANG_BEATS", 2)
    one = await start("deaf").serving()
    pid = one.process(0).pid
    assert pid in measured_by(tmp_path)
    await one.again(0, life=2)
    assert pid not in measured_by(tmp_path)


def measured_by(folder: Path) -> set[int]:
    """Processes whose gauges are shown."""
    return {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*.db")}


async def test_a_death_at_the_start_is_told(start: Start) -> None:
    with pytest.raises(WorkerDied, match=r"gateway 1 ended \(exit status 3\)"):
        await start("none", "dies").task


async def test_one_that_keeps_dying_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "MAX_FAILURES", 2)
    two = await start("none", "none").serving()
    two.faults["gateway 1"] = "dies"
    two.process(1).signal(signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"gateway 1 ended \(exit status 3\)"):
        await asyncio.wait_for(two.task, DEADLINE_S)
    assert two.lives == {"gateway 0": 1, "gateway 1": 3}


async def test_one_that_says_nothing_is_given_up_once_the_engine_is_ready(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways, "START_TIMEOUT_S", 0.2)
    two = start("none", "silent")
    # The engine's own start has its own deadline.
    assert not (await asyncio.wait({two.task}, timeout=0.5))[0]
    two.engine_ready.set()
    with pytest.raises(EngineError, match=r"gateway 1 took no requests within 0\.2 s"):
        await two.task


@pytest.mark.parametrize(("fault", "answered"), [("none", True), ("unanswered", False)])
async def test_a_drain_tells_whether_every_request_was_answered(start: Start, fault: str, answered: bool) -> None:
    assert await (await start("none", fault).serving()).drain() == answered


async def test_a_drain_can_be_hurried(start: Start) -> None:
    two = await start("none", "slow").serving()
    hurry = asyncio.Event()
    draining = asyncio.create_task(two.drain(600.0, hurry))
    assert (await two.process(0).exited()).worker == "gateway 0"
    assert not draining.done()
    hurry.set()
    assert await draining


async def test_a_drain_during_the_start_leaves_nothing(start: Start) -> None:
    two = start("silent", "silent")
    while len(two.gateways._processes) < 2 or not all(two.process(n).started for n in range(2)):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    pids = [two.process(n)._process.pid for n in range(2)]
    assert await two.drain()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
