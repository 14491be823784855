from __future__ import annotations

import re

import httpx
import pytest

from tests.support.server import running_server

BODY = {"model": "tiny-zh", "input": "你好"}


@pytest.fixture(scope="module")
def client(tiny_checkpoint, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text("search: sk-file\n")
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
