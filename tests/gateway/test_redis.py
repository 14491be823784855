"""Servers that keep vectors in a Redis, while it lives and when it does not. Its loss makes them slower, never wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.server import RunningServer, running_server

UP = re.compile("Redis answers")
DOWN = re.compile("serving without Redis")
LEVELS = ("memory", "redis")


@pytest.fixture
def serve(tiny_checkpoint: Path) -> Callable[..., Iterator[RunningServer]]:
    @contextmanager
    def serve(*settings: str, redis_url: str) -> Iterator[RunningServer]:
        arguments = ["--model", str(tiny_checkpoint), "--engine", "openvino", "--set", "engine.dtype=float32"]
        # Long enough that a busy machine does not look like a frozen Redis.
        settings = ("cache.redis.timeout_s=2", *settings)
        arguments += [part for setting in settings for part in ("--set", setting)]
        server = RunningServer(arguments, {"SGL_EMBED_REDIS_URL": redis_url})
        try:
            server.wait_line(UP, timeout_s=60)
            yield server.wait_ready()
        finally:
            assert server.stop() == 0, server.output()

    return serve


def embed(server: RunningServer, texts: list[str]) -> tuple[str, np.ndarray]:
    reply = httpx.post(f"{server.base_url}/v1/embeddings", json={"model": "tiny-zh", "input": texts}, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-cache"], np.array([item["embedding"] for item in reply.json()["data"]], np.float32)


def written(server: RunningServer) -> None:
    """Writes come after the lookups of their turn, and before those of the next."""
    for turn in range(2):
        embed(server, [f"其他 {turn}"])


def metric(server: RunningServer, series: str) -> float:
    line = next(line for line in httpx.get(f"{server.base_url}/metrics").text.splitlines() if line.startswith(f"{series} "))
    return float(line.rpartition(" ")[2])


def cached(server: RunningServer) -> dict[str, float]:
    return {level: metric(server, f'embedding_cached_inputs_total{{level="{level}"}}') for level in LEVELS}


def test_one_server_finds_what_another_has_computed(serve, redis_server):
    with serve(redis_url=redis_server.url) as first, serve("cache.memory_mb=1", redis_url=redis_server.url) as second:
        assert cached(second) == {"memory": 0, "redis": 0}
        miss, vectors = embed(first, ["甲", "乙"])
        written(first)
        hit, same = embed(second, ["乙", "甲", "甲"])
        near, _ = embed(second, ["甲"])
        partial, _ = embed(second, ["甲", "丙"])
        assert (miss, hit, near, partial) == ("miss", "hit", "hit", "partial")
        np.testing.assert_array_equal(same, vectors[[1, 0, 0]])
        assert cached(second) == {"memory": 2, "redis": 3}


def test_another_vector_space_never_finds_it(serve, redis_server):
    with serve(redis_url=redis_server.url) as first, serve("model.max_tokens=100", redis_url=redis_server.url) as second:
        embed(first, ["甲"])
        written(first)
        assert embed(first, ["甲"])[0] == "hit"
        assert embed(second, ["甲"])[0] == "miss"


def test_killed_in_the_middle_it_costs_no_request(serve, redis_server, openvino_server):
    texts = [f"第{i}句" for i in range(40)]
    _, expected = embed(openvino_server, texts)
    answered = count()
    with serve(redis_url=redis_server.url) as server, ThreadPoolExecutor(8) as clients:

        def client(number: int) -> None:
            rng = np.random.default_rng(number)
            for _ in range(30):
                some = rng.integers(0, len(texts), 5)
                _, vectors = embed(server, [texts[i] for i in some])
                np.testing.assert_allclose(vectors, expected[some], atol=1e-5)
                if next(answered) == 100:
                    redis_server.kill()

        list(clients.map(client, range(8)))
        server.wait_line(DOWN, timeout_s=30)
        assert [embed(server, texts[:3])[0] for _ in range(2)] == ["miss", "miss"]
        redis_server.start()
        server.wait_line(UP, timeout_s=30)
        embed(server, texts[:3])
        written(server)
        back, vectors = embed(server, texts[:3])
        assert back == "hit"
        np.testing.assert_allclose(vectors, expected[:3], atol=1e-5)


def test_frozen_it_delays_and_does_not_stop(serve, redis_server, openvino_server):
    _, expected = embed(openvino_server, ["甲", "乙"])
    with serve(redis_url=redis_server.url) as server:
        embed(server, ["甲"])
        written(server)
        redis_server.freeze()
        for _ in range(3):
            state, vectors = embed(server, ["甲", "乙"])
            assert state == "miss"
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert httpx.get(f"{server.base_url}/ready").status_code == 200
        redis_server.thaw()
        server.wait_line(UP, timeout_s=30)
        assert embed(server, ["甲"])[0] == "hit"


def test_a_server_starts_without_its_redis(tiny_checkpoint, tmp_path):
    url = f"cache.redis.url=unix://{tmp_path}/nobody.sock"
    with running_server("--model", str(tiny_checkpoint), "--engine", "openvino", "--set", url) as server:
        assert [embed(server, ["甲"])[0] for _ in range(2)] == ["miss", "miss"]
        assert DOWN.search(server.output())


def test_equal_inputs_of_one_request_are_encoded_once(openvino_server):
    before = metric(openvino_server, "embedding_deduplicated_inputs_total")
    encoded = metric(openvino_server, "embedding_batch_inputs_sum")
    _, vectors = embed(openvino_server, ["一样", "两样", "一样", "一样"])
    assert metric(openvino_server, "embedding_deduplicated_inputs_total") - before == 2
    assert metric(openvino_server, "embedding_batch_inputs_sum") - encoded == 2
    np.testing.assert_array_equal(vectors[[2, 3]], vectors[[0, 0]])
    assert float(vectors[0] @ vectors[1]) < 0.99
