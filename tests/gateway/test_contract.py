"""The HTTP contract, field by field, against a real server on each engine. No request may stop the server."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from time import monotonic

import httpx
import numpy as np
import pytest

from tests.support.server import RunningServer

MODEL = "tiny-zh"
HELLO = {"model": MODEL, "input": "你好，世界"}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
def _still_answers(client: httpx.Client) -> Iterator[None]:
    """Whatever a test sent, the next valid request succeeds."""
    yield
    assert client.post("/v1/embeddings", json=HELLO).status_code == 200


def vectors_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.array([item["embedding"] for item in response.json()["data"]], np.float32)


def assert_error(
    response: httpx.Response, status: int, message: str, param: str | None = None, code: str | None = None
) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert (error["param"], error["code"]) == (param, code)
    assert response.headers["x-request-id"]


def test_reply_has_openais_shape(client):
    response = client.post("/v1/embeddings", json=HELLO)
    reply = response.json()
    assert (reply["object"], reply["model"]) == ("list", MODEL)
    assert [set(item) for item in reply["data"]] == [{"object", "index", "embedding"}]
    # [CLS] 你 好 ， 世 界 [SEP]
    assert reply["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert len(reply["data"][0]["embedding"]) == 128
    assert np.linalg.norm(vectors_of(response)) == pytest.approx(1, abs=1e-5)


def test_order_and_index_follow_the_input(client):
    texts = ["天" * n for n in (300, 1, 40, 7, 120)]
    together = client.post("/v1/embeddings", json={"model": MODEL, "input": texts})
    assert [item["index"] for item in together.json()["data"]] == [0, 1, 2, 3, 4]
    alone = np.concatenate([vectors_of(client.post("/v1/embeddings", json={"model": MODEL, "input": text})) for text in texts])
    assert np.min(np.sum(alone * vectors_of(together), axis=1)) > 0.9999


def test_the_four_forms_of_input_agree(client):
    ids = client.post("/tokenize", json={"input": "你好，世界"}).json()["data"][0]["ids"]
    forms = ["你好，世界", ["你好，世界"], ids, [ids]]
    vectors = [vectors_of(client.post("/v1/embeddings", json={"model": MODEL, "input": form})) for form in forms]
    assert all(v.shape == (1, 128) for v in vectors)
    assert min(float(v[0] @ vectors[0][0]) for v in vectors) > 0.9999


def test_base64_holds_the_same_little_endian_float32(client):
    plain = vectors_of(client.post("/v1/embeddings", json={**HELLO, "encoding_format": "float"}))
    reply = client.post("/v1/embeddings", json={**HELLO, "encoding_format": "base64"}).json()
    packed = np.frombuffer(base64.b64decode(reply["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(packed, plain[0], atol=1e-6)


@pytest.mark.parametrize(
    "extra",
    [
        {"encoding_format": None},
        {"dimensions": None},
        {"dimensions": 128},
        {"user": "someone"},
        {"unknown": {"a": [1]}},
        {"input_type": None, "truncate": None},
        {"input": ["a"] * 2048},
        {"input": " "},
        {"input": "\u0000\u0007 \ud7ff 👩‍👩‍👧 [CLS] 龘"},
    ],
    ids=lambda extra: str(extra)[:40],
)
def test_accepted(client, extra):
    vectors = vectors_of(client.post("/v1/embeddings", json={**HELLO, **extra}))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("missing", [{}, {"input": "a"}, {"model": MODEL}])
def test_missing_fields(client, missing):
    field = "input" if "input" not in missing else "model"
    assert_error(client.post("/v1/embeddings", json=missing), 400, f"{field}: this field is required", param=field)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "input: expected a string, a list of strings, a list of token ids, or a list of lists of token ids, got null"),
        ("", "input: the string is empty"),
        ([], "input: the list is empty"),
        ([""], "input[0]: the string is empty"),
        (["a", ""], "input[1]: the string is empty"),
        ([[]], "input[0]: the list of token ids is empty"),
        ([[101, 102], []], "input[1]: the list of token ids is empty"),
        (["a", 1], "input[1]: expected a string like the first element, got an integer"),
        (["a", None], "input[1]: expected a string like the first element, got null"),
        ([1, "a"], "input[1]: expected a token id (a whole number), got a string"),
        ([[1], "a"], "input[1]: expected a list of token ids like the first element, got a string"),
        ([[101, True]], "input[0][1]: expected a token id (a whole number), got a boolean"),
        ([101, 1.5], "input[1]: expected a token id (a whole number), got a number"),
        ([True], "input[0]: expected a string, a token id or a list of token ids, got a boolean"),
        ([None], "input[0]: expected a string, a token id or a list of token ids, got null"),
        ([{}], "input[0]: expected a string, a token id or a list of token ids, got an object"),
        ({"a": 1}, "got an object"),
        (7, "got an integer"),
        (True, "got a boolean"),
        (["a"] * 2049, "input: 2049 inputs in one request, but this server takes at most 2048"),
        ([[101] * 512] * 600, "300000"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_input(client, value, message):
    assert_error(client.post("/v1/embeddings", json={"model": MODEL, "input": value}), 400, message, param="input")


@pytest.mark.parametrize(
    "ids",
    [[101, 99999, 102], [101, -1, 102], [101, 21128, 102], [2**31], [2**63], [10**30], [-(2**40)]],
    ids=lambda ids: str(ids)[:30],
)
def test_token_ids_outside_the_vocabulary(client, ids):
    for value, where in ((ids, "input"), ([[101, 102], ids], "input[1]")):
        response = client.post("/v1/embeddings", json={"model": MODEL, "input": value})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == "input"
        assert where in response.json()["error"]["message"]


def test_ids_of_another_tokenizer_are_explained(client):
    response = client.post("/v1/embeddings", json={"model": MODEL, "input": [[57668, 53901, 3922, 100220]]})
    assert_error(response, 400, "check_embedding_ctx_length=False", param="input")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoding_format", "int8", "encoding_format: invalid enum value 'int8', expected float or base64"),
        ("dimensions", 64, "dimensions: 64 is not a size of this model, which has 128"),
        ("dimensions", 0, "dimensions: 0 is not a size"),
        ("dimensions", "128", "dimensions: expected `int | null`, got `str`"),
        ("input_type", "question", "input_type: invalid enum value 'question'"),
        ("truncate", "middle", "truncate: invalid enum value 'middle', expected end or start or none"),
        ("model", 5, "model: expected `str`, got `int`"),
        ("model", None, "model: expected `str`, got `null`"),
    ],
)
def test_refused_fields(client, field, value, message):
    assert_error(client.post("/v1/embeddings", json={**HELLO, field: value}), 400, message, param=field)


@pytest.mark.parametrize(
    "name", ["gpt-4", "", "tiny-zh-document", "/tiny-zh", "Tiny-zh", "x" * 100_000], ids=lambda name: name[:10]
)
def test_unknown_models(client, name):
    response = client.post("/v1/embeddings", json={**HELLO, "model": name})
    assert len(response.content) < 500
    assert_error(response, 404, f"this server serves '{MODEL}'", param="model", code="model_not_found")


def test_too_long_is_cut_and_said_or_refused(client):
    long = "长" * 600
    cut = client.post("/v1/embeddings", json={"model": MODEL, "input": [long, "短"]})
    assert cut.headers["x-truncated-inputs"] == "1"
    assert cut.json()["usage"]["prompt_tokens"] == 512 + 3
    assert "x-truncated-inputs" not in client.post("/v1/embeddings", json={"model": MODEL, "input": "长" * 510}).headers
    refused = client.post("/v1/embeddings", json={"model": MODEL, "input": ["短", long], "truncate": "none"})
    assert_error(refused, 400, "input[1] has 602 tokens, but this model takes at most 512", "input", "context_length_exceeded")
    start, end = (
        vectors_of(client.post("/v1/embeddings", json={"model": MODEL, "input": "甲" * 300 + "乙" * 300, "truncate": side}))
        for side in ("start", "end")
    )
    assert float(start[0] @ end[0]) < 0.999


def test_over_long_token_ids_keep_their_last_separator(client):
    reply = client.post("/tokenize", json={"input": [101, *[200] * 600, 102]}).json()["data"][0]
    assert (reply["count"], reply["ids"][0], reply["ids"][-1], reply["truncated"]) == (512, 101, 102, True)


def test_malformed_bodies(client):
    def post(content: bytes, content_type: str = "application/json") -> httpx.Response:
        return client.post("/v1/embeddings", content=content, headers={"content-type": content_type})

    assert_error(post(b"{"), 400, "the body is not valid JSON")
    assert_error(post(b""), 400, "the body is not valid JSON")
    assert_error(post(b"\xff\xfe"), 400, "the body is not valid JSON")
    assert_error(post(b'{"model": "tiny-zh", "input": "\\ud800"}'), 400, "not valid JSON")
    assert_error(post(b'{"input": ' + b"[" * 100_000), 400, "nested too deeply")
    assert_error(post(b"[1]"), 400, "the body: expected `object`, got `array`")
    assert_error(post(json.dumps(HELLO).encode(), "text/plain"), 415, "Content-Type: application/json")
    assert post(json.dumps(HELLO).encode(), "application/json; charset=utf-8").status_code == 200


def test_body_larger_than_the_limit(client):
    big = b'{"model": "tiny-zh", "input": "' + b"a" * (16 << 20) + b'"}'
    refused = 'embedding_requests_total{status="413",task="embeddings"}'
    before = metric(client, refused)
    assert_error(client.post("/v1/embeddings", content=big, headers={"content-type": "application/json"}), 413, "16 MiB")

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(big), 1 << 20):
            yield big[start : start + (1 << 20)]

    # The connection is closed while the rest is still being sent, so not every client gets to see the reply.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        client.post("/v1/embeddings", content=chunks(), headers={"content-type": "application/json"})
    deadline = monotonic() + 10
    while (counted := metric(client, refused)) != before + 2:
        assert monotonic() < deadline, f"{counted - before} counted"


def test_unknown_routes_and_methods(client):
    assert_error(client.get("/v1/nothing"), 404, "/v1/nothing")
    assert_error(client.get("/v1/embeddings"), 405, "GET is not possible")
    assert_error(client.post("/health"), 405, "POST is not possible")
    assert_error(client.get("/health/"), 404, "/health/")


def test_roles_put_the_prompt_before_the_text(client):
    # This checkpoint has no prompts, so all roles are the same; test_roles.py has one with prompts.
    names = [MODEL, f"{MODEL}-query", f"{MODEL}-passage"]
    vectors = [vectors_of(client.post("/v1/embeddings", json={**HELLO, "model": name})) for name in names]
    assert min(float(v[0] @ vectors[0][0]) for v in vectors) > 0.9999


def test_models(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["dimensions"], model["max_tokens"]) == (MODEL, "model", 128, 512)
    assert model["fingerprint"] == client.get("/live").headers["x-model-fingerprint"]
    assert client.get(f"/v1/models/{MODEL}").json() == model
    assert_error(client.get("/v1/models/other"), 404, "'other' does not exist here", param="model", code="model_not_found")


def test_probes_and_metrics(client):
    for path in ("/health", "/live", "/ready"):
        response = client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
    before = offered(client)
    client.post("/v1/embeddings", json=HELLO)
    client.post("/v1/embeddings", json={**HELLO, "dimensions": 3})
    assert offered(client) == before + 2
    metrics = client.get("/metrics").text
    assert 'embedding_requests_total{status="400",task="embeddings"}' in metrics
    assert "embedding_truncated_inputs_total" in metrics
    assert client.get("/live").headers["x-model-fingerprint"] in metrics


def offered(client: httpx.Client) -> float:
    return metric(client, 'embedding_requests_offered_total{task="embeddings"}')


def metric(client: httpx.Client, series: str) -> float:
    """0 where the series is not there yet."""
    value = client.get("/metrics").text.partition(f"\n{series} ")[2].partition("\n")[0]
    return float(value or 0)


def test_request_id_is_echoed_or_made(client):
    assert client.get("/live", headers={"x-request-id": "abc-123"}).headers["x-request-id"] == "abc-123"
    made = [client.get("/live").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert len(client.get("/live", headers={"x-request-id": "x" * 500}).headers["x-request-id"]) == 32


def test_timing_and_cache_headers(client):
    headers = client.post("/v1/embeddings", json=HELLO).headers
    assert headers["x-cache"] == "miss"
    assert float(headers["x-inference-time-ms"]) > 0
    assert float(headers["x-queue-time-ms"]) >= 0
    assert float(headers["x-tokenization-time-ms"]) >= 0


def test_no_reply_tells_where_the_model_lies(client, server, tiny_checkpoint):
    for response in (
        client.get("/v1/models"),
        client.get("/openapi.json"),
        client.get("/metrics"),
        client.post("/v1/embeddings"),
    ):
        assert str(tiny_checkpoint.parent) not in response.text
