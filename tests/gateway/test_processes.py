"""Several gateway processes on one port: they share the load and the figures, and they end together."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import httpx
import psutil
import pytest

from tests.support.server import RunningServer
from tests.support.texts import all_different

ARGUMENTS = ["--engine", "openvino", "--set", "engine.dtype=float32", "--processes", "2"]
DEADLINE_S = 10.0
LONG_WORK = all_different(900, 500)
LONG_WORK_TOKENS = 900 * 502
ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@pytest.fixture
def server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """One that a test may break."""
    # With one thread, what should take its time does.
    arguments = ["--model", str(tiny_checkpoint), *ARGUMENTS, "--set", "engine.openvino.threads=1"]
    server = RunningServer(arguments, {"SGL_EMBED_API_KEYS": "me:sk-secret"}).wait_ready()
    yield server
    if server.process.poll() is None:
        server.stop()


def gateways(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def metrics(server: RunningServer) -> dict[str, float]:
    lines = httpx.get(f"{server.base_url}/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def counted(shown: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in shown.items() if 'process="' not in name}


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, DEADLINE_S)
    # One that nobody is there to reap has ended too.
    assert [process for process in alive if process.status() not in ENDED] == []


@contextmanager
def clients(server: RunningServer) -> Iterator[list[httpx.Client]]:
    """Four with a connection each, two to each gateway."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(
                httpx.Client(base_url=server.base_url, timeout=120, headers={"authorization": "Bearer sk-secret"})
            )
            for _ in range(4)
        ]
        for client in made:
            client.get("/live")
        yield made


def ask(clients: list[httpx.Client], texts: list[str]) -> list[httpx.Response]:
    """A request from each client at the same time, each with its part of the texts."""
    bodies = [{"model": "tiny-zh", "input": texts[i :: len(clients)]} for i in range(len(clients))]
    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(lambda client, body: client.post("/v1/embeddings", json=body), clients, bodies))


def wait_until_all_is_accepted(server: RunningServer, tokens: int) -> None:
    deadline = monotonic() + 30
    while (now := metrics(server))["embedding_tokens_in_flight"] + now["embedding_tokens_total"] < tokens:
        assert monotonic() < deadline, now["embedding_tokens_in_flight"]
    assert now["embedding_tokens_in_flight"] > 0


def test_connections_go_to_the_processes_in_turn(two_process_server: RunningServer) -> None:
    for number in range(8):
        httpx.get(f"{two_process_server.base_url}/v1/models", headers={"x-request-id": f"in-turn-{number}"})
    two_process_server.wait_line(re.compile("id=in-turn-7"), DEADLINE_S)
    served_by = re.findall(r"gateway (\d): GET .* id=in-turn-", two_process_server.output())
    assert (served_by.count("0"), served_by.count("1")) == (4, 4)


def test_each_request_is_counted_once_whoever_is_asked(two_process_server: RunningServer) -> None:
    before = metrics(two_process_server)
    with clients(two_process_server) as each:
        replies = ask(each, all_different(8, 4))
    assert [reply.json()["usage"]["prompt_tokens"] for reply in replies] == [12] * 4

    expected = {
        'embedding_requests_offered_total{task="embeddings"}': 4,
        'embedding_requests_total{status="200",task="embeddings"}': 4,
        'embedding_request_duration_seconds_count{task="embeddings"}': 4,
        'embedding_request_duration_seconds_bucket{le="+Inf",task="embeddings"}': 4,
        'embedding_stage_duration_seconds_count{stage="inference"}': 4,
        "embedding_inputs_total": 8,
        "embedding_tokens_total": 48,
        "embedding_batch_tokens_sum": 48,
        "embedding_tokens_in_flight": 0,
    }
    deadline = monotonic() + DEADLINE_S
    while (after := metrics(two_process_server)) and {name: after[name] - before[name] for name in expected} != expected:
        assert monotonic() < deadline, {name: after[name] - before[name] for name in expected}
    # Each connection of its own, so that both are asked. What processes use goes on.
    assert counted(metrics(two_process_server)) == counted(metrics(two_process_server))


