"""The supervisor over small processes that speak a worker's side of the messages; for SGLang see test_sglang_server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from launcher.engines.base import Batch, Vectors
from launcher.engines.sglang.argv import WorkerSpec
from launcher.engines.sglang.engine import SLOTS_PER_WORKER, SglangEngine
from launcher.errors import EngineError, NotReady, WorkerDied
from launcher.scheduling.batcher import Batcher
from launcher.scheduling.queue import Job
from launcher.supervisor import backoff, watchdog
from launcher.supervisor import process as process_module
from launcher.supervisor import worker as worker_module
from launcher.supervisor.supervisor import Supervisor, worker_names
from launcher.supervisor.worker import Upkeep
from launcher.telemetry.counts import WorkerCounts, counts_folder
from launcher.telemetry.hooks import ProcessState, Result
from launcher.telemetry.processes import ProcessMetrics
from launcher.telemetry.registry import Registry

DEADLINE_S = 20.0
CANARY = Batch(np.array([101, 102], np.int32), np.array([2], np.int32))
BATCH = Batch(np.array([101, 102, 101], np.int32), np.array([2, 1], np.int32))
Run = Callable[[Batch], Awaitable[Vectors]]

# Takes the place of a Python with SGLang in it. What it does wrong, if anything, is told by SGLEMBED_POOLING.
WORKER = """#!{python}
import os, sys, time
import numpy as np, zmq
from launcher.engines.messages import error_frames, read_batch, vector_frames
fault = os.environ["SGLEMBED_POOLING"]
print("pid", os.getpid(), flush=True)
if fault == "dies-at-start":
    sys.exit("ValueError: the checkpoint lacks 1 weights")
if fault == "never-listens":
    time.sleep(600)
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    from prometheus_client import Counter
    counted = Counter("sglang:batches", "", ["rank"]).labels("0")
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(os.environ["SGLEMBED_BATCHES"])
if fault == "second-life-closes" and not os.environ["SGLEMBED_BATCHES"].endswith(".0"):
    socket.recv_multipart()
    socket.close()
    time.sleep(600)
batches = 0
vector = np.array([0.6, 0.8], np.float32)
while True:
    asker, number, *frames = socket.recv_multipart()
    texts = len(read_batch(frames).lengths)
    batches += bool(texts)
    if texts and "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        counted.inc()
    if texts and fault == "dies-at-work":
        os._exit(7)
    if fault == "slow":
        time.sleep(0.05)
    # Its self-test and the first canary pass.
    if batches == 3:
        if fault == "hangs-at-work":
            time.sleep(600)
        if fault == "closes-at-work":
            socket.close()
            time.sleep(600)
        if fault == "wrong-at-work":
            vector = np.array([1.0, -0.4], np.float32)
        if fault == "wider-at-work":
            vector = np.array([0.6, 0.8, 0.0], np.float32)
        if fault == "refuses-at-work":
            socket.send_multipart([asker, *error_frames(number, ValueError("broken"))])
            continue
    socket.send_multipart([asker, *vector_frames(number, np.tile(vector, (texts, 1)))])
