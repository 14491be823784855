"""``sgl-embed serve``: bind, plan, start, wait for a signal, and take everything down in order."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop

from launcher.cache.redis import ENVIRONMENT_VARIABLE as REDIS_VARIABLE
from launcher.cache.redis import read_url
from launcher.compose import Parts, build
from launcher.config.schema import Config, Server
from launcher.errors import ConfigError
from launcher.gateway.auth import ENVIRONMENT_VARIABLE as KEYS_VARIABLE
from launcher.gateway.auth import read_keys
from launcher.plan import Plan, make_plan

log = logging.getLogger("launcher.serve")

# Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
BACKLOG = 2048
# What even a hurried stop leaves for the last replies, which tell callers that the server is going.
CLOSING_S = 1.0


def serve(config: Config) -> int:
    """Serve until SIGINT or SIGTERM. The exit status is 0 where every accepted request was answered."""
    file = config.server.api_keys_file
    # Taken out, so that worker processes do not inherit the secrets.
    keys = read_keys(Path(file) if file else None, os.environ.pop(KEYS_VARIABLE, None))
    redis_url = read_url(config.cache.redis.url, os.environ.pop(REDIS_VARIABLE, None))
    # Before the model is fetched: a taken port should not cost a download.
    with bind(config.server) as listener:
        if not keys and not is_loopback(config.server.host):
            log.warning(
                "listening on %s without API keys: whoever reaches the port may use it (server.api_keys_file or %s)",
                config.server.host,
                KEYS_VARIABLE,
            )
        plan = make_plan(config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run_server(plan, keys, redis_url, listener))


async def run_server(plan: Plan, keys: Mapping[str, str], redis_url: str | None, listener: socket.socket) -> int:
    signals = Signals()
    parts = build(plan, keys, redis_url)
    log.info("loading %s on %s in %s from %s", plan.name, plan.engine, plan.dtype, plan.checkpoint.folder)
    http = HttpServer(parts, plan.config.server)
    parts.batcher.start()
    engine = asyncio.create_task(parts.keeper.run(lambda: announce(parts, listener)), name="engine")
    serving = asyncio.create_task(http.serve(sockets=[listener]), name="http")
    stop = asyncio.create_task(signals.first.wait(), name="signal")
    try:
        async with parts.redis:
            await asyncio.wait({engine, serving, stop}, return_when=asyncio.FIRST_COMPLETED)
            return await shut_down(parts, http, serving, signals, plan.config.server.drain_timeout_s if stop.done() else 0)
    finally:
        stop.cancel()
        await end(engine)


async def shut_down(parts: Parts, http: HttpServer, serving: asyncio.Task[None], signals: Signals, timeout_s: float) -> int:
    """Wait for accepted requests and for their replies to leave; a second signal or the timeout ends the wait.

    Returns the exit status: 0 where every accepted request was answered.
    """
    deadline = time.monotonic() + timeout_s
    parts.readiness.drain()
    if timeout_s:
        log.info("stopping: finishing accepted requests (at most %g s; a second signal stops at once)", timeout_s)
    again = asyncio.create_task(signals.second.wait())
    idle = asyncio.create_task(parts.readiness.idle())
    await asyncio.wait({idle, again}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    answered = idle.done()
    idle.cancel()
    await parts.batcher.stop()
    http.stop(within_s=max(deadline - time.monotonic(), CLOSING_S))
    await asyncio.wait({serving, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    sent = http.stop(within_s=0)
    await serving
    if answered and sent:
        return 0
    log.warning("stopped with requests unanswered")
    return 1


async def end(engine: asyncio.Task[None]) -> None:
    """Stop the engine and pass on the error it died of, if it did."""
    died = engine.done()
    engine.cancel()
    try:
        await engine
    except asyncio.CancelledError:
        if died:
            raise


class HttpServer(uvicorn.Server):
    """Uvicorn without its signal handlers: when to stop is decided by ``run_server``."""

    def __init__(self, parts: Parts, server: Server) -> None:
        super().__init__(
            uvicorn.Config(
                parts.app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=server.keep_alive_s,
            )
        )

    def stop(self, within_s: float) -> bool:
        """Close each connection once its reply has left, the last ``within_s`` from now. Returns whether all are closed."""
        closed = not self.server_state.connections
        self.config.timeout_graceful_shutdown = max(math.ceil(within_s), 0)
        self.should_exit = True
        self.force_exit = within_s <= 0
        return closed

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Signals:
    """Counts SIGINT and SIGTERM; the handlers only set events."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._note)

    def _note(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def announce(parts: Parts, listener: socket.socket) -> None:
    """Open the gates and say on standard output where to call."""
    parts.readiness.serve(*parts.unready_reasons)
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url, model = f"http://{shown}:{port}", parts.model
    print(
        f"sgl-embed is ready: {model.name}, {model.dimensions} dimensions, on {model.engine} in {model.dtype}\n"
        f"  {url}/v1    (to read and try it: {url}/docs)\n"
        f"Try:\n"
        f"  curl {url}/v1/embeddings -H 'Content-Type: application/json' "
        f"""-d '{{"model": "{model.name}", "input": "你好，世界"}}'""",
        flush=True,
    )


def bind(server: Server) -> socket.socket:
    """A socket that listens on the configured address; who connects waits. Raises ``ConfigError``."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((server.host, server.port))
        # Here and not when serving begins: until then a second server could bind the same port.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {server.host}:{server.port}: {error.strerror or error}; "
            "choose another with --port or --host (server.port, server.host)"
        ) from None
    return listener


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
