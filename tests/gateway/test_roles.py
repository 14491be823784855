"""Prompts, the cache and admission, on servers that are configured for them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.support.server import running_server

PROMPT = "为这个句子生成表示以用于检索相关文章："


@pytest.fixture(scope="module")
def client(tiny_checkpoint):
    arguments = ["--model", str(tiny_checkpoint), "--engine", "openvino", "--set", f"model.prompts.query={PROMPT}"]
    arguments += ["--set", "cache.memory_mb=1", "--set", "queue.max_tokens=600", "--set", "model.aliases=[other/name]"]
    arguments += ["--set", "model.matryoshka_dimensions=[32]"]
    with running_server(*arguments) as server, httpx.Client(base_url=server.base_url, timeout=30) as client:
        yield client


def embed(client: httpx.Client, value: object, **fields: object) -> tuple[np.ndarray, httpx.Response]:
    response = client.post("/v1/embeddings", json={"model": "tiny-zh", "input": value, **fields})
    assert response.status_code == 200, response.text
    return np.array([item["embedding"] for item in response.json()["data"]]), response


def test_a_query_is_the_text_behind_the_prompt(client):
    by_hand, _ = embed(client, PROMPT + "天气")
    plain, _ = embed(client, "天气")
    for vectors, _ in (
        embed(client, "天气", input_type="query"),
        embed(client, "天气", model="tiny-zh-query"),
        embed(client, "天气", model="other/name-query"),
    ):
        np.testing.assert_allclose(vectors, by_hand, atol=1e-5)
    for vectors, _ in (embed(client, "天气", input_type="document"), embed(client, "天气", model="tiny-zh-passage")):
        np.testing.assert_allclose(vectors, plain, atol=1e-5)
    assert float(by_hand[0] @ plain[0]) < 0.99


def test_a_prompt_cannot_go_before_token_ids(client):
    response = client.post("/v1/embeddings", json={"model": "tiny-zh-query", "input": [[101, 102]]})
    assert response.status_code == 400
    assert "a query is given as text" in response.json()["error"]["message"]


def test_cache_says_what_it_did_and_changes_nothing(client):
    texts = ["缓存甲", "缓存乙"]
    first, miss = embed(client, texts)
    again, hit = embed(client, texts)
    mixed, partial = embed(client, ["缓存丙", *texts, "缓存丁"])
    assert [response.headers["x-cache"] for response in (miss, hit, partial)] == ["miss", "hit", "partial"]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(mixed[1:3], first)
    alone, _ = embed(client, "缓存丁")
    np.testing.assert_allclose(mixed[3:], alone, atol=1e-5)
    assert hit.json()["usage"] == miss.json()["usage"]


def test_smaller_dimensions_are_the_first_numbers_at_unit_length(client):
    full, _ = embed(client, "套娃")
    small, _ = embed(client, "套娃", dimensions=32)
    assert small.shape == (1, 32)
    np.testing.assert_allclose(small[0], full[0, :32] / np.linalg.norm(full[0, :32]), atol=1e-5)
    refused = client.post("/v1/embeddings", json={"model": "tiny-zh", "input": "a", "dimensions": 64})
    assert "which has 32, 128" in refused.json()["error"]["message"]


def test_a_full_queue_says_when_to_come_back_and_an_idle_server_takes_anything(client):
    def post(i: int) -> httpx.Response:
        return client.post("/v1/embeddings", json={"model": "tiny-zh", "input": [f"{i} {n}" + "长" * 500 for n in range(20)]})

    assert post(0).status_code == 200
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(post, range(1, 9)))
    refused = [response for response in responses if response.status_code != 200]
    assert refused
    for response in refused:
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "overloaded"
        assert 1 <= int(response.headers["retry-after"]) <= 60
