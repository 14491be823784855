"""Inputs that workers were lost with, so that a caller who tries again does not cost further workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from launcher.engines.base import TokenIds

MAX_INPUTS = 1000
# They may have been in the wrong place when workers ended for another reason.
FORGET_AFTER_S = 600.0


class Quarantine:
    """Knows the last ``MAX_INPUTS`` of them by their token ids, each for ``FORGET_AFTER_S``. ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._added: dict[bytes, float] = {}

    def add(self, ids: TokenIds) -> None:
        self._added[ids.tobytes()] = self._clock()
        if len(self._added) > MAX_INPUTS:
            del self._added[next(iter(self._added))]

    def holds_any(self, inputs: Sequence[TokenIds]) -> bool:
        return bool(self._added) and any(map(self._holds, inputs))

    def _holds(self, ids: TokenIds) -> bool:
        added = self._added.get(ids.tobytes())
        return added is not None and self._clock() - added < FORGET_AFTER_S
