"""``sgl-embed serve``: bind, plan, and serve in one process or in several."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from functools import partial
from pathlib import Path

import uvloop

from launcher.cache.redis import ENVIRONMENT_VARIABLE as REDIS_VARIABLE
from launcher.cache.redis import read_url
from launcher.compose import Secrets, build
from launcher.config.schema import Config
from launcher.gateway.auth import ENVIRONMENT_VARIABLE as KEYS_VARIABLE
from launcher.gateway.auth import read_keys
from launcher.plan import Plan, make_plan
from launcher.serve.listen import announce, bind, is_loopback
from launcher.serve.parent import run_parent
from launcher.serve.server import HttpServer, run_server
from launcher.serve.signals import Signals

log = logging.getLogger("launcher.serve")


def serve(config: Config) -> int:
    """Serve until SIGINT or SIGTERM. The exit status is 0 where every accepted request was answered."""
    secrets = take_secrets(config)
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
        run = run_parent if config.server.processes > 1 else run_alone
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(plan, secrets, listener))


def take_secrets(config: Config) -> Secrets:
    """Out of the environment, so that worker processes do not inherit them."""
    file = config.server.api_keys_file
    keys = read_keys(Path(file) if file else None, os.environ.pop(KEYS_VARIABLE, None))
    return Secrets(keys, read_url(config.cache.redis.url, os.environ.pop(REDIS_VARIABLE, None)))


async def run_alone(plan: Plan, secrets: Secrets, listener: socket.socket) -> int:
    """Gateway and engine in this process."""
    signals = Signals()
    parts = build(plan, secrets)
    server = plan.config.server
    http = HttpServer(parts.app, server.keep_alive_s)
    return await run_server(parts, http, [listener], server.drain_timeout_s, signals, partial(announce, parts.model, listener))
