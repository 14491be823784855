"""Several times as many requests as the server can answer: what must hold on any machine, however fast."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from benchmarks.bodies import MODEL_NAME, request_body
from benchmarks.contenders import environment_of
from benchmarks.overload.bars import BY_CONTRACT
from benchmarks.overload.run import Schedule, measure_capacity, overload
from benchmarks.overload.watch import watching
from benchmarks.server import Server, free_port, running
from tests.support.checkpoints import Shape, write_checkpoint

# Slow enough on one thread that the load costs little beside it.
SLOW = Shape(hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048)
SCHEDULE = Schedule(overload_s=5, capacity_s=2, calm_s=2, clients=16)
MAX_WAIT_S = 1.0
# The speed of a busy machine may change severalfold while a request waits.
SLACK_S = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("overload")
    write_checkpoint(folder / "slow", SLOW, initializer_range=0.05)
    port = free_port()
    settings = (
        f"model.name={MODEL_NAME}",
        f"queue.max_wait_s={MAX_WAIT_S}",
        "engine.openvino.threads=1",
    )
    command = [
        *(sys.executable, "-m", "launcher", "serve", "--model", str(folder / "slow"), "--engine", "openvino"),
        *("--port", str(port)),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    with running(command, environment_of(os.environ), port, folder / "server.log", request_body(["好"])) as server:
        yield server


def tokens_in_flight(server: Server) -> float:
    match = re.search(r"^embedding_tokens_in_flight (\S+)", server.get("/metrics"), re.MULTILINE)
    assert match
    return float(match[1])


def test_an_overloaded_server_answers_what_it_can_and_refuses_the_rest(server: Server, tmp_path: Path) -> None:
    async def run() -> tuple[list[float], np.ndarray, dict[str, list[tuple[float, float | None]]]]:
        capacity = await measure_capacity(server, SCHEDULE)
        async with watching(server) as seen:
            begins, rows = await overload(server, capacity, SCHEDULE, tmp_path / "rows.npy")
        return begins, rows, seen.probes

    (_, begin, end, _), rows, probes = asyncio.run(run())
    due, took, status = rows.T
    assert set(status) <= BY_CONTRACT
    during = (due >= begin) & (due < end)
    assert {200, 429} <= set(status[during])
    assert np.max(took[status == 200]) < MAX_WAIT_S + SLACK_S
    for path, answers in probes.items():
        assert len(answers) > 10
        assert None not in [took for _, took in answers], path

    deadline = monotonic() + 10
    while tokens_in_flight(server):
        assert monotonic() < deadline, tokens_in_flight(server)
    # A full queue is MAX_WAIT_S long, and what comes after it is answered.
    assert status[due >= end][-1] == 200
    server.post(request_body(["过去了"]))
