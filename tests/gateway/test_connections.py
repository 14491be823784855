"""Clients that stall, leave or read slowly, and stops in the middle of it."""

from __future__ import annotations

import json
import re
import signal
import threading
from time import monotonic

import httpx
import pytest

from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.raw import connect, read_to_end
from tests.support.server import RunningServer, running_server
from tests.support.texts import all_different

ARGUMENTS = ["--engine", "openvino", "--set", "engine.dtype=float32"]


def head(length: int) -> bytes:
    return (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def request(texts: list[str]) -> bytes:
    body = json.dumps({"model": "tiny-zh", "input": texts}).encode()
    return head(len(body)) + body


def tokens_in_flight(server: RunningServer) -> float:
    text = httpx.get(f"{server.base_url}/metrics").text
    return float(text.partition("\nembedding_tokens_in_flight ")[2].partition("\n")[0])


def wait_for_tokens(server: RunningServer, some: bool, timeout_s: float) -> None:
    deadline = monotonic() + timeout_s
    while bool(tokens_in_flight(server)) != some:
        assert monotonic() < deadline, f"tokens in flight: {tokens_in_flight(server)}"


@pytest.fixture
def server(tiny_checkpoint):
    server = RunningServer(["--model", str(tiny_checkpoint), *ARGUMENTS, "--set", "server.drain_timeout_s=20"]).wait_ready()
    yield server
    if server.process.poll() is None:
        server.stop()


def test_a_slow_reader_gets_its_whole_reply_before_the_end(tmp_path):
    """24 MB, which is more than the kernel's buffers would take off a server that ended early."""
    shape = Shape(vocab_size=1000, hidden_size=1024, num_hidden_layers=1, num_attention_heads=16, intermediate_size=64)
    folder = write_checkpoint(tmp_path / "tiny-zh", shape)
    server = RunningServer(["--model", str(folder), *ARGUMENTS]).wait_ready()
    with connect(server) as connection:
        connection.sendall(request(all_different(2048, 4)))
        wait_for_tokens(server, some=True, timeout_s=30)
        wait_for_tokens(server, some=False, timeout_s=60)
        server.process.send_signal(signal.SIGTERM)
        server.wait_line(re.compile("stopping"), timeout_s=10)
        first = connection.recv(1000)
        length = int(re.search(rb"content-length: (\d+)", first)[1])
        reply = first + read_to_end(connection)
    assert len(reply.partition(b"\r\n\r\n")[2]) == length > 20_000_000
    assert server.wait() == 0


def test_work_for_a_client_that_left_is_dropped(server):
    connection = connect(server)
    connection.sendall(request(all_different(580, 500)))
    wait_for_tokens(server, some=True, timeout_s=30)
    before = monotonic()
    connection.close()
    wait_for_tokens(server, some=False, timeout_s=30)
    dropped_after = monotonic() - before
    started = monotonic()
    answered = httpx.post(
        f"{server.base_url}/v1/embeddings", json={"model": "tiny-zh", "input": all_different(580, 500)}, timeout=120
    )
    assert answered.status_code == 200
    assert dropped_after < (monotonic() - started) / 2
    assert 'status="499",task="embeddings"} 1.0' in httpx.get(f"{server.base_url}/metrics").text


def test_leaving_in_mid_upload_is_no_error_of_the_server(server):
    with connect(server) as connection:
        connection.sendall(head(1000) + b'{"model"')
    server.wait_line(re.compile("POST /v1/embeddings 499 "), timeout_s=10)
    assert "a bug" not in server.output()
    assert "Traceback" not in server.output()


def test_a_stalled_upload_does_not_hold_up_the_end(server):
    with connect(server) as connection:
        connection.sendall(head(1000) + b'{"model"')
        offered = 'embedding_requests_offered_total{task="embeddings"} 1.0'
        deadline = monotonic() + 10
        while offered not in httpx.get(f"{server.base_url}/metrics").text:
            assert monotonic() < deadline
        started = monotonic()
        server.process.send_signal(signal.SIGTERM)
        reply = read_to_end(connection)
    assert b" 503 " in reply.partition(b"\r\n")[0]
    assert b"the server is shutting down" in reply
    assert server.wait() == 0
    assert monotonic() - started < 10
    assert "Traceback" not in server.output()


def test_a_stalled_upload_ends_at_the_deadline(tiny_checkpoint):
    arguments = ["--model", str(tiny_checkpoint), *ARGUMENTS, "--set", "server.request_timeout_s=0.5"]
    with running_server(*arguments) as server, connect(server) as connection:
        connection.sendall(head(1000) + b'{"model"')
        reply = read_to_end(connection)
        assert b" 504 " in reply.partition(b"\r\n")[0]
        assert b"not finished within 0.5 s" in reply


def test_a_second_signal_stops_at_once(server):
    with connect(server) as connection:
        connection.sendall(request(all_different(580, 500)))
        wait_for_tokens(server, some=True, timeout_s=30)
        server.process.send_signal(signal.SIGTERM)
        server.wait_line(re.compile("stopping"), timeout_s=10)
        server.process.send_signal(signal.SIGTERM)
        reply = read_to_end(connection)
    assert server.wait() == 1
    assert b" 503 " in reply.partition(b"\r\n")[0]


def test_new_work_during_the_drain_is_told_to_go_elsewhere(server):
    with connect(server) as busy, connect(server) as other:
        other.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b" 200 " in other.recv(1 << 16)
        busy.sendall(request(all_different(580, 500)))
        wait_for_tokens(server, some=True, timeout_s=30)
        server.process.send_signal(signal.SIGTERM)
        server.wait_line(re.compile("stopping"), timeout_s=10)
        other.sendall(request(["好"]))
        refused = read_to_end(other)
        answered: list[bytes] = []
        reader = threading.Thread(target=lambda: answered.append(read_to_end(busy)))
        reader.start()
        reader.join(60)
    assert b" 503 " in refused.partition(b"\r\n")[0]
    assert b"connection: close" in refused.lower()
    assert b" 200 " in answered[0].partition(b"\r\n")[0]
    assert server.wait() == 0


def test_a_path_cannot_forge_a_line_of_the_log(server):
    httpx.get(f"{server.base_url}/a%0A2026-11-20%20INFO%20forged%1b%5b31m")
    server.wait_line(re.compile(r"GET /a%0A2026-11-20%20INFO%20forged%1b%5b31m 404"), timeout_s=10)
    assert not any(line.startswith("2026-11-20 INFO forged") for line in server.lines)
