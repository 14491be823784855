"""The public address: bound before anything else, and told once the server is ready."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable

from launcher.config.schema import Config, Server
from launcher.embedding.model import ServedModel
from launcher.errors import ConfigError
from launcher.telemetry.lines import Event

log = logging.getLogger("launcher.serve")

# Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
BACKLOG = 2048


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


def announcer(config: Config) -> Callable[[ServedModel, socket.socket], None]:
    """What says that the model is served at this socket's address: words on standard output, or a line of the log where
    programs read what the server says."""
    scheme = "https" if config.server.tls.cert_file else "http"

    def announce(model: ServedModel, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        url = f"{scheme}://{shown}:{port}"
        ready = f"sgl-embed is ready: {model.name}, {model.dimensions} dimensions, on {model.engine} in {model.dtype}"
        if config.log.format == "json":
            log.info(Event(ready, url=f"{url}/v1", fingerprint=model.fingerprint))
        else:
            print(f"{ready}\n{how_to_call(url, model.name)}", flush=True)

    return announce


def how_to_call(url: str, model: str) -> str:
    return (
        f"  {url}/v1    (to read and try it: {url}/docs)\n"
        f"Try:\n"
        f"  curl {url}/v1/embeddings -H 'Content-Type: application/json' "
        f"""-d '{{"model": "{model}", "input": "你好，世界"}}'"""
    )
