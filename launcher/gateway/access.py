"""A request's id, its line in the log, and why it was refused where it was."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Iterable
from random import getrandbits, random

from launcher.gateway.reply import Header
from launcher.gateway.work import Work, milliseconds
from launcher.telemetry.hooks import Hooks, Reason, Task
from launcher.telemetry.lines import Structured
from launcher.telemetry.tracing import Trace

log = logging.getLogger("launcher.access")

MAX_LOGGED_PATH = 200
ACCEPTED_ID = re.compile(rb"[\x21-\x7e]{1,128}")
QUIET_PATHS = frozenset({b"/live", b"/ready", b"/health", b"/metrics"})
FIRST_ERROR = 400
TOO_MANY = 429


class Entry(Structured):
    """What the log says of one request; whoever learns it on the request's way fills it in. It is at ``scope["entry"]``."""

    __slots__ = ("key", "method", "path", "reason", "request_id", "seconds", "status", "task", "trace", "work")

    def __init__(self, method: str, path: bytes, request_id: str) -> None:
        """``path`` as it was sent, so that a decoded line break cannot forge a line."""
        self.method = method
        self.path = path
        self.request_id = request_id
        # 0 until the reply begins.
        self.status = 0
        self.seconds = 0.0
        # The name of the caller's.
        self.key: str | None = None
        self.task: Task | None = None
        self.reason: Reason | None = None
        self.work: Work | None = None
        # None where it is not traced.
        self.trace: Trace | None = None

    def __str__(self) -> str:
        reason = f" reason={self.reason}" if self.reason else ""
        work = f" {self.work}" if self.work else ""
        trace = f" trace={self.trace.id.trace_hex}" if self.trace else ""
        return (
            f"{self.method} {self._shown_path()} {self.status} {self.seconds * 1e3:.1f}ms{reason}{work}"
            f" key={self.key or '-'} id={self.request_id}{trace}"
        )

    def fields(self) -> dict[str, object]:
        path = self._shown_path()
        known: dict[str, object] = {
            "message": f"{self.method} {path} {self.status}",
            "request_id": self.request_id,
            "method": self.method,
            "path": path,
            "status": self.status,
            "duration_ms": milliseconds(self.seconds),
        }
        if self.key:
            known["key"] = self.key
        if self.task:
            known["task"] = self.task
        if self.reason:
            known["reason"] = self.reason
        if self.work:
            known.update(self.work.fields())
        if self.trace:
            known["trace_id"] = self.trace.id.trace_hex
        return known

    def _shown_path(self) -> str:
        return self.path[:MAX_LOGGED_PATH].decode("ascii", "backslashreplace")


class AccessLog:
    """One line for each request, at the level DEBUG for probes and for those refused with 429.

    These share a line a second: one each would take a good part of what refusing costs, when it matters.
    """

    def __init__(self, hooks: Hooks, share: float = 1.0, slow_s: float = math.inf) -> None:
        """As ``sample`` says."""
        self._hooks = hooks
        self._refused = 0
        self.sample(share, slow_s)

    def sample(self, share: float, slow_s: float) -> None:
        """From now on only this share of the requests that succeed have a line, besides those that take ``slow_s`` or more."""
        self._share = share
        self._slow_s = slow_s

    def note(self, entry: Entry) -> None:
        if entry.reason and entry.path not in QUIET_PATHS:
            self.turned_away(entry.reason)
        if entry.trace:
            entry.trace.end(entry.fields())
        if entry.status == TOO_MANY:
            self._count_refusal()
        level = logging.DEBUG if entry.status == TOO_MANY or entry.path in QUIET_PATHS else logging.INFO
        if log.isEnabledFor(level) and (self._share >= 1.0 or self._wants(entry)):
            log.log(level, entry)

    def _wants(self, entry: Entry) -> bool:
        return entry.status >= FIRST_ERROR or entry.seconds >= self._slow_s or random() < self._share

    def turned_away(self, reason: Reason) -> None:
        """Also what never became a request."""
        self._hooks.rejected(reason)

    def _count_refusal(self) -> None:
        if not self._refused:
            asyncio.get_running_loop().call_later(1.0, self._tell_refusals)
        self._refused += 1

    def _tell_refusals(self) -> None:
        log.warning("refused with 429 in the last second: %d requests", self._refused)
        self._refused = 0


def request_id_of(headers: Iterable[Header]) -> bytes:
    """The caller's, where it sent a usable one."""
    for name, value in headers:
        if name == b"x-request-id" and ACCEPTED_ID.fullmatch(value):
            return bytes(value)
    return new_request_id()


def new_request_id() -> bytes:
    # Not secret; drawn without the system call that random bytes for secrets need.
    return b"%032x" % getrandbits(128)
