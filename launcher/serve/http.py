"""Uvicorn, with this server's own way of accepting, bounding and closing connections."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from launcher.errors import TooManyConnections
from launcher.gateway.access import AccessLog
from launcher.gateway.door import Door
from launcher.gateway.errors import error_response
from launcher.serve.accept import Acceptor
from launcher.serve.protocol import Connections, HttpProtocol, Timeouts, whole_reply
from launcher.serve.tls import Certificate

log = logging.getLogger("launcher.serve")

# Between two looks at all connections; what takes too long may take this much longer.
CHECK_S = 0.5
# Between two looks at the certificate's files.
CERTIFICATE_CHECK_S = 2.0
# Between two warnings about refused connections.
WARN_AGAIN_S = 60.0


class HttpServer(uvicorn.Server):
    """When to stop is decided by ``run_server``, not by uvicorn's signal handlers."""

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        access: AccessLog,
        max_connections: int,
        timeouts: Timeouts,
        certificate: Certificate | None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app, lifespan="off", ws="none", log_config=None, access_log=False, server_header=False, proxy_headers=False
            ),
        )
        self.config.load()
        self.server_state: Connections = Connections()
        self._door = door
        self._access = access
        self._max_connections = max_connections
        self._timeouts = timeouts
        self._certificate = certificate
        self._acceptors: list[Acceptor] = []
        self._opening: set[asyncio.Task[Any]] = set()
        self._refusal = whole_reply(error_response(TooManyConnections(max_connections)), [], close=True)
        self._warn_from = 0.0

    def take(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted; it is the server's from now on."""
        if self.should_exit:
            connection.close()
        elif len(self.server_state.connections) + len(self.server_state.arriving) >= self._max_connections:
            self._turn_away(connection)
        else:
            protocol = HttpProtocol(self.config, self.server_state, self._door, self._access, self._timeouts)
            opening = asyncio.create_task(self._open(connection, protocol))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def stop(self, within_s: float) -> bool:
        """Close each connection once its reply has left, the last ``within_s`` from now. Returns whether all are closed."""
        closed = not self.server_state.connections
        self.config.timeout_graceful_shutdown = max(math.ceil(within_s), 0)
        self.should_exit = True
        self.force_exit = within_s <= 0
        return closed

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(self._check_connections())]
            if self._certificate:
                watches.append(group.create_task(follow(self._certificate)))
            await super().serve(sockets)
            for watch in watches:
                watch.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._acceptors = [Acceptor(listener, self.take) for listener in sockets or []]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        # What has not opened by now, as in a TLS handshake, has asked for nothing yet.
        for opening in self._opening:
            opening.cancel()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def _open(self, connection: socket.socket, protocol: HttpProtocol) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._certificate:
                await loop.connect_accepted_socket(
                    lambda: protocol,
                    connection,
                    ssl=self._certificate.context,
                    ssl_handshake_timeout=self._timeouts.head,
                    ssl_shutdown_timeout=self._timeouts.send,
                )
            else:
                await loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError as error:
            log.debug("a connection was not opened: %s", error)
        finally:
            self.server_state.arriving.discard(protocol)

    def _turn_away(self, connection: socket.socket) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._warn_from:
            self._warn_from = now + WARN_AGAIN_S
            log.warning("refusing connections: %d are open (server.max_connections)", self._max_connections)
        self._access.turned_away("too_many_connections")
        with connection, suppress(OSError):
            # A TLS client could read it only after a handshake, which is what costs most.
            if not self._certificate:
                connection.send(self._refusal, socket.MSG_DONTWAIT)
                connection.shutdown(socket.SHUT_WR)
                # Closing over unread bytes would take the reply back.
                connection.recv(1 << 16, socket.MSG_DONTWAIT)

    async def _check_connections(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_S)
            now = loop.time()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, HttpProtocol)
                try:
                    connection.check(now)
                except Exception:
                    log.exception("a connection could not be checked and is cut off: a bug")
                    connection.transport.abort()


async def follow(certificate: Certificate) -> NoReturn:
    while True:
        await asyncio.sleep(CERTIFICATE_CHECK_S)
        certificate.reload_if_changed()
