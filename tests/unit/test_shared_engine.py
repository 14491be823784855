"""One engine used by another process's gateway: both sides over a real ZeroMQ socket, the engine a stand-in."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator

import numpy as np
import pytest

from launcher.engines import remote
from launcher.engines.base import Batch, Vectors
from launcher.engines.remote import RemoteEngine
from launcher.engines.shared import SharedEngine
from launcher.errors import EngineError, NotReady
from launcher.supervisor import elsewhere
from launcher.supervisor.elsewhere import Elsewhere

pytestmark = pytest.mark.timeout(20)
BATCH = Batch(np.array([101, 7, 102, 101, 102], np.int32), np.array([3, 2], np.int32))


class StandIn:
    """An engine whose vectors say how long each text was; ``error`` is raised instead, ``gate`` held before."""

    slots = 2
    max_batch_tokens = 64

    def __init__(self) -> None:
        self.reason: str | None = None
        self.error: Exception | None = None
        self.errors_left = 1000
        self.running = 0
        self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, batch: Batch) -> Vectors:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self.gate.wait()
        self.running -= 1
        if self.error and self.errors_left:
            self.errors_left -= 1
            raise self.error
        return np.repeat(batch.lengths[:, None], 4, axis=1).astype(np.float32)

    def unready_reason(self) -> str | None:
        return self.reason

    async def stop(self) -> None: ...


class Link:
    """An engine, what shares it, and the gateway's side. Nothing is answered before ``open``."""

    def __init__(self, folder: str) -> None:
        self.engine = StandIn()
        self.shared = SharedEngine(self.engine, f"ipc://{folder}/engine")
        self.remote = RemoteEngine(f"ipc://{folder}/engine", slots=2, max_batch_tokens=64)
        self.tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        self.tasks.append(asyncio.create_task(self.shared.run()))

    async def until(self, reason: str | None) -> None:
        while self.remote.unready_reason() != reason:  # noqa: ASYNC110 - the keeper tells nobody
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.remote.stop()
        self.shared.close()


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    # The address of an ipc socket has 107 bytes at most, and pytest's own folders are long.
    with tempfile.TemporaryDirectory() as folder:
        made = Link(folder)
        yield made
        await made.close()


async def test_a_batch_goes_through(link: Link) -> None:
    link.open()
    assert (await link.remote.run(BATCH)).tolist() == [[3.0] * 4, [2.0] * 4]


async def test_several_batches_run_at_a_time(link: Link) -> None:
    link.open()
    link.engine.gate.clear()
    running = [asyncio.create_task(link.remote.run(BATCH)) for _ in range(3)]
    while link.engine.most_running < 3:
        await link.remote.check()
    link.engine.gate.set()
    assert [len(await task) for task in running] == [2, 2, 2]


async def test_an_engine_that_is_not_ready_stays_that_on_the_other_side(link: Link) -> None:
    """A 503, and not a 500: the same request may succeed later."""
    link.open()
    link.engine.error = NotReady("no SGLang worker is ready")
    with pytest.raises(NotReady, match=r"^no SGLang worker is ready$"):
        await link.remote.run(BATCH)


async def test_a_batch_that_one_worker_did_not_begin_goes_to_another_at_once(link: Link) -> None:
    """Were it sent back, its gateway would take the whole engine for unready."""
    link.open()
    link.engine.error, link.engine.errors_left = NotReady("the worker is gone"), 1
    assert len(await link.remote.run(BATCH)) == 2


@pytest.mark.parametrize("error", [EngineError("out of memory"), RuntimeError("out of memory")])
async def test_a_failed_batch_is_an_engine_error_and_the_next_runs(
    link: Link, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    link.open()
    link.engine.error = error
    with pytest.raises(EngineError, match="out of memory"):
        await link.remote.run(BATCH)
    # What nobody raised on purpose keeps its traceback.
    assert [bool(record.exc_info) for record in caplog.records if record.levelno >= logging.ERROR] == (
        [True] if isinstance(error, RuntimeError) else []
    )
    link.engine.error = None
    assert len(await link.remote.run(BATCH)) == 2


async def test_what_is_no_batch_is_refused(link: Link) -> None:
    link.open()
    bad = Batch(np.array([1, 2], np.int32), np.array([1], np.int32))
    with pytest.raises(EngineError, match="add up to 1 tokens"):
        await link.remote.run(bad)


async def test_its_state_is_known_as_of_the_last_check(link: Link) -> None:
    link.open()
    assert link.remote.unready_reason() == "the engine is starting"
    await link.remote.check()
    assert link.remote.unready_reason() is None
    link.engine.reason = "no SGLang worker is ready"
    await link.remote.check()
    assert link.remote.unready_reason() == "no SGLang worker is ready"
    link.engine.reason = None
    await link.remote.check()
    assert link.remote.unready_reason() is None


async def test_who_does_not_answer_is_not_ready(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CHECK_TIMEOUT_S", 0.05)
    await link.remote.check()
    assert link.remote.unready_reason() == "the process that owns the engine does not answer"


async def test_the_keeper_tells_once_when_the_engine_is_shared(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "CHECK_EVERY_S", 0.001)
    told = asyncio.Event()
    times = 0

    def on_ready() -> None:
        nonlocal times
        times += 1
        told.set()

    keeping = asyncio.create_task(Elsewhere(link.remote).run(on_ready))
    assert not (await asyncio.wait({keeping}, timeout=0.05))[0]
    assert not told.is_set()
    link.engine.reason = "loading"
    link.open()
    await link.until("loading")
    assert not told.is_set()
    link.engine.reason = None
    await told.wait()

    link.engine.reason = "no SGLang worker is ready"
    await link.until("no SGLang worker is ready")
    link.engine.reason = None
    await link.until(None)
    assert times == 1

    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    with pytest.raises(NotReady):
        await link.remote.run(BATCH)
