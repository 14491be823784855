"""Who is turned away while the queue is full, and how."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.full_queue import SMALL_QUEUE, full_queue
from tests.support.metrics import metrics_of
from tests.support.raw import connect, read_reply, read_to_end, replies
from tests.support.server import RunningServer, running_server

BODY = json.dumps({"model": "tiny-zh", "input": "好"}).encode()
ORIGIN = "https://app.example"
LIVE = b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text("search: sk-1\nslow: {key: sk-slow, requests_per_minute: 1}\n")
    settings = (f"server.api_keys_file={keys}", f"server.cors.allow_origins=[{ORIGIN}]", "log.level=debug")
    given = (part for setting in settings for part in ("--set", setting))
    with running_server("--model", str(tiny_checkpoint), *SMALL_QUEUE, *given) as server:
        yield server


def request(*headers: str, key: str = "sk-1", body: bytes = BODY, target: str = "/v1/embeddings") -> bytes:
    lines = (
        f"POST {target} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        f"content-length: {len(body)}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


CHUNKED = request("transfer-encoding: chunked", body=b"").replace(b"content-length: 0\r\n", b"")


def post(server: RunningServer, key: str, **headers: str) -> httpx.Response:
    headers |= {"content-type": "application/json", "authorization": f"Bearer {key}"}
    return httpx.post(f"{server.base_url}/v1/embeddings", content=BODY, headers=headers)


def test_the_refusal_is_whole(server: RunningServer) -> None:
    with httpx.Client(base_url=server.base_url) as client:
        before = metrics_of(client)
        with full_queue(server, "sk-1"):
            refused = post(server, "sk-1", **{"x-request-id": "mine"})
        after = metrics_of(client)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-request-id"] == "mine"
    assert refused.headers["x-model-fingerprint"]
    assert refused.headers["date"]

    def more(series: str) -> float:
        return after[series] - before.get(series, 0.0)

    assert more('embedding_requests_total{status="429",task="embeddings"}') == 1
    # The long one too, of which the client left.
    assert more('embedding_requests_offered_total{task="embeddings"}') == 2
    assert more('embedding_key_requests_total{key="search"}') == 2
    server.wait_line(re.compile("POST /v1/embeddings 429 .* reason=overloaded key=search id=mine$"), timeout_s=20)


def test_who_has_no_key_is_told_so_and_nothing_else(server: RunningServer) -> None:
    with full_queue(server, "sk-1"):
        assert post(server, "wrong").status_code == 401


def test_a_key_without_an_allowance_is_told_so(server: RunningServer) -> None:
    with full_queue(server, "sk-1"):
        codes = [post(server, "sk-slow").json()["error"]["code"] for _ in range(2)]
    assert codes == ["overloaded", "rate_limit_exceeded"]


def test_a_web_page_can_read_it(server: RunningServer) -> None:
    with full_queue(server, "sk-1"):
        refused = post(server, "sk-1", origin=ORIGIN)
    assert refused.status_code == 429
    assert refused.headers["access-control-allow-origin"] == ORIGIN


def test_the_connection_goes_on_and_its_requests_keep_their_order(server: RunningServer) -> None:
    with full_queue(server, "sk-1"), connect(server) as connection:
        for _ in range(2):
            connection.sendall(request())
            assert read_reply(connection).status == 429
        other = b"[" + b"1," * 10 + b"1]"
        connection.sendall(request() + request(target="/tokenize", body=other) + request() + LIVE)
        assert [reply.status for reply in replies(read_to_end(connection))] == [429, 400, 429, 200]


@pytest.mark.parametrize(("version", "wish"), [("1.0", "close"), ("1.0", "keep-alive"), ("1.1", "close")])
def test_the_connection_is_closed_where_the_client_wants_that_or_cannot_tell(
    server: RunningServer, version: str, wish: str
) -> None:
    with full_queue(server, "sk-1"), connect(server) as connection:
        connection.sendall(request(f"connection: {wish}").replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        (reply,) = replies(read_to_end(connection))
    assert reply.status == 429
    assert reply.headers["connection"] == "close"


def test_a_body_that_waits_to_be_asked_for_is_not_asked_for(server: RunningServer) -> None:
    with full_queue(server, "sk-1"), connect(server) as connection:
        head = request("expect: 100-continue").removesuffix(BODY)
        connection.sendall(head)
        reply = read_reply(connection)
        assert (reply.status, reply.headers["connection"]) == (429, "close")
        # Who sends it nevertheless is heard out.
        connection.sendall(BODY)
        assert read_to_end(connection) == b""


def test_a_chunked_body_is_passed_over(server: RunningServer) -> None:
    with full_queue(server, "sk-1"), connect(server) as connection:
        connection.sendall(CHUNKED + b"%x\r\n%b\r\n" % (len(BODY), BODY))
        assert read_reply(connection).status == 429
        connection.sendall(b"0\r\n\r\n" + LIVE)
        assert [reply.status for reply in replies(read_to_end(connection))] == [200]


@pytest.mark.parametrize(
    "rest",
    [b"0\r\n" + b"a: b\r\n" * 10_000, b"1;" + b"a" * 40_000, b"no length\r\n"],
    ids=["trailers", "extension", "nonsense"],
)
def test_a_body_that_goes_wrong_after_the_answer_gets_no_second_one(server: RunningServer, rest: bytes) -> None:
    with full_queue(server, "sk-1"), connect(server) as connection:
        connection.sendall(CHUNKED)
        assert read_reply(connection).status == 429
        with suppress(ConnectionError):
            connection.sendall(rest)
            assert connection.recv(1 << 16) == b""


def test_an_upgrade_with_a_body_is_answered_once(server: RunningServer) -> None:
    """As Java's HttpClient sends it."""
    with full_queue(server, "sk-1"), connect(server) as connection:
        connection.sendall(request("connection: Upgrade, HTTP2-Settings", "upgrade: h2c"))
        (reply,) = replies(read_to_end(connection))
    assert reply.status == 400


def test_who_reads_no_refusal_is_sent_no_more(server: RunningServer) -> None:
    """Else one connection could fill the memory."""
    before = psutil.Process(server.process.pid).memory_info().rss
    many = request() * 1000
    with full_queue(server, "sk-1"), connect(server, receive_buffer=4096) as connection:
        for _ in range(200):
            connection.sendall(many)
        # Sent all at once, the refusals would be 80 MB.
        assert psutil.Process(server.process.pid).memory_info().rss - before < 40 << 20