def test_the_series_are_those_of_one_process(two_process_server: RunningServer, openvino_server: RunningServer) -> None:
    def names(server: RunningServer) -> set[str]:
        # Each names its own processes.
        return {name for name in metrics(server) if 'process="' not in name}

    assert names(two_process_server) == names(openvino_server)


def test_all_series_are_there_at_the_first_scrape(server: RunningServer) -> None:
    first = metrics(server)
    assert first['embedding_requests_total{status="200",task="embeddings"}'] == 0
    assert first['embedding_request_duration_seconds_bucket{le="0.001",task="tokenize"}'] == 0
    assert first["embedding_batch_inputs_count"] == 0
    assert first["embedding_ready"] == 1


def test_secrets_reach_the_processes_unseen(server: RunningServer) -> None:
    with clients(server) as each:
        assert {reply.status_code for reply in ask(each, all_different(4, 4))} == {200}
    assert {httpx.post(f"{server.base_url}/v1/embeddings", json={}).status_code for _ in range(2)} == {401}
    for process in gateways(server):
        assert "sk-secret" not in " ".join([*process.cmdline(), *process.environ().values()])


def test_a_signal_under_load_loses_no_request(server: RunningServer) -> None:
    processes = gateways(server)
    assert len(processes) == 2
    # A Ctrl-C goes to all processes of the terminal's group; only the parent may act on it.
    assert not {os.getpgid(process.pid) for process in processes} & {os.getpgid(server.process.pid)}
    with clients(server) as each, ThreadPoolExecutor(1) as pool:
        replies = pool.submit(ask, each, LONG_WORK)
        wait_until_all_is_accepted(server, LONG_WORK_TOKENS)
        server.process.send_signal(signal.SIGINT)
        assert [reply.status_code for reply in replies.result()] == [200] * 4
    assert server.wait() == 0
    wait_until_gone(processes)
    assert "Traceback" not in server.output()


def test_a_second_signal_stops_at_once(server: RunningServer) -> None:
    with clients(server) as each, ThreadPoolExecutor(1) as pool:
        replies = pool.submit(ask, each, LONG_WORK)
        wait_until_all_is_accepted(server, LONG_WORK_TOKENS)
        server.process.send_signal(signal.SIGTERM)
        server.wait_line(re.compile("gateway 0: stopping"), DEADLINE_S)
        server.process.send_signal(signal.SIGTERM)
        assert {reply.status_code for reply in replies.result()} <= {200, 503}
    assert server.wait() == 1


def test_no_process_outlives_a_killed_parent(server: RunningServer) -> None:
    processes = gateways(server)
    server.process.kill()
    wait_until_gone(processes)


def test_a_killed_process_comes_back_and_what_it_counted_stays(server: RunningServer) -> None:
    with clients(server) as each:
        assert {reply.status_code for reply in ask(each, all_different(4, 4))} == {200}
    first, second = sorted(gateways(server), key=lambda process: process.pid)
    first.kill()
    server.wait_line(re.compile(r"gateway [01] ended \(killed by signal 9\); it is started again in 0 s"), DEADLINE_S)
    deadline = monotonic() + DEADLINE_S
    while len(gateways(server)) < 2 or len([name for name, value in metrics(server).items() if is_ready(name, value)]) < 2:
        assert monotonic() < deadline, server.output()
    with clients(server) as each:
        assert {reply.status_code for reply in ask(each, all_different(4, 4))} == {200}
    after = metrics(server)
    assert after['embedding_requests_total{status="200",task="embeddings"}'] == 8
    restarts = {name: value for name, value in after.items() if name.startswith("embedding_process_restarts_total")}
    assert sorted(restarts.values()) == [0, 1]
    assert second.is_running()


def is_ready(name: str, value: float) -> bool:
    return name.startswith("embedding_process_state") and 'state="ready"' in name and value == 1
