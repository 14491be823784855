"""Real SGLang workers that are killed, stopped and starved while clients ask."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.load import Load, Vectors, embed, reference_of, vectors_of
from tests.support.processes import (
    alive,
    all_ready,
    everything,
    metric,
    restarts,
    scheduler_of,
    wait_until,
    workers,
)
from tests.support.server import RunningServer, running_server
from tests.support.texts import SENTENCES

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(400)]

START_TIMEOUT_S = 480
# Two processes import SGLang, on two cores that the load is on as well.
RESTART_TIMEOUT_S = 180.0
HANG_TIMEOUT_S = 4
GONE_TIMEOUT_S = 10.0
# Few, since a worker that starts needs the cores too.
CLIENTS = 3


def sglang_server(checkpoint: Path, workers: int) -> tuple[str, ...]:
    return (
        *("--model", str(checkpoint), "--engine", "sglang", "--set", "engine.dtype=float32"),
        *("--set", f"engine.workers={workers}", "--set", f"engine.sglang.hang_timeout_s={HANG_TIMEOUT_S}"),
    )


@pytest.fixture(scope="module")
def two_workers(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    with running_server(*sglang_server(tiny_checkpoint, 2), timeout_s=START_TIMEOUT_S) as server:
        yield server


@pytest.fixture(scope="module")
def one_worker(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    with running_server(*sglang_server(tiny_checkpoint, 1), timeout_s=START_TIMEOUT_S) as server:
        yield server


@pytest.fixture(scope="module")
def reference(two_workers: RunningServer) -> dict[str, Vectors]:
    return reference_of(two_workers.base_url, SENTENCES)


def kill_scheduler(worker: psutil.Process) -> None:
    scheduler_of(worker).kill()


def stop_scheduler(worker: psutil.Process) -> None:
    """As a process that hangs: it is there, and says nothing."""
    scheduler_of(worker).send_signal(signal.SIGSTOP)


def starve(worker: psutil.Process) -> None:
    """Let the process that holds the model get no more memory."""
    scheduler = scheduler_of(worker)
    used = scheduler.memory_info().vms
    resource.prlimit(scheduler.pid, resource.RLIMIT_AS, (used, used))


@pytest.mark.parametrize(
    "fault", [psutil.Process.kill, kill_scheduler, stop_scheduler], ids=["kill-main", "kill-scheduler", "hang"]
)
def test_one_of_two_workers_is_lost_and_no_request_with_it(
    two_workers: RunningServer, reference: dict[str, Vectors], fault: Callable[[psutil.Process], None]
) -> None:
    wait_until("both workers are ready", lambda: all_ready(two_workers, 2), RESTART_TIMEOUT_S)
    before = restarts(two_workers)
    with Load(two_workers.base_url, reference, clients=CLIENTS) as load:
        load.wait_for(200)
        fault(workers(two_workers)[0])
        noticed_s = wait_until("it is noticed", lambda: restarts(two_workers) == before + 1, RESTART_TIMEOUT_S)
        back_s = wait_until("both workers are ready", lambda: all_ready(two_workers, 2), RESTART_TIMEOUT_S)
        load.wait_for(200)
    print(f"\n{dict(load.outcomes)}, slowest {load.slowest_s:.1f} s; noticed in {noticed_s:.1f} s, back in {back_s:.1f} s")
    assert set(load.outcomes) == {200}, load.outcomes
    assert load.wrong == 0
    assert "it is started again in 0 s" in two_workers.output()
    assert metric(two_workers, "embedding_tokens_in_flight") == 0


def test_without_any_worker_requests_wait_for_the_restart(two_workers: RunningServer, reference: dict[str, Vectors]) -> None:
    wait_until("both workers are ready", lambda: all_ready(two_workers, 2), RESTART_TIMEOUT_S)
    with Load(two_workers.base_url, reference, clients=CLIENTS) as load:
        load.wait_for(50)
        for worker in workers(two_workers):
            worker.kill()
        wait_until("it is not ready", lambda: ready(two_workers) == 503, RESTART_TIMEOUT_S)
        load.wait_for(50, RESTART_TIMEOUT_S)
        assert ready(two_workers) == 200
    print(f"\n{dict(load.outcomes)}, slowest {load.slowest_s:.1f} s")
    # Those that wait for longer than the deadline of 60 s, on a busy machine, are told so.
    assert set(load.outcomes) <= {200, 504}, load.outcomes
    assert load.wrong == 0


def ready(server: RunningServer) -> int:
    return httpx.get(f"{server.base_url}/ready").status_code


def test_a_worker_without_memory_costs_no_request(two_workers: RunningServer, reference: dict[str, Vectors]) -> None:
    """It may live on with what it has, or end and come back; either way every request is answered."""
    wait_until("both workers are ready", lambda: all_ready(two_workers, 2), RESTART_TIMEOUT_S)
    with Load(two_workers.base_url, reference, clients=CLIENTS) as load:
        load.wait_for(100)
        starve(workers(two_workers)[0])
        load.wait_for(400, timeout_s=RESTART_TIMEOUT_S)
    assert set(load.outcomes) == {200}, load.outcomes
    assert load.wrong == 0
    workers(two_workers)[0].kill()
    wait_until("it ended", lambda: not all_ready(two_workers, 2), RESTART_TIMEOUT_S)
    wait_until("both workers are ready", lambda: all_ready(two_workers, 2), RESTART_TIMEOUT_S)


def test_a_server_that_is_killed_leaves_no_process(two_workers: RunningServer) -> None:
    """The last test of the two."""
    processes = everything(two_workers)
    assert len(processes) >= 5
    two_workers.process.kill()
    wait_until("none of its processes lives", lambda: not any(map(alive, processes)), GONE_TIMEOUT_S)


def test_the_only_worker_is_lost(one_worker: RunningServer, reference: dict[str, Vectors]) -> None:
    """Who can wait for the restart is answered, who cannot is told so in time."""
    text = SENTENCES[0]
    with httpx.Client(base_url=one_worker.base_url) as client, ThreadPoolExecutor(1) as pool:
        assert embed(client, [text]).status_code == 200
        workers(one_worker)[0].kill()
        wait_until("it is not ready", lambda: ready(one_worker) == 503, RESTART_TIMEOUT_S)
        patient = pool.submit(embed, client, [text], headers={"x-request-timeout-ms": "180000"})
        hasty = embed(client, [text], headers={"x-request-timeout-ms": "500"})
        assert hasty.status_code == 504, hasty.text
        assert hasty.json()["error"]["code"] == "deadline_exceeded"
        assert hasty.elapsed.total_seconds() < 2
        assert ready(one_worker) == 503
        reply = patient.result()
    assert reply.status_code == 200, reply.text
    assert (vectors_of(reply) @ reference[text].T).item() >= 0.999
    assert ready(one_worker) == 200


def test_sigterm_under_load_loses_nothing(one_worker: RunningServer, reference: dict[str, Vectors]) -> None:
    """The last test of this server."""
    processes = everything(one_worker)
    with Load(one_worker.base_url, reference, clients=CLIENTS) as load:
        load.wait_for(100)
        load.end_count()
        assert one_worker.stop() == 0, one_worker.output()
    assert set(load.outcomes) <= {200, 503}, load.outcomes
    assert load.outcomes[503] <= 2, load.outcomes
    assert load.wrong == 0
    assert not any(map(alive, processes))
