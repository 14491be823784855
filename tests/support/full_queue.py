"""A server whose queue is full for as long as a test wants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import httpx

from tests.support.raw import connect
from tests.support.server import RunningServer
from tests.support.texts import all_different

# 290,000 tokens take one thread seconds.
LONG_INPUT = all_different(580, 500)
# Each with [CLS] and [SEP].
LONG_TOKENS = 580 * 502
SMALL_QUEUE = (
    *("--engine", "openvino", "--set", "engine.dtype=float32", "--set", "engine.openvino.threads=1"),
    *("--set", "queue.max_tokens=1000"),
)


@contextmanager
def full_queue(server: RunningServer, key: str = "") -> Iterator[None]:
    """Until the end of the block a long request is in flight; then its client leaves, and the server drops it."""
    with long_request(server, key):
        yield
        assert tokens_in_flight(server)
    wait_for_tokens(server, some=False)


@contextmanager
def long_request(server: RunningServer, key: str = "", model: str = "tiny-zh") -> Iterator[None]:
    """In flight at the beginning of the block; at its end the client leaves."""
    body = json.dumps({"model": model, "input": LONG_INPUT}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with connect(server) as busy:
        busy.sendall(head.encode() + body)
        wait_for_tokens(server, some=True)
        yield


def wait_for_tokens(server: RunningServer, *, some: bool) -> None:
    deadline = monotonic() + 30
    while bool(tokens_in_flight(server)) != some:
        assert monotonic() < deadline


def tokens_in_flight(server: RunningServer) -> float:
    metrics = httpx.get(f"{server.base_url}/metrics").text
    return float(metrics.partition("\nembedding_tokens_in_flight ")[2].partition("\n")[0])
