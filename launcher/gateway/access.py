"""A request's id, its line in the log, and why it was refused where it was."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from random import getrandbits

from launcher.gateway.reply import Header
from launcher.telemetry.hooks import Hooks, Reason

log = logging.getLogger("launcher.access")

MAX_LOGGED_PATH = 200
ACCEPTED_ID = re.compile(rb"[\x21-\x7e]{1,128}")
QUIET_PATHS = frozenset({b"/live", b"/ready", b"/health", b"/metrics"})
TOO_MANY = 429


class AccessLog:
    """One line for each request, at the level DEBUG for probes and for those refused with 429.

    These share a line a second: one each would take a good part of what refusing costs, when it matters.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._refused = 0

    def note(
        self, method: str, path: bytes, status: int, seconds: float, key: str | None, request_id: str, reason: Reason | None
    ) -> None:
        """``path`` as it was sent, so that a decoded line break cannot forge a line. ``key`` is the name of the caller's."""
        if reason and path not in QUIET_PATHS:
            self.turned_away(reason)
        if status == TOO_MANY:
            self._count_refusal()
        level = logging.DEBUG if status == TOO_MANY or path in QUIET_PATHS else logging.INFO
        if log.isEnabledFor(level):
            shown = path[:MAX_LOGGED_PATH].decode("ascii", "backslashreplace")
            log.log(level, "%s %s %d %.1fms key=%s id=%s", method, shown, status, seconds * 1e3, key or "-", request_id)

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
