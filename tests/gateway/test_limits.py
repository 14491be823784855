"""What one client may take: of time, of bytes, of requests sent ahead. Against a server that has little patience."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from time import monotonic

import httpx
import pytest

from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.raw import DRIP_S, connect, drip, exchange, read_reply, read_to_end, replies
from tests.support.server import RunningServer, running_server

GET = b"GET /live HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
BODY = b'{"model": "tiny-zh", "input": "a"}'
HEAD_BYTES = 32 << 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """2048 inputs make a reply of 24 MB, more than the kernel takes off the server for a client that does not read."""
    shape = Shape(vocab_size=1000, hidden_size=1024, num_hidden_layers=1, num_attention_heads=16, intermediate_size=64)
    folder = write_checkpoint(tmp_path_factory.mktemp("models") / "tiny-zh", shape)
    settings = {"head_timeout_s": 1, "keep_alive_s": 1, "request_timeout_s": 3, "send_timeout_s": 2, "max_held_mb": 8}
    arguments = [argument for key, value in settings.items() for argument in ("--set", f"server.{key}={value}")]
    with running_server("--model", str(folder), "--engine", "openvino", "--set", "engine.dtype=float32", *arguments) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_the_servers_fault(server: RunningServer) -> Iterator[None]:
    yield
    assert httpx.post(f"{server.base_url}/v1/embeddings", content=BODY, headers=JSON).status_code == 200
    assert not re.search(r"Traceback|ERROR|CRITICAL", server.output())


JSON = {"content-type": "application/json"}


# Heads


def test_a_head_that_takes_too_long_gets_408(server: RunningServer) -> None:
    started = monotonic()
    with connect(server) as connection:
        connection.sendall(GET)
        (reply,) = replies(drip(connection, [b"a", b": ", b"b", b"\r\n"]))
    assert 1 <= monotonic() - started < 4
    assert reply.status == 408
    assert reply.error["type"] == "timeout_error"
    assert "within 1 s (server.head_timeout_s)" in reply.error["message"]
    assert reply.headers["connection"] == "close"
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])
    server.wait_line(re.compile(reply.headers["x-request-id"]), timeout_s=5)


def test_a_second_head_has_a_time_of_its_own(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(GET + b"\r\n")
        first = read_reply(connection)
        (second,) = replies(drip(connection, [b"G", b"E", b"T", b" ", *[b"/"] * 1000]))
    assert (first.status, second.status) == (200, 408)


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET + b"\r\n"], ids=["silent", "blank-lines", "idle"])
def test_a_connection_without_a_request_is_closed_without_a_word(server: RunningServer, sent: bytes) -> None:
    with connect(server) as connection:
        if sent == b"\r\n":
            assert drip(connection, [sent]) == b""
            return
        connection.sendall(sent)
        started = monotonic()
        assert [reply.status for reply in replies(read_to_end(connection))] == [200] * bool(sent)
        assert 1 <= monotonic() - started < 4


def headers_of(size: int) -> bytes:
    return b"a: " + b"b" * size + b"\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        GET + headers_of(HEAD_BYTES),
        GET + headers_of(HEAD_BYTES * 20),
        b"GET /" + b"a" * HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        GET + b"a: b\r\n" * (HEAD_BYTES // 6) + b"\r\n",
        GET + b"a" * HEAD_BYTES * 2,
    ],
    ids=["one-header", "far-too-long", "target", "many-headers", "no-end"],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_head_that_is_too_long_gets_431(server: RunningServer, head: bytes, pieces: int) -> None:
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = len(head) // pieces + 1
        try:
            for start in range(0, len(head), size):
                connection.sendall(head[start : start + size])
            (reply,) = replies(read_to_end(connection))
        except ConnectionError:
            # What was still being sent when the server closed took the reply with it.
            assert len(head) > 2 * HEAD_BYTES or pieces > 1
            return
    assert reply.status == 431
    assert "32 KiB" in reply.error["message"]


def test_a_long_head_is_fine_whatever_came_before_it(server: RunningServer) -> None:
    body = b'{"input": "' + b"a" * (HEAD_BYTES - 600) + b'"}'
    upload = POST.replace(b"/v1/embeddings", b"/tokenize") + b"content-length: %d\r\n\r\n" % len(body) + body
    long_head = GET + b"connection: close\r\n" + headers_of(HEAD_BYTES - 200)
    with connect(server) as connection:
        connection.sendall(upload + long_head[:100])
        assert read_reply(connection).status == 200
        connection.sendall(long_head[100:10_000])
        connection.settimeout(DRIP_S)
        with pytest.raises(TimeoutError):
            connection.recv(1 << 16)
        connection.settimeout(10)
        connection.sendall(long_head[10_000:])
        assert b'{"status":"ok"}' in read_to_end(connection)


# Nonsense


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"hello\r\n\r\n",
        b"GET /live HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
        b"GET http://localhost HTTP/1.1\r\n\r\n",
        GET + b": no name\r\n\r\n",
        POST + b"content-length: -1\r\n\r\n",
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nnonsense\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\nnonsense\r\n",
    ],
    ids=lambda sent: repr(sent[-30:]),
)
def test_what_is_no_http_gets_400_in_the_usual_form(server: RunningServer, sent: bytes) -> None:
    (reply,) = exchange(server, sent)
    assert reply.status == 400
    assert reply.error["message"].startswith("not an HTTP/1.1 request: ")
    assert reply.error["type"] == "invalid_request_error"
    assert reply.headers["connection"] == "close"


def test_nonsense_after_a_request_waits_its_turn(server: RunningServer) -> None:
    upload = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    assert [reply.status for reply in exchange(server, upload + GET + b"\r\n" + b"nonsense\r\n\r\n")] == [200, 200, 400]


def test_a_broken_body_sent_ahead_waits_its_turn(server: RunningServer) -> None:
    upload = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    broken = POST + b"transfer-encoding: chunked\r\n\r\nnonsense\r\n"
    assert [reply.status for reply in exchange(server, upload + broken)] == [200, 400]


def test_too_many_requests_sent_ahead(server: RunningServer) -> None:
    received = exchange(server, (GET + b"\r\n") * 200)
    assert [reply.status for reply in received] == [200] * 65 + [400]
    assert "more than 64 requests" in received[-1].error["message"]


@pytest.mark.parametrize("endless", [b"5;extension=" + b"a" * 4000, b"0\r\na: " + b"b" * 4000], ids=["extension", "trailers"])
def test_a_chunked_body_without_content_is_bounded(server: RunningServer, endless: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(POST + b"transfer-encoding: chunked\r\n\r\n" + endless)
        received = drip(connection, [b"a" * 4000])
    assert [reply.status for reply in replies(received)] == [431]


def test_an_offer_to_upgrade_is_passed_over(server: RunningServer) -> None:
    (reply,) = exchange(server, GET + b"connection: close, upgrade\r\nupgrade: websocket\r\n\r\n")
    assert reply.status == 200
    assert "Unsupported upgrade" not in server.output()


def test_an_offer_to_upgrade_with_a_body_is_refused_by_name(server: RunningServer) -> None:
    """Java's client makes one with each request, unless told otherwise."""
    offer = POST + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
    (reply,) = exchange(server, offer + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
    assert reply.status == 400
    assert "have the client speak HTTP/1.1" in reply.error["message"]


# Bodies


@pytest.mark.parametrize(
    ("header", "piece"),
    [(b"content-length: 1000", b" "), (b"transfer-encoding: chunked", b"1\r\n \r\n")],
    ids=["length", "chunked"],
)
def test_a_slow_body_ends_at_the_deadline(server: RunningServer, header: bytes, piece: bytes) -> None:
    started = monotonic()
    with connect(server) as connection:
        connection.sendall(POST + header + b"\r\n\r\n")
        (reply,) = replies(drip(connection, [piece]))
    assert 3 <= monotonic() - started < 6
    assert reply.status == 504
    assert "not finished within 3 s" in reply.error["message"]


@pytest.mark.parametrize("piece", [b" ", b"1\r\n \r\n"], ids=["length", "chunked"])
def test_the_slow_body_of_an_answered_request_ends_too(server: RunningServer, piece: bytes) -> None:
    framing = b"content-length: 1000" if piece == b" " else b"transfer-encoding: chunked"
    with connect(server) as connection:
        connection.sendall(POST.replace(b"embeddings", b"nowhere") + framing + b"\r\n\r\n")
        (reply,) = replies(drip(connection, [piece]))
    assert reply.status == 404


def test_bodies_are_held_within_the_limit(server: RunningServer) -> None:
    """The first is alone, so that its size does not matter."""
    size = 10 << 20
    with connect(server) as first, connect(server) as second:
        first.sendall(POST + b"content-length: %d\r\n\r\n" % size + b" " * (size - 1))
        wait_until_held(server)
        second.sendall(POST + b"transfer-encoding: chunked\r\n\r\n4\r\nnull\r\n0\r\n\r\n")
        refused = read_reply(second)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert "server.max_held_mb" in refused.error["message"]
        first.sendall(b"1")
        assert read_reply(first).status == 400
        # On the same connection: its body was read to the end.
        second.sendall(POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
        assert read_reply(second).status == 200


def wait_until_held(server: RunningServer) -> None:
    deadline = monotonic() + 10
    while httpx.post(f"{server.base_url}/v1/embeddings", content=BODY, headers=JSON).status_code != 429:
        assert monotonic() < deadline


# Replies


def ask_for_24_mb(connection: socket.socket) -> None:
    # One vector to compute, and 2048 times that to send.
    body = json.dumps({"model": "tiny-zh", "input": ["a"] * 2048}).encode()
    connection.sendall(POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def test_a_client_that_does_not_read_is_cut_off(server: RunningServer) -> None:
    with connect(server, receive_buffer=4096) as connection:
        ask_for_24_mb(connection)
        port = connection.getsockname()[1]
        # Its reply is held, and counts.
        wait_until_held(server)
        server.wait_line(re.compile(rf"cut off 127.0.0.1:{port}: it took nothing of its reply for 2 s"), timeout_s=10)


def test_a_client_that_reads_slowly_gets_all(server: RunningServer) -> None:
    """Slower than the kernel's buffers would hide, and for longer than a client that takes nothing would be given."""
    started = monotonic()
    received = 0
    with connect(server, receive_buffer=1 << 16) as connection:
        ask_for_24_mb(connection)
        connection.settimeout(60)
        first = connection.recv(1000)
        length = int(re.search(rb"content-length: (\d+)", first)[1]) + first.index(b"\r\n\r\n") + 4
        received += len(first)
        while chunk := connection.recv(1 << 15):
            received += len(chunk)
            # As fast as 24 MB in 3 s.
            while monotonic() - started < received / 8e6:
                pass
    assert received == length
    assert monotonic() - started > 2.5