"""


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], WorkerSpec]:
    python = tmp_path / "python"
    python.write_text(WORKER.format(python=sys.executable))
    python.chmod(0o755)

    def with_fault(fault: str = "none", metrics: bool = False) -> WorkerSpec:
        return WorkerSpec(
            model_folder=tmp_path,
            dtype="float32",
            device="cpu",
            pooling=fault,  # type: ignore[arg-type]
            python=str(python),
            metrics=metrics,
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
        hang_timeout_s: float = DEADLINE_S,
    ) -> None:
        self.engine = SglangEngine(max_batch_tokens=64, workers=len(specs))
        self.registry = Registry()
        self._ready = asyncio.Event()
        upkeep = Upkeep(
            engine=self.engine,
            self_test=self_test,
            canary=CANARY,
            hooks=ProcessMetrics(self.registry, worker_names(len(specs))),
            start_timeout_s=start_timeout_s,
            hang_timeout_s=hang_timeout_s,
        )
        folder = tempfile.TemporaryDirectory()
        self.folder = Path(folder.name)
        self.task = asyncio.create_task(Supervisor(specs, upkeep, self.folder).run(self._ready.set))
        self._worker_counts = WorkerCounts(self.folder)
        self.task.add_done_callback(lambda _: folder.cleanup())

    @property
    def was_ready(self) -> bool:
        return self._ready.is_set()

    async def ready(self) -> None:
        waiting = asyncio.create_task(self._ready.wait())
        await asyncio.wait({waiting, self.task}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        assert self.was_ready

    def state(self, worker: int) -> str:
        return next(state for state in get_args(ProcessState) if self._value("process_state", worker, state=state))

    def restarts(self, worker: int) -> float:
        return self._value("process_restarts_total", worker)

    def results(self, name: str, worker: int) -> dict[str, float]:
        return {result: self._value(f"{name}_total", worker, result=result) for result in get_args(Result)}

    def counts(self) -> dict[str, float]:
        """By worker, what all its processes counted."""
        return {sample.labels["process"]: sample.value for metric in self._worker_counts.collect() for sample in metric.samples}

    async def counted(self, at_least: float) -> dict[str, float]:
        async with asyncio.timeout(DEADLINE_S):
            while len(counts := self.counts()) < 2 or min(counts.values()) < at_least:  # noqa: ASYNC110 - as below
                await asyncio.sleep(0.01)
        return counts

    def _value(self, name: str, worker: int, **labels: str) -> float:
        value = self.registry.get_sample_value(f"embedding_{name}", {"process": f"worker {worker}", **labels})
        assert value is not None
        return value

    async def cancelled(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.end()

    async def until(self, worker: int, state: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.state(worker) != state:  # noqa: ASYNC110 - a metric tells nobody
                await asyncio.sleep(0.005)

    async def checked(self, workers: int) -> None:
        """Wait until the watchdog has asked each once, and leaves it alone for seconds."""
        async with asyncio.timeout(DEADLINE_S):
            while not all(self.results("watchdog_checks", worker)["passed"] for worker in range(workers)):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        await asyncio.wait_for(asyncio.shield(self.task), DEADLINE_S)


def pids(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [int(text.rpartition(" ")[2]) for text in caplog.messages if ": pid " in text]


def pid_of(caplog: pytest.LogCaptureFixture, worker: str) -> int:
    """Of its latest life."""
    return int(next(text for text in reversed(caplog.messages) if text.startswith(f"{worker}: pid ")).rpartition(" ")[2])


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
    assert started.results("self_tests", 0) == {"passed": 0, "failed": 1}


async def test_a_worker_that_was_killed_is_started_again(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture
) -> None:
    started = Started([spec(), spec()])
    await started.ready()
    assert (started.state(0), started.state(1)) == ("ready", "ready")
    killed = pid_of(caplog, "worker 0")
    os.kill(killed, signal.SIGKILL)
    await started.until(0, "starting")
    # The other goes on meanwhile.
    assert started.engine.unready_reason() is None
    assert (await started.engine.run(BATCH)).shape == (2, 2)
    await started.until(0, "ready")
    assert (started.restarts(0), started.restarts(1)) == (1, 0)
    assert any("worker 0 ended (killed by signal 9); it is started again in 0 s" in text for text in caplog.messages)
    assert pid_of(caplog, "worker 0") != killed
    for _ in range(4):
        assert (await started.engine.run(BATCH)).shape == (2, 2)
    await started.cancelled()
    assert started.state(0) == "draining"
    assert not any(map(running, pids(caplog)))


async def test_workers_that_are_killed_together_take_no_request_with_them(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture
) -> None:
    started = Started([spec("slow"), spec("slow"), spec("slow")])
    await started.ready()
    # What is lost first is to be a batch of ours.
    await started.checked(3)
    batcher = Batcher(started.engine, on_batch=lambda *_: None)
    batcher.start()
    jobs = [Job([np.full(40, 101, np.int32)]) for _ in range(20)]
    asking = [asyncio.create_task(batcher.encode(job)) for job in jobs]
    await asyncio.sleep(0)
    for number in range(3):
        os.kill(pid_of(caplog, f"worker {number}"), signal.SIGKILL)
    await asyncio.gather(*asking)
    assert all(np.allclose(job.vectors, [[0.6, 0.8]]) for job in jobs)
    assert [started.restarts(number) for number in range(3)] == [1, 1, 1]
    # They were computing, and the first of each is tried again alone.
    assert "lost while it computed the batch" in caplog.text
    await batcher.stop()
    await started.cancelled()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("hangs-at-work", r"worker 0 has answered nothing for 0\.3 s \(engine\.sglang\.hang_timeout_s\)"),
        ("refuses-at-work", "worker 0 failed on a text that it had no trouble with before: broken"),
        ("wider-at-work", "worker 0 gives vectors of 3 numbers instead of 2"),
        ("wrong-at-work", r"worker 0 gives a text another vector than at its start: they agree only to a cosine of 0\.2800"),
        ("closes-at-work", "worker 0 lost its scheduler process"),
    ],
)
async def test_a_worker_that_goes_wrong_is_noticed_without_a_request_and_started_again(
    spec: Callable[..., WorkerSpec],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    reason: str,
) -> None:
    monkeypatch.setattr(watchdog, "CANARY_EVERY_S", 0.02)
    monkeypatch.setattr(worker_module, "EXIT_TIMEOUT_S", 0.1)
    started = Started([spec(fault)], hang_timeout_s=0.3)
    await started.ready()
    first = pid_of(caplog, "worker 0")
    await started.until(0, "starting")
    await started.until(0, "ready")
    assert any(re.search(reason, text) for text in caplog.messages), caplog.text
    assert not running(first)
    checks = started.results("watchdog_checks", 0)
    assert checks["passed"]
    assert bool(checks["failed"]) == (fault != "closes-at-work")
    await started.cancelled()


async def test_a_worker_that_is_stopped_by_a_signal_counts_as_hanging(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "CANARY_EVERY_S", 0.02)
    started = Started([spec()], hang_timeout_s=0.5)
    await started.ready()
    stopped = pid_of(caplog, "worker 0")
    os.kill(stopped, signal.SIGSTOP)
    await started.until(0, "starting")
    assert not running(stopped)
    await started.until(0, "ready")
    await started.cancelled()


async def test_what_a_worker_counts_is_shown_and_begins_anew_with_its_next_life(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture
) -> None:
    started = Started([spec(metrics=True), spec(metrics=True)])
    await started.ready()
    # Of the self-tests and the first canaries.
    before = await started.counted(at_least=2)
    assert set(before) == {"worker 0", "worker 1"}
    for _ in range(2 * SLOTS_PER_WORKER):
        await started.engine.run(BATCH)
    after = started.counts()
    assert sum(after.values()) >= sum(before.values()) + 2 * SLOTS_PER_WORKER
    os.kill(pid_of(caplog, "worker 0"), signal.SIGKILL)
    await started.until(0, "starting")
    assert set(started.counts()) <= {"worker 0", "worker 1"}
    await started.until(0, "ready")
    again = await started.counted(at_least=1)
    assert again["worker 0"] <= before["worker 0"]
    assert again["worker 1"] >= after["worker 1"]
    await started.cancelled()
    assert started.counts() == {}


async def test_counts_that_cannot_be_read_are_left_out(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture
) -> None:
    started = Started([spec(metrics=True), spec(metrics=True)])
    await started.ready()
    await started.counted(at_least=1)
    (counts_folder(started.folder, "worker 0") / "counter_1.db").write_bytes(b"nothing of the kind")
    assert set(started.counts()) == set(started.counts()) == {"worker 1"}
    assert len([text for text in caplog.messages if "the metrics of worker 0 cannot be read" in text]) == 1
    await started.cancelled()


async def test_a_restart_that_fails_before_its_first_answer_is_tried_again(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the scheduler is killed while it starts; the main process may outlive it."""
    monkeypatch.setattr(worker_module, "EXIT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(process_module, "EXIT_TIMEOUT_S", 0.05)
    started = Started([spec("second-life-closes"), spec()])
    await started.ready()
    os.kill(pid_of(caplog, "worker 0"), signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        while started.restarts(0) < 2:  # noqa: ASYNC110 - a metric tells nobody
            await asyncio.sleep(0.01)
    assert not started.task.done()
    assert (await started.engine.run(BATCH)).shape == (2, 2)
    await started.cancelled()


async def test_no_answer_of_a_worker_that_went_wrong_is_used(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "CANARY_EVERY_S", 0.02)
    started = Started([spec("wrong-at-work")])
    await started.ready()
    while not any("another vector than at its start" in text for text in caplog.messages):
        await asyncio.sleep(0)
        # From the moment that it is known on, nothing is asked of it.
        if started.state(0) == "dead":
            assert started.engine.unready_reason() is not None
    assert started.engine.unready_reason() is not None
    await started.cancelled()


async def test_a_batch_behind_a_canary_is_not_blamed_for_its_hang(
    spec: Callable[..., WorkerSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "CANARY_EVERY_S", 0.02)
    started = Started([spec("hangs-at-work")], hang_timeout_s=0.4)
    await started.ready()
    # The third batch hangs, and is a canary: this one comes after it.
    await asyncio.sleep(0.2)
    with pytest.raises(NotReady):
        await started.engine.run(BATCH)
    await started.cancelled()


async def test_one_that_ends_again_and_again_is_given_up(
    spec: Callable[..., WorkerSpec], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "CANARY_EVERY_S", 0.02)
    monkeypatch.setattr(backoff, "MAX_FAILURES", 2)
    started = Started([spec("closes-at-work"), spec()])
    await started.ready()
    await started.until(0, "dead")
    async with asyncio.timeout(DEADLINE_S):
        while not any("given up, 1 of 2 workers are left" in text for text in caplog.messages):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert started.restarts(0) == 2
    # The server lives as long as one worker does.
    assert (await started.engine.run(BATCH)).shape == (2, 2)
    await started.cancelled()

    alone = Started([spec("closes-at-work")])
    await alone.ready()
    with pytest.raises(EngineError, match="worker 0"):
        await alone.end()
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
