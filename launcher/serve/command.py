"""``sgl-embed serve``: bind, plan, and serve in one process or in several."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from launcher.cache.redis import ENVIRONMENT_VARIABLE as REDIS_VARIABLE
from launcher.cache.redis import read_url
from launcher.compose import Secrets, build
from launcher.config.load import ConfigSource
from launcher.config.schema import Config
from launcher.gateway.keys import ENVIRONMENT_VARIABLE as KEYS_VARIABLE
from launcher.gateway.keys import Keys
from launcher.plan import Plan, make_plan
from launcher.serve.descriptors import connections_each
from launcher.serve.listen import announcer, bind, is_loopback
from launcher.serve.parent import run_parent
from launcher.serve.reload import LogSettings, Reload
from launcher.serve.server import run_server
from launcher.serve.setup import build_http
from launcher.serve.signals import Signals
from launcher.serve.tls import Certificate, read_certificate
from launcher.telemetry.logs import Log
from launcher.telemetry.otlp import read_endpoint, take_headers

log = logging.getLogger("launcher.serve")


def serve(config: Config, source: ConfigSource, logs: Log) -> int:
    """Serve until SIGINT or SIGTERM. The exit status is 0 where every accepted request was answered."""
    # Until somebody is there to act on it; what it has to reload is read after that.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    secrets = take_secrets(config)
    read_endpoint(config.tracing.endpoint)
    certificate = read_certificate(config.server.tls)
    max_connections = connections_each(config.server)
    # Before the model is fetched: a taken port should not cost a download.
    with bind(config.server) as listener:
        if not secrets.keys and not is_loopback(config.server.host):
            log.warning(
                "listening on %s without API keys: whoever reaches the port may use it (server.api_keys_file or %s)",
                config.server.host,
                KEYS_VARIABLE,
            )
        plan = make_plan(config)
        log.info("loading %s on %s in %s from %s", plan.name, plan.engine, plan.dtype, plan.checkpoint.folder)
        if config.server.processes > 1:
            running = run_parent(plan, source, secrets, listener, max_connections, logs)
        else:
            running = run_alone(plan, source, secrets, listener, max_connections, certificate, logs)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(running)


def take_secrets(config: Config) -> Secrets:
    """Out of the environment, so that worker processes do not inherit them."""
    file = config.server.api_keys_file
    keys = Keys(Path(file) if file else None, os.environ.pop(KEYS_VARIABLE, None))
    redis_url = read_url(config.cache.redis.url, os.environ.pop(REDIS_VARIABLE, None))
    return Secrets(keys, redis_url, take_headers(os.environ))


async def run_alone(
    plan: Plan,
    source: ConfigSource,
    secrets: Secrets,
    listener: socket.socket,
    max_connections: int,
    certificate: Certificate | None,
    logs: Log,
) -> int:
    """Gateway and engine in this process."""
    signals = Signals()
    with private_folder(plan) as folder:
        parts = build(plan, secrets, Path(folder))
        server = plan.config.server
        http = build_http(parts, server, max_connections, certificate)
        settings = LogSettings(source, logs, parts.access, plan.config)
        reload = Reload({"log": logs, "log settings": settings, "certificate": certificate, **parts.reloadable})
        on_ready = partial(announcer(plan.config), parts.model, listener)
        return await run_server(parts, http, [listener], server.drain_timeout_s, signals, reload, on_ready)


def private_folder(plan: Plan) -> AbstractContextManager[str]:
    """That only this user may enter. OpenVINO in this process needs none, and so none to be possible."""
    return TemporaryDirectory(prefix="sgl-embed-") if plan.workers else nullcontext("")
