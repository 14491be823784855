"""The supervisor over small processes that speak a worker's side of the messages; for SGLang see test_sglang_server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from launcher.engines.base import Batch, Vectors
from launcher.engines.sglang.argv import WorkerSpec
from launcher.engines.sglang.engine import SglangEngine
from launcher.errors import EngineError, NotReady, WorkerDied
from launcher.supervisor.supervisor import Supervisor

DEADLINE_S = 20.0
BATCH = Batch(np.array([101, 102, 101], np.int32), np.array([2, 1], np.int32))
Run = Callable[[Batch], Awaitable[Vectors]]

# Takes the place of a Python with SGLang in it. What it does wrong, if anything, is told by SGLEMBED_POOLING.
WORKER = """#!{python}
import os, sys, time
import numpy as np, zmq
from launcher.engines.messages import read_batch, vector_frames
fault = os.environ["SGLEMBED_POOLING"]
print("pid", os.getpid(), flush=True)
if fault == "dies-at-start":
    sys.exit("ValueError: the checkpoint lacks 1 weights")
if fault == "never-listens":
    time.sleep(600)
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(os.environ["SGLEMBED_BATCHES"])
while True:
    asker, number, *frames = socket.recv_multipart()
    texts = len(read_batch(frames).lengths)
    if texts and fault == "dies-at-work":
        os._exit(7)
    socket.send_multipart([asker, *vector_frames(number, np.tile(np.array([0.6, 0.8], np.float32), (texts, 1)))])
"""


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], WorkerSpec]:
    python = tmp_path / "python"
    python.write_text(WORKER.format(python=sys.executable))
    python.chmod(0o755)

    def with_fault(fault: str = "none") -> WorkerSpec:
        return WorkerSpec(
            model_folder=tmp_path,
            dtype="float32",
            device="cpu",
            pooling=fault,  # type: ignore[arg-type]
            python=str(python),
        )

    return with_fault


async def one_batch(run: Run) -> None:
    assert (await run(BATCH)).shape == (2, 2)


class Started:
    """A supervisor running in a task of its own."""

    def __init__(
        self,
        specs: list[WorkerSpec],
        self_test: Callable[[Run], Awaitable[None]] = one_batch,
        start_timeout_s: float = DEADLINE_S,
    ) -> None:
        self.engine = SglangEngine(max_batch_tokens=64, workers=len(specs))
        self._ready = asyncio.Event()
        supervisor = Supervisor(specs, self.engine, self_test, start_timeout_s=start_timeout_s)
        self.task = asyncio.create_task(supervisor.run(self._ready.set))

    @property
    def was_ready(self) -> bool:
        return self._ready.is_set()

    async def ready(self) -> None:
        waiting = asyncio.create_task(self._ready.wait())
        await asyncio.wait({waiting, self.task}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        assert self.was_ready

    async def end(self) -> None:
        await asyncio.wait_for(asyncio.shield(self.task), DEADLINE_S)


def pids(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [int(text.rpartition(" ")[2]) for text in caplog.messages if ": pid " in text]


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="launcher.supervisor")


async def test_workers_serve_once_each_passed_its_self_test(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture
) -> None:
    tested = 0

    async def counted(run: Run) -> None:
        nonlocal tested
        await one_batch(run)
        tested += 1

    started = Started([spec(), spec()], counted)
    assert started.engine.unready_reason() is not None
    await started.ready()
    assert tested == 2
    assert started.engine.unready_reason() is None
    assert (await started.engine.run(BATCH)).shape == (2, 2)
    for step in ("starting SGLang", "model loaded in", "self-test passed in"):
        assert len([text for text in caplog.messages if step in text]) == 2

    started.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started.end()
    assert len(pids(caplog)) == 2
    assert not any(map(running, pids(caplog)))
    with pytest.raises(NotReady):
        await started.engine.run(BATCH)


async def test_a_worker_that_dies_at_start_ends_it_with_its_last_lines(spec: Callable[..., WorkerSpec]) -> None:
    started = Started([spec("dies-at-start")])
    with pytest.raises(WorkerDied) as died:
        await started.end()
    assert (died.value.worker, died.value.exit_code) == ("worker 0", 1)
    assert died.value.log_tail.endswith("ValueError: the checkpoint lacks 1 weights")
    assert not started.was_ready


async def test_one_failure_ends_all_workers(spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture) -> None:
    started = Started([spec(), spec("dies-at-start")])
    with pytest.raises(WorkerDied, match="worker 1"):
        await started.end()
    assert not any(map(running, pids(caplog)))


async def test_a_death_during_the_self_test_is_told_as_a_death(spec: Callable[..., WorkerSpec]) -> None:
    # What breaks first is the connection, and that says nothing about why.
    started = Started([spec("dies-at-work")])
    with pytest.raises(WorkerDied) as died:
        await started.end()
    assert died.value.exit_code == 7


async def test_a_death_at_work_ends_it(spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture) -> None:
    started = Started([spec(), spec()])
    await started.ready()
    os.kill(pids(caplog)[0], signal.SIGKILL)
    with pytest.raises(WorkerDied, match="killed by signal 9"):
        await started.end()
    assert not any(map(running, pids(caplog)))


async def test_a_failed_self_test_ends_it(spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture) -> None:
    async def fail(run: Run) -> None:
        raise EngineError("a text gives another vector in a batch")

    started = Started([spec()], fail)
    with pytest.raises(EngineError, match="another vector in a batch"):
        await started.end()
    assert not started.was_ready
    assert not any(map(running, pids(caplog)))


async def test_a_worker_that_never_listens_is_given_up(spec: Callable[..., WorkerSpec]) -> None:
    started = Started([spec("never-listens")], start_timeout_s=1.0)
    with pytest.raises(EngineError, match=r"not ready within 1 s \(engine\.sglang\.start_timeout_s\)[\s\S]*pid"):
        await started.end()


async def test_a_folder_whose_path_is_too_long_for_sockets_is_refused_before_any_process_starts(
    spec: Callable[..., WorkerSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(EngineError, match=r"too long a path for sockets: .*TMPDIR"):
        await Started([spec()]).end()
    assert pids(caplog) == []
