"""Requests byte by byte, as no HTTP client would send them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from tests.support.server import RunningServer

DRIP_S = 0.1


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        return error


def connect(server: RunningServer, receive_buffer: int = 0) -> socket.socket:
    address = urlsplit(server.base_url)
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    connection.connect((address.hostname, address.port))
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(1 << 16):
        received += chunk
    return received


def read_reply(connection: socket.socket) -> Reply:
    """The next one, of a connection that stays open."""
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < promised_length(received):
        chunk = connection.recv(1 << 16)
        assert chunk, received
        received += chunk
    (reply,) = replies(received)
    return reply


def promised_length(received: bytes) -> int:
    return int(received.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


def drip(connection: socket.socket, endless: Iterable[bytes], deadline_s: float = 20.0) -> bytes:
    """Send a piece at a time, over and over, until the other side closes; what it had sent."""
    received = b""
    deadline = monotonic() + deadline_s
    connection.settimeout(DRIP_S)
    for piece in cycle(endless):
        assert monotonic() < deadline, received
        try:
            connection.sendall(piece)
            chunk = connection.recv(1 << 16)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            break
        if not chunk:
            break
        received += chunk
    return received


def replies(received: bytes) -> Iterator[Reply]:
    """Each with a content-length."""
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        yield Reply(int(first.split()[1]), headers, rest[:length])
        received = rest[length:]


def exchange(server: RunningServer, sent: bytes) -> list[Reply]:
    """What comes back until the server closes."""
    with connect(server) as connection:
        connection.sendall(sent)
        return list(replies(read_to_end(connection)))
