"""Clients that keep a server busy: each connection has one request under way, asked for in a closed or in an open loop."""

from __future__ import annotations

import asyncio
import re
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np

from benchmarks.target import EMBEDDINGS, Target

# What is due by then is sent at once: to wake up for each request would take more of the CPU than all else that this process
# does, and of the machine that is measured.
GRID_S = 0.01
# After a refusal, in a closed loop.
BACK_OFF_S = 0.2
# After the last request, how long replies are waited for.
PATIENCE_S = 60.0
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
# Of a request that lost its connection before its reply.
NO_REPLY = 0

# When it was due, how long it took from then on, both in seconds, and its status.
Answered = tuple[float, float, int]


class Connection(asyncio.Protocol):
    """Has one request under way at most. ``on_reply(self, status)`` is told its end."""

    def __init__(self, on_reply: Callable[[Connection, int], None]) -> None:
        self._on_reply = on_reply
        self._received = b""
        self._wanted = 0
        self._busy = False
        self.due = 0.0
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, due: float) -> None:
        self.due, self._busy = due, True
        self._received, self._wanted = b"", 0
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if not self._wanted:
            end = self._received.find(b"\r\n\r\n")
            length = LENGTH.search(self._received, 0, end) if end >= 0 else None
            if not length:
                return
            self._wanted = end + 4 + int(length[1])
        if len(self._received) >= self._wanted:
            self._busy = False
            self._on_reply(self, int(self._received[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._busy:
            self._busy = False
            self._on_reply(self, NO_REPLY)


class Load:
    """``bodies`` are sent in turn. ``answered`` holds a row for each request."""

    def __init__(self, target: Target, bodies: Iterator[bytes]) -> None:
        self._target = target
        self._ssl = target.ssl_context()
        self._head = head_of(target)
        self._bodies = bodies
        self._idle: list[Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._quiet = asyncio.Event()
        self.answered: list[Answered] = []

    async def closed(self, clients: int, seconds: float) -> None:
        """``clients`` that each ask as soon as they were answered, and a little later where they were refused."""
        ends = time.monotonic() + seconds

        def ask(connection: Connection) -> None:
            if time.monotonic() < ends and connection.open:
                self._begin(connection, time.monotonic())

        def again(connection: Connection, status: int) -> None:
            self._note(connection, status)
            if status == 200:
                ask(connection)
            else:
                asyncio.get_running_loop().call_later(BACK_OFF_S, ask, connection)

        for _ in range(clients):
            ask(await self._connect(again))
        await asyncio.sleep(ends - time.monotonic())
        await self._all_answered()

    async def open(self, phases: Sequence[tuple[float, float]], on_phase: Callable[[], None] = lambda: None) -> None:
        """At each rate (requests per second) for its seconds, at random times with that mean."""
        rng = np.random.default_rng(2)
        due = time.monotonic()
        for rate, seconds in phases:
            on_phase()
            ends = due + seconds
            while (due := due + rng.exponential(1 / rate)) < ends:
                if due > time.monotonic():
                    await asyncio.sleep(max(due - time.monotonic(), GRID_S))
                self._send(due)
            due = ends
        await asyncio.sleep(max(due - time.monotonic(), 0))
        on_phase()
        await self._all_answered()

    async def _all_answered(self) -> None:
        if self._under_way or self._opening:
            async with asyncio.timeout(PATIENCE_S):
                await self._quiet.wait()

    def _send(self, due: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                self._begin(connection, due)
                return
        opening = asyncio.create_task(self._send_on_new(due))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _send_on_new(self, due: float) -> None:
        self._begin(await self._connect(self._keep), due)

    def _keep(self, connection: Connection, status: int) -> None:
        self._idle.append(connection)
        self._note(connection, status)

    async def _connect(self, on_reply: Callable[[Connection, int], None]) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(on_reply), self._target.host, self._target.port, ssl=self._ssl
        )
        return connection

    def _begin(self, connection: Connection, due: float) -> None:
        self._under_way += 1
        self._quiet.clear()
        body = next(self._bodies)
        connection.send(self._head % len(body) + body, due)

    def _note(self, connection: Connection, status: int) -> None:
        self.answered.append((connection.due, time.monotonic() - connection.due, status))
        self._under_way -= 1
        if not self._under_way:
            self._quiet.set()


def head_of(target: Target) -> bytes:
    """With a place for the body's length."""
    headers = {"Host": target.host, **target.headers}
    lines = [f"POST {EMBEDDINGS} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).replace("%", "%%").encode() + b"\r\nContent-Length: %d\r\n\r\n"


def many_connections() -> None:
    """Let this process have a connection for each request under way."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def answered_per_s(answered: Sequence[Answered], seconds: float) -> float:
    """Requests a second that were answered with 200, without the first fifth of the time, in which batches grow.

    The slope of their number over time: answers come by the batch, of which a whole number seldom fits the time.
    """
    begin = min(due for due, _, _ in answered)
    since, until = begin + seconds / 5, begin + seconds
    ended = sorted(due + took for due, took, status in answered if status == 200 and since <= due + took < until)
    return float(np.polyfit(ended, np.arange(len(ended)), 1)[0])
