"""What a server counts of what it turned away, and of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.metrics import metrics_of
from tests.support.raw import connect, read_reply, read_to_end
from tests.support.server import RunningServer, running_server

HELLO = {"model": "tiny-zh", "input": "你好"}
CONNECTIONS = 8


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text("free: free-key\nslow: {key: slow-key, requests_per_minute: 1}\n")
    settings = (f"api_keys_file={keys}", "max_body_mb=1", "head_timeout_s=0.5", f"max_connections={CONNECTIONS}")
    arguments = [argument for setting in settings for argument in ("--set", f"server.{setting}")]
    with running_server("--model", str(tiny_checkpoint), "--engine", "openvino", *arguments) as server:
        yield server


def client_of(server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=server.base_url, headers={"Authorization": "Bearer free-key"})


def rejected(client: httpx.Client) -> dict[str, float]:
    shown = metrics_of(client)
    name = 'embedding_requests_rejected_total{reason="'
    return {series.removeprefix(name).removesuffix('"}'): value for series, value in shown.items() if series.startswith(name)}


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    assert before.keys() == after.keys(), "a series came or went"
    return {reason: value - before[reason] for reason, value in after.items() if value != before[reason]}


def use_up(client: httpx.Client) -> None:
    client.headers["Authorization"] = "Bearer slow-key"
    while client.get("/v1/models").status_code != 429:
        pass


REQUESTS = {
    "invalid": lambda client: client.post("/v1/embeddings", json={**HELLO, "dimensions": 3}),
    "model_not_found": lambda client: client.post("/v1/embeddings", json={**HELLO, "model": "other"}),
    "not_found": lambda client: client.get("/v1/nothing"),
    "body_too_large": lambda client: client.post("/v1/embeddings", content=b" " * (2 << 20), headers=JSON),
    "unsupported_body": lambda client: client.post("/v1/embeddings", content=b"{}", headers={"content-type": "text/plain"}),
    "unauthorized": lambda client: client.get("/v1/models", headers={"Authorization": "Bearer wrong"}),
    "rate_limited": use_up,
}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("reason", REQUESTS)
def test_a_refused_request_is_counted_once_under_its_reason(server: RunningServer, reason: str) -> None:
    with client_of(server) as client:
        before = rejected(client)
        REQUESTS[reason](client)
        assert grown(before, rejected(client)) == {reason: 1}


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("malformed", b"NOT HTTP\r\n\r\n"),
        ("head_too_large", b"GET /live HTTP/1.1\r\nx: " + b"a" * (40 << 10) + b"\r\n\r\n"),
        ("head_timeout", b"GET /live HTTP/1.1\r\nhost: "),
    ],
)
def test_what_never_became_a_request_is_counted_too(server: RunningServer, reason: str, sent: bytes) -> None:
    with client_of(server) as client, connect(server) as connection:
        before = rejected(client)
        connection.sendall(sent)
        assert read_to_end(connection)
        assert grown(before, rejected(client)) == {reason: 1}


def test_a_connection_too_many_is_counted(server: RunningServer) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(client_of(server))
        before = rejected(client)
        for _ in range(CONNECTIONS - 1):
            connection = stack.enter_context(connect(server))
            # Its answer says that the connection is taken, not only that the kernel has it.
            connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert read_reply(connection).status == 200
        extra = stack.enter_context(connect(server))
        assert b"503" in read_to_end(extra)
        assert grown(before, rejected(client)) == {"too_many_connections": 1}


def test_answered_requests_and_probes_are_not_counted_as_rejected(server: RunningServer) -> None:
    with client_of(server) as client:
        before = rejected(client)
        for path in ("/health", "/ready", "/live", "/v1/models"):
            assert client.get(path).status_code == 200
        assert client.post("/v1/embeddings", json=HELLO).status_code == 200
        assert grown(before, rejected(client)) == {}


def test_nothing_is_in_flight_once_all_is_answered(server: RunningServer) -> None:
    with client_of(server) as client:
        client.post("/v1/embeddings", json=HELLO)
        client.post("/v1/embeddings", json={**HELLO, "input": ""})
        shown = metrics_of(client)
    assert {shown[f'embedding_requests_in_flight{{task="{task}"}}'] for task in ("embeddings", "tokenize")} == {0}


def test_the_time_that_loading_took_is_told(server: RunningServer) -> None:
    with client_of(server) as client:
        assert 0 < metrics_of(client)["embedding_model_load_seconds"] < 60
