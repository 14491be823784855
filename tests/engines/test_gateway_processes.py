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
from launcher.supervisor import gateways
from launcher.supervisor.gateways import GatewayProcess, Gateways

pytestmark = pytest.mark.timeout(60)

DEADLINE_S = 20.0
# Reads its setup, which says what it does wrong; says "ready"; answers each connection with its name.
CHILD = """
import pickle, signal, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
name, fault = pickle.loads(channel.recv(1 << 20))
if fault == "dies":
    sys.exit(3)
def leave(*_):
    sys.exit(0 if fault != "unanswered" else 1)
signal.signal(signal.SIGTERM, signal.SIG_IGN if fault == "slow" else leave)
signal.signal(signal.SIGINT, leave)
if fault != "silent":
    channel.sendall(b"ready")
while True:
    _, fds, _, _ = socket.recv_fds(channel, 1, 1)
    with socket.socket(fileno=fds[0]) as connection:
        connection.sendall(name.encode())
"""
Make = Callable[..., Gateways]


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    (tmp_path / "stand_in_gateway.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    made: list[Gateways] = []

    def with_faults(*faults: str) -> Gateways:
        processes = [
            GatewayProcess(f"gateway {i}", "stand_in_gateway", (f"gateway {i}", fault), tmp_path)
            for i, fault in enumerate(faults)
        ]
        made.append(Gateways(processes))
        return made[-1]

    yield with_faults
    for each in made:
        await each.kill()


def ready_engine() -> asyncio.Event:
    ready = asyncio.Event()
    ready.set()
    return ready


async def test_connections_are_handed_out_in_turn_and_past_a_dead_process(make: Make) -> None:
    three = make("none", "none", "none")
    await three.start(ready_engine())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        handing = asyncio.create_task(three.hand_out(listener))

        async def who_answers() -> str:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            name = (await reader.read()).decode()
            writer.close()
            return name

        assert [await who_answers() for _ in range(6)] == ["gateway 0", "gateway 1", "gateway 2"] * 2
        first = three._processes[0]
        first.signal(signal.SIGKILL)
        await first.exited()
        assert [await who_answers() for _ in range(4)] == ["gateway 1", "gateway 2"] * 2
        handing.cancel()


async def test_a_death_at_the_start_is_told(make: Make) -> None:
    with pytest.raises(WorkerDied, match=r"gateway 1 ended \(exit status 3\)"):
        await make("none", "dies").start(asyncio.Event())


async def test_one_that_says_nothing_is_given_up_once_the_engine_is_ready(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "START_TIMEOUT_S", 0.2)
    engine_ready = asyncio.Event()
    starting = asyncio.create_task(make("none", "silent").start(engine_ready))
    # The engine's own start has its own deadline.
    assert not (await asyncio.wait({starting}, timeout=0.5))[0]
    engine_ready.set()
    with pytest.raises(EngineError, match=r"gateway 1 took no requests within 0\.2 s"):
        await starting


async def test_a_later_death_is_told(make: Make) -> None:
    two = make("none", "none")
    await two.start(ready_engine())
    two._processes[1].signal(signal.SIGKILL)
    assert str(await two.death()) == "gateway 1 ended (killed by signal 9)"


@pytest.mark.parametrize(("fault", "answered"), [("none", True), ("unanswered", False)])
async def test_a_drain_tells_whether_every_request_was_answered(make: Make, fault: str, answered: bool) -> None:
    two = make("none", fault)
    await two.start(ready_engine())
    assert await two.drain(DEADLINE_S, asyncio.Event()) == answered


async def test_a_drain_can_be_hurried(make: Make) -> None:
    two = make("none", "slow")
    await two.start(ready_engine())
    hurry = asyncio.Event()
    draining = asyncio.create_task(two.drain(600.0, hurry))
    assert (await two.death()).worker == "gateway 0"
    assert not draining.done()
    hurry.set()
    assert await draining


async def test_a_drain_during_the_start_leaves_nothing(make: Make) -> None:
    two = make("silent", "silent")
    starting = asyncio.create_task(two.start(asyncio.Event()))
    while not all(process.started for process in two._processes):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    pids = [process._process.pid for process in two._processes]
    starting.cancel()
    assert await two.drain(DEADLINE_S, asyncio.Event())
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
