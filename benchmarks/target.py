"""An HTTP address that is asked: one request at a time, each on a connection of its own."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

EMBEDDINGS = "/v1/embeddings"
REPLY_TIMEOUT_S = 300.0


class ContenderFailed(Exception):
    """It did not start, or answered wrongly; the message says how."""


@dataclass(frozen=True)
class Target:
    """``key`` is sent as the bearer; "": none. ``tls`` trusts what the system does, and ``SSL_CERT_FILE``."""

    host: str
    port: int
    tls: bool = False
    key: str = ""

    @classmethod
    def of(cls, url: str, key: str = "") -> Target:
        """``url`` is that of the server, or its ``base_url`` in a client, which ends in /v1."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/") not in ("", "/v1"):
            raise ValueError(f"expected an address such as http://127.0.0.1:30000, got {url!r}")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, key)

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}

    def post(self, body: bytes, path: str = EMBEDDINGS) -> bytes:
        """The reply's body. Raises ``ContenderFailed`` where its status is not 200, ``OSError`` where there is none."""
        return self._ask("POST", path, body)

    def get(self, path: str) -> str:
        return self._ask("GET", path, None).decode()

    def ssl_context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.tls else None

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = self._connection()
        try:
            connection.request(method, path, body, self.headers)
            reply = connection.getresponse()
            content = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            raise ContenderFailed(f"status {reply.status}: {content[:300].decode(errors='replace')}")
        return content

    def _connection(self) -> http.client.HTTPConnection:
        if self.tls:
            return http.client.HTTPSConnection(self.host, self.port, timeout=REPLY_TIMEOUT_S, context=self.ssl_context())
        return http.client.HTTPConnection(self.host, self.port, timeout=REPLY_TIMEOUT_S)
