"""More connections than there are requests, and more than there may be."""

from __future__ import annotations

import asyncio
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import httpx
import psutil
import pytest

from tests.support.raw import connect, read_reply, read_to_end, replies
from tests.support.server import RunningServer, running_server

IDLE = 1000
ACTIVE = 200
# More than a process needs for itself, and too few for the default of server.max_connections.
FEW_FILES = 192


@pytest.fixture
def enough_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * (IDLE + ACTIVE))), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("enough_files")
async def test_idle_connections_do_not_keep_active_ones_from_their_replies(openvino_server: RunningServer) -> None:
    async def ask(client: httpx.AsyncClient, number: int) -> int:
        text = {"model": "tiny-zh", "input": f"第 {number} 条"}
        return (await client.post(f"{openvino_server.base_url}/v1/embeddings", json=text)).status_code

    with ExitStack() as idle:
        for _ in range(IDLE):
            idle.enter_context(connect(openvino_server))
        limits = httpx.Limits(max_connections=ACTIVE)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            statuses = await asyncio.gather(*(ask(client, number) for number in range(2 * ACTIVE)))
        assert set(statuses) == {200}
        assert connections_of(openvino_server) >= IDLE
    deadline = monotonic() + 10
    while connections_of(openvino_server) >= IDLE:
        assert monotonic() < deadline


def connections_of(server: RunningServer) -> int:
    return len([c for c in psutil.Process(server.process.pid).net_connections() if c.status == psutil.CONN_ESTABLISHED])


@pytest.fixture(scope="module")
def small_server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    shell = ("sh", "-c", f'ulimit -n {FEW_FILES} && exec "$0" "$@"', sys.executable, "-m", "launcher")
    arguments = ("--model", str(tiny_checkpoint), "--engine", "openvino", "--set", "engine.dtype=float32")
    with running_server(*arguments, program=shell) as server:
        yield server


def test_beyond_the_limit_a_connection_is_told_so(small_server: RunningServer) -> None:
    output = small_server.output()
    lowered = re.search(r"at most (\d+) connections instead of 10000, since only (\d+) files may be open", output)
    assert lowered, output
    most, files = map(int, lowered.groups())
    assert files == FEW_FILES

    with ExitStack() as stack:
        open_ones = [stack.enter_context(connect(small_server)) for _ in range(most)]
        # The last of them is served.
        open_ones[-1].sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert read_reply(open_ones[-1]).status == 200

        with connect(small_server) as one_more:
            (reply,) = replies(read_to_end(one_more))
        assert reply.status == 503
        assert reply.error["code"] == "too_many_connections"
        assert f"{most} connections are open already" in reply.error["message"]
        assert (reply.headers["connection"], reply.headers["retry-after"]) == ("close", "1")
        assert httpx.get(f"{small_server.base_url}/live").status_code == 503
        # Hundreds of them do not run the server out of files.
        for _ in range(2 * FEW_FILES):
            connect(small_server).close()

        open_ones[0].close()
        deadline = monotonic() + 10
        while httpx.get(f"{small_server.base_url}/live").status_code != 200:
            assert monotonic() < deadline
    assert small_server.output().count("refusing connections") == 1
    assert not re.search("Traceback|ERROR", small_server.output())


def test_each_gateway_process_has_its_share(tiny_checkpoint: Path) -> None:
    arguments = ["--model", str(tiny_checkpoint), "--engine", "openvino", "--set", "engine.dtype=float32", "--processes", "2"]
    with running_server(*arguments, "--set", "server.max_connections=8") as server, ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(connect(server))
            connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert read_reply(connection).status == 200
        for _ in range(2):
            (reply,) = replies(read_to_end(stack.enter_context(connect(server))))
            assert reply.status == 503
            assert "4 connections are open already" in reply.error["message"]
