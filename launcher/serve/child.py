"""One gateway process of several: HTTP, tokens, cache and batches here, the engine in the parent.

``python -m launcher.serve.child CHANNEL_FD``, started by ``launcher.supervisor.gateways`` and nobody else.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys
from contextlib import suppress
from typing import NoReturn

import uvloop

from launcher.compose import build_gateway, build_tokenizer
from launcher.config.schema import Log as LogSection
from launcher.engines.remote import RemoteEngine
from launcher.errors import ConfigError
from launcher.serve.http import HttpServer
from launcher.serve.reload import LogSettings, Reload, log_as
from launcher.serve.server import run_server
from launcher.serve.setup import Setup, build_http
from launcher.serve.signals import Signals
from launcher.serve.tls import read_certificate
from launcher.supervisor.elsewhere import Elsewhere
from launcher.supervisor.gateways import BEAT, BEAT_S, MAX_SETUP_BYTES, READY
from launcher.telemetry.logs import Log, start_logging
from launcher.telemetry.registry import Registry


def main(channel_fd: int) -> int:
    with socket.socket(fileno=channel_fd) as channel:
        name: str
        setup: Setup
        name, setup = pickle.loads(channel.recv(MAX_SETUP_BYTES))
        config = setup.plan.config.log
        logs = start_logging(config.level, config.file, config.format, name)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run_gateway(name, setup, channel, logs))


async def run_gateway(name: str, setup: Setup, channel: socket.socket, logs: Log) -> int:
    signals = Signals()
    plan, server = setup.plan, setup.plan.config.server
    engine = RemoteEngine(setup.engine, slots=setup.slots, max_batch_tokens=plan.max_batch_tokens)
    keeper, tokenizer = Elsewhere(engine), build_tokenizer(plan)
    parts = build_gateway(plan, setup.model, setup.secrets, tokenizer, engine, keeper, Registry(), name, setup.metrics_folder)
    certificate = read_certificate(server.tls)
    log_as(log_settings_now(setup), logs, parts.access)
    http = build_http(parts, server, setup.max_connections, certificate)
    asyncio.get_running_loop().add_reader(channel, take_connection, channel, http)
    settings = LogSettings(setup.source, logs, parts.access)
    reload = Reload({"log": logs, "log settings": settings, "certificate": certificate, **parts.reloadable})
    ready = asyncio.Event()
    telling = asyncio.create_task(tell(channel, ready), name="tell")
    try:
        return await run_server(parts, http, [], server.drain_timeout_s, signals, reload, ready.set)
    finally:
        telling.cancel()


async def tell(channel: socket.socket, ready: asyncio.Event) -> NoReturn:
    """Let the parent know when requests are taken, and from then on that this event loop turns."""
    await ready.wait()
    channel.sendall(READY)
    while True:
        await asyncio.sleep(BEAT_S)
        # It may be stopping, and read no more.
        with suppress(OSError):
            channel.send(BEAT, socket.MSG_DONTWAIT)


def log_settings_now(setup: Setup) -> LogSection:
    """They may have been reloaded since the server started."""
    try:
        return setup.source.read().log
    except ConfigError:
        return setup.plan.config.log


def take_connection(channel: socket.socket, http: HttpServer) -> None:
    message, descriptors, _, _ = socket.recv_fds(channel, 1, maxfds=1)
    if not message:
        # The parent is gone, and the kernel ends this process too.
        asyncio.get_running_loop().remove_reader(channel)
    for descriptor in descriptors:
        http.take(socket.socket(fileno=descriptor))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
