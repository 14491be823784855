"""A reply leaves in one piece: who has its head has its body too, and whoever has nothing may ask another server."""

from __future__ import annotations

import json

from tests.support.raw import connect, read_reply
from tests.support.server import RunningServer

BODY = json.dumps({"model": "tiny-zh", "input": ["今天天气真好", "明天会下雨吗"]}).encode()
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"


def test_head_and_body_come_in_one_read(openvino_server: RunningServer) -> None:
    with connect(openvino_server) as connection:
        for _ in range(20):
            connection.sendall(HEAD % (len(BODY), b"") + BODY)
            received = connection.recv(1 << 20)
            head, _, body = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert len(json.loads(body)["data"]) == 2


def test_a_client_that_asks_first_is_told_to_go_on_at_once(openvino_server: RunningServer) -> None:
    with connect(openvino_server) as connection:
        connection.sendall(HEAD % (len(BODY), b"expect: 100-continue\r\n"))
        assert connection.recv(1 << 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert read_reply(connection).status == 200


def test_a_head_that_is_all_there_is_comes_too(openvino_server: RunningServer) -> None:
    with connect(openvino_server) as connection:
        for _ in range(2):
            connection.sendall(b"HEAD /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(1 << 10).startswith(b"HTTP/1.1 ")
