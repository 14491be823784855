"""The public address: bound before anything else, and told once the server is ready."""

from __future__ import annotations

import ipaddress
import socket

from launcher.config.schema import Server
from launcher.embedding.model import ServedModel
from launcher.errors import ConfigError

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


def announce(model: ServedModel, listener: socket.socket, *, https: bool) -> None:
    """Say on standard output where to call."""
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url = f"{'https' if https else 'http'}://{shown}:{port}"
    print(
        f"sgl-embed is ready: {model.name}, {model.dimensions} dimensions, on {model.engine} in {model.dtype}\n"
        f"  {url}/v1    (to read and try it: {url}/docs)\n"
        f"Try:\n"
        f"  curl {url}/v1/embeddings -H 'Content-Type: application/json' "
        f"""-d '{{"model": "{model.name}", "input": "你好，世界"}}'""",
        flush=True,
    )
