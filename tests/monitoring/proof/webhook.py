"""Who Alertmanager tells of alerts: a small HTTP server that notes what it is told, and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import msgspec

Status = Literal["firing", "resolved"]


class Alert(msgspec.Struct, frozen=True):
    status: Status
    labels: dict[str, str]


class Notification(msgspec.Struct, frozen=True):
    """As Alertmanager sends it: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config."""

    alerts: list[Alert]


class Heard(msgspec.Struct, frozen=True):
    """An alert's name and what became of it, in seconds of the monotonic clock."""

    name: str
    status: Status
    at: float


class Webhook:
    """Listens at ``url``."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}/"
        self._heard: list[Heard] = []
        self._changed = threading.Condition()

    def take(self, notification: Notification) -> None:
        with self._changed:
            at = time.monotonic()
            self._heard += [Heard(alert.labels["alertname"], alert.status, at) for alert in notification.alerts]
            self._changed.notify_all()

    def heard(self, since: float = 0.0) -> list[Heard]:
        with self._changed:
            return [each for each in self._heard if each.at >= since]

    def wait_for(self, names: Collection[str], status: Status, since: float, timeout_s: float) -> bool:
        """Until all of them were heard with this status after ``since``; false where that took too long."""

        def all_heard() -> bool:
            return {each.name for each in self.heard(since) if each.status == status} >= set(names)

        with self._changed:
            return self._changed.wait_for(all_heard, timeout_s)

    def wait_for_the_end_of(self, names: Collection[str], since: float, quiet_s: float, timeout_s: float) -> bool:
        """Until all of them were resolved, and none was heard again for ``quiet_s``; false where that took too long."""
        deadline = time.monotonic() + timeout_s
        while self.wait_for(names, "resolved", since, max(deadline - time.monotonic(), 0)):
            if not self._wait_for_more_than(len(self._heard_of(names)), names, quiet_s):
                return True
            since = max(each.at for each in self._heard_of(names) if each.status == "firing")
        return False

    def _wait_for_more_than(self, count: int, names: Collection[str], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self._heard_of(names)) > count, timeout_s)

    def _heard_of(self, names: Collection[str]) -> list[Heard]:
        return [each for each in self.heard() if each.name in names]

    def wait_for_any(self, since: float, timeout_s: float) -> bool:
        """Until anything was heard; false where nothing was."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self.heard(since)), timeout_s)


@contextmanager
def listening() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            webhook.take(msgspec.json.decode(body, type=Notification))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Silent: what is heard is in the report."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        webhook = Webhook(server)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield webhook
        finally:
            server.shutdown()
            thread.join()
