"""A full queue, deadlines that requests set, and bodies as large as they may be."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from time import monotonic

import httpx
import pytest

from tests.support.full_queue import LONG_INPUT, SMALL_QUEUE, full_queue, wait_for_tokens
from tests.support.raw import connect
from tests.support.server import RunningServer, running_server

MODEL = "tiny-zh"
HEAD = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
HUGE = 16 << 20
BIG_BODIES = {
    "lists": b'{"model":"tiny-zh","input":[' + b",".join([b"[7]"] * ((HUGE - 100) // 4)) + b"]}",
    "ids": b'{"model":"tiny-zh","input":[' + b",".join([b"12345"] * ((HUGE - 100) // 6)) + b"]}",
    "texts": b'{"model":"tiny-zh","input":["' + b'","'.join([b"a" * 8000] * ((HUGE - 100) // 8003)) + b'"]}',
}


@pytest.fixture(scope="module")
def server(tiny_checkpoint) -> Iterator[RunningServer]:
    arguments = ("--model", str(tiny_checkpoint), *SMALL_QUEUE, "--set", "cache.memory_mb=1")
    with running_server(*arguments) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        yield client


def embed(client: httpx.Client, value: object, timeout_ms: object = None) -> httpx.Response:
    headers = {} if timeout_ms is None else {"x-request-timeout-ms": str(timeout_ms)}
    return client.post("/v1/embeddings", json={"model": MODEL, "input": value}, headers=headers)


def test_a_request_may_ask_for_less_time(server, client):
    refused = embed(client, LONG_INPUT, timeout_ms=50)
    assert refused.status_code == 504
    assert refused.json()["error"] == {
        "message": "the request was not finished within 0.05 s",
        "type": "timeout_error",
        "param": None,
        "code": "deadline_exceeded",
    }
    wait_for_tokens(server, some=False)
    assert embed(client, "好", timeout_ms=600_000).status_code == 200


@pytest.mark.parametrize("value", ["0", "600001", "soon", "1.5", ""])
def test_a_deadline_that_is_none_is_refused(client, value):
    response = embed(client, "好", timeout_ms=value)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "x-request-timeout-ms"
    assert "x-request-timeout-ms: expected a whole number of milliseconds from 1 to 600000" in error["message"]


def test_a_full_queue_still_answers_what_the_cache_has(server, client):
    assert embed(client, "记得").status_code == 200
    with full_queue(server):
        assert embed(client, "没见过").status_code == 429
        known = embed(client, "记得")
        assert (known.status_code, known.headers["x-cache"]) == (200, "hit")
        assert client.post("/tokenize", json={"input": "数" * 100_000}).status_code == 200


def test_a_full_queue_refuses_a_large_body_before_it_is_sent(server, client):
    body = json.dumps({"model": MODEL, "input": "好" * 100_000}).encode()
    with full_queue(server), connect(server) as connection:
        connection.sendall((HEAD % len(body)).encode())
        reply = connection.recv(1 << 16)
        assert reply.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: " in reply
        # The connection goes on, for clients that send all before they read.
        connection.sendall(body + b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_without_a_cache_a_full_queue_refuses_before_it_reads_and_tells_how_often(tiny_checkpoint):
    arguments = ("--model", str(tiny_checkpoint), *SMALL_QUEUE)
    with running_server(*arguments) as server, httpx.Client(base_url=server.base_url, timeout=60) as client:
        with full_queue(server), connect(server) as connection:
            connection.sendall((HEAD % 60).encode())
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 429 ")
            assert server.wait_line(re.compile(r"refused with 429 in the last second: (\d+) requests"), 10)[1] == "1"
        assert embed(client, "好").status_code == 200
        assert "/v1/embeddings 429 " not in server.output()


@pytest.mark.parametrize("kind", BIG_BODIES)
async def test_probes_are_answered_while_large_bodies_are_parsed(server, kind):
    """Parsed as they came, a body of lists alone would take the event loop for two seconds."""
    async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
        headers = {"content-type": "application/json"}
        uploads = [
            asyncio.create_task(client.post("/v1/embeddings", content=BIG_BODIES[kind], headers=headers)) for _ in range(4)
        ]
        waits = []
        while not all(upload.done() for upload in uploads):
            began = monotonic()
            assert (await client.get("/live")).status_code == 200
            waits.append(monotonic() - began)
        assert [upload.result().status_code for upload in uploads] == [400] * 4
    assert max(waits) < 1
