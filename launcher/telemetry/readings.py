"""Measuring what may take its time, or never come back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

# From one reading to the next.
EVERY_S = 1.0
# What is older says nothing of now.
STALE_S = 5.0


class Readings(Generic[T]):
    """What ``read`` gives, which is called in threads, one after the other, about as often as ``latest`` but at most once a
    second. None of them is waited for, at the process's end either."""

    def __init__(self, read: Callable[[], T], name: str) -> None:
        self._read = read
        self._name = name
        self._thread: Thread | None = None
        self._next_at = 0.0
        self._last: tuple[float, T] | None = None
        self._failed = False

    def latest(self) -> T | None:
        """None before the first, and where the last is too old. Has the next one begin."""
        now = time.monotonic()
        if now >= self._next_at and not (self._thread and self._thread.is_alive()):
            self._next_at = now + EVERY_S
            self._thread = Thread(target=self._take, name=self._name, daemon=True)
            self._thread.start()
        if self._last is None:
            return None
        at, value = self._last
        return value if now - at < STALE_S else None

    def _take(self) -> None:
        try:
            self._last = time.monotonic(), self._read()
        except Exception:
            if not self._failed:
                self._failed = True
                log.exception("%s could not be read, and is not shown: a bug", self._name)
