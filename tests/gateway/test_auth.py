from __future__ import annotations

import re

import httpx
import pytest

from tests.support.metrics import metrics_of
from tests.support.server import running_server

BODY = {"model": "tiny-zh", "input": "你好"}


@pytest.fixture(scope="module")
def client(tiny_checkpoint, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text(
        "search: sk-file\n"
        "counted: {key: sk-counted}\n"
        "slow: {key: sk-slow, requests_per_minute: 2}\n"
        "small: {key: sk-small, tokens_per_minute: 5}\n"
    )
    arguments = ["--model", str(tiny_checkpoint), "--engine", "openvino", "--set", f"server.api_keys_file={keys}"]
    arguments += ["--set", "server.cors.allow_origins=[https://app.example]"]
    with (
        running_server(*arguments, environment={"SGL_EMBED_API_KEYS": "batch:sk-environment"}) as server,
        httpx.Client(base_url=server.base_url, timeout=30) as client,
    ):
        yield client
        server.wait_line(re.compile("key=search"), timeout_s=10)
        assert "sk-file" not in server.output()
        assert "sk-environment" not in server.output()


@pytest.mark.parametrize("key", ["sk-file", "sk-environment"])
def test_a_known_key_is_let_in(client, key):
    response = client.post("/v1/embeddings", json=BODY, headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sk-file"}])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize", "/v1/models", "/nothing"])
def test_without_a_key_nothing_is_told(client, headers, path):
    response = client.post(path, json=BODY, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert "wrong" not in response.text


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/metrics", "/openapi.json", "/docs"])
def test_probes_need_no_key(client, path):
    assert client.get(path).status_code == 200


def test_a_browser_at_an_allowed_origin_may_call(client):
    preflight = client.options(
        "/v1/embeddings",
        headers={
            "origin": "https://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    refused = client.options(
        "/v1/embeddings", headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
    )
    assert refused.status_code == 400
    assert "Disallowed CORS origin" in refused.json()["error"]["message"]
    reply = client.post(
        "/v1/embeddings", json=BODY, headers={"authorization": "Bearer sk-file", "origin": "https://app.example"}
    )
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-request-id" in reply.headers["access-control-expose-headers"]
    other = client.post(
        "/v1/embeddings", json=BODY, headers={"authorization": "Bearer sk-file", "origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in other.headers


def test_a_key_that_used_up_its_requests_is_told_when_to_come_back(client):
    headers = {"authorization": "Bearer sk-slow"}
    assert [client.get("/v1/models", headers=headers).status_code for _ in range(2)] == [200, 200]
    refused = client.post("/v1/embeddings", json=BODY, headers=headers)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "the key 'slow' has used up its 2 requests a minute" in error["message"]
    assert 25 <= int(refused.headers["retry-after"]) <= 30
    assert client.get("/ready", headers=headers).status_code == 200


def test_a_key_that_used_up_its_tokens_waits_for_its_debt(client):
    headers = {"authorization": "Bearer sk-small"}
    assert client.post("/v1/embeddings", json=BODY | {"input": []}, headers=headers).status_code == 400
    assert client.post("/v1/embeddings", json=BODY | {"input": "你好" * 4}, headers=headers).status_code == 200
    refused = client.post("/v1/embeddings", json=BODY, headers=headers)
    assert refused.status_code == 429
    assert "5 tokens a minute" in refused.json()["error"]["message"]
    # Ten tokens were used, and a request needs one that is left.
    assert 66 <= int(refused.headers["retry-after"]) <= 72


def test_use_is_counted_by_the_names_of_keys(client):
    names = ("search", "counted", "slow", "small", "batch")
    counters = ("requests", "limited_requests", "tokens")
    before = metrics_of(client)
    assert {f'embedding_key_{what}_total{{key="{name}"}}' for what in counters for name in names} <= before.keys()
    for key in ("sk-counted", "sk-counted", "sk-unknown"):
        client.post("/v1/embeddings", json=BODY, headers={"authorization": f"Bearer {key}"})
    client.get("/v1/models", headers={"authorization": "Bearer sk-counted"})
    after = metrics_of(client)
    assert {name: after[name] - before[name] for name in after if "{key=" in name and after[name] != before[name]} == {
        'embedding_key_requests_total{key="counted"}': 3,
        'embedding_key_tokens_total{key="counted"}': 8,
    }
    assert not any("unknown" in name for name in after)
