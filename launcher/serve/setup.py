"""What each gateway process is told at its start, and its HTTP server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.compose import Parts, Secrets
from launcher.config.load import ConfigSource
from launcher.config.schema import Server
from launcher.embedding.model import ServedModel
from launcher.plan import Plan
from launcher.serve.http import HttpServer
from launcher.serve.protocol import Timeouts
from launcher.serve.tls import Certificate


@dataclass(frozen=True, slots=True)
class Setup:
    """``engine`` is where the parent answers batches (a ZeroMQ endpoint), ``slots`` how many of one gateway's may be there;
    ``max_connections`` is each gateway's."""

    plan: Plan
    source: ConfigSource
    model: ServedModel
    secrets: Secrets
    engine: str
    slots: int
    max_connections: int
    metrics_folder: Path


def build_http(parts: Parts, server: Server, max_connections: int, certificate: Certificate | None) -> HttpServer:
    timeouts = Timeouts(keep_alive=server.keep_alive_s, head=server.head_timeout_s, send=server.send_timeout_s)
    return HttpServer(parts.app, parts.door, parts.access, max_connections, timeouts, certificate)
