"""What a cycle sends for what the application says, and when it does not send it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from launcher.serve.cycle import Cycle

HEAD_OF_TWO = b"HTTP/1.1 200 OK\r\nserver: s\r\ncontent-length: 2\r\n"


class Sent(asyncio.Transport):
    """Takes what is written, and knows whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True


def cycle_to(sent: Sent, method: str = "GET", *, keep_alive: bool = True) -> tuple[Cycle, list[str]]:
    ended: list[str] = []
    log = logging.getLogger("test")
    cycle = Cycle(
        scope={"method": method},  # type: ignore[arg-type, typeddict-item]
        transport=sent,
        flow=FlowControl(sent),
        logger=log,
        access_logger=log,
        access_log=False,
        default_headers=[(b"server", b"s")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: ended.append("once"),
    )
    return cycle, ended


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def test_head_and_body_are_one_write() -> None:
    sent = Sent()
    cycle, ended = cycle_to(sent)
    await cycle.send(start((b"content-length", b"2")))
    assert sent.writes == [] and cycle.response_started
    await cycle.send(body(b"ok"))
    assert sent.writes == [HEAD_OF_TWO + b"\r\nok"]
    assert ended == ["once"] and cycle.response_complete and not sent.closed


async def test_a_long_body_follows_in_pieces() -> None:
    sent = Sent()
    cycle, ended = cycle_to(sent)
    await cycle.send(start((b"content-length", b"2")))
    await cycle.send(body(b"o", more=True))
    await cycle.send(body(b"k", more=True))
    assert ended == []
    await cycle.send(body(b""))
    assert sent.writes == [HEAD_OF_TWO + b"\r\no", b"k", b""] and ended == ["once"]


async def test_a_body_of_unknown_length_is_chunked() -> None:
    sent = Sent()
    cycle, _ = cycle_to(sent)
    for message in (start(), body(b"0123456789abcdef", more=True), body(b"")):
        await cycle.send(message)
    head = b"HTTP/1.1 200 OK\r\nserver: s\r\ntransfer-encoding: chunked\r\n\r\n"
    assert sent.writes == [head + b"10\r\n0123456789abcdef\r\n", b"0\r\n\r\n"]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_where_there_is_no_body_none_is_announced_as_chunks(method: str, status: int) -> None:
    sent = Sent()
    cycle, ended = cycle_to(sent, method)
    await cycle.send(start(status=status))
    await cycle.send(body(b"ignored" if method == "HEAD" else b""))
    (written,) = sent.writes
    assert written.endswith(b"server: s\r\n\r\n") and ended == ["once"]


@pytest.mark.parametrize("said", [True, False], ids=["by the application", "by the client"])
async def test_the_last_reply_says_so_and_closes(said: bool) -> None:
    sent = Sent()
    cycle, _ = cycle_to(sent, keep_alive=said)
    await cycle.send(start((b"content-length", b"2"), *([(b"connection", b"Close")] if said else [])))
    await cycle.send(body(b"ok"))
    assert sent.writes == [HEAD_OF_TWO + b"connection: close\r\n\r\nok"] and sent.closed


@pytest.mark.parametrize("content", [b"o", b"okk"])
async def test_a_body_of_another_length_is_not_sent(content: bytes) -> None:
    sent = Sent()
    cycle, _ = cycle_to(sent)
    await cycle.send(start((b"content-length", b"2")))
    with pytest.raises(RuntimeError, match="Content-Length"):
        await cycle.send(body(content))
    assert sent.writes == []


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb"])
async def test_a_header_with_a_line_break_is_not_sent(value: bytes) -> None:
    sent = Sent()
    cycle, _ = cycle_to(sent)
    with pytest.raises(RuntimeError, match="line break"):
        await cycle.send(start((b"x-request-id", value)))
    assert sent.writes == [] and not cycle.response_started


async def test_a_transfer_encoding_of_the_application_is_not_sent() -> None:
    cycle, _ = cycle_to(sent := Sent())
    with pytest.raises(RuntimeError, match="transfer-encoding"):
        await cycle.send(start((b"transfer-encoding", b"chunked")))
    assert sent.writes == []


@pytest.mark.parametrize("messages", [[body(b"x")], [start(), start()]], ids=["no head", "two heads"])
async def test_a_reply_is_one_head_and_then_a_body(messages: list[dict[str, Any]]) -> None:
    cycle, ended = cycle_to(sent := Sent())
    *before, last = messages
    for message in before:
        await cycle.send(message)
    with pytest.raises(RuntimeError, match=r"in place of http\.response"):
        await cycle.send(last)
    assert sent.writes == [] and ended == []


async def test_who_has_gone_is_sent_nothing() -> None:
    sent = Sent()
    cycle, ended = cycle_to(sent)
    cycle.disconnected = True
    await cycle.send(start())
    await cycle.send(body(b"x"))
    assert sent.writes == [] and ended == []
