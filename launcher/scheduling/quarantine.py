"""Which inputs workers were lost with, whoever asked for them, so that neither another try nor another caller costs more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from time import monotonic
from typing import NamedTuple

from launcher.engines.base import TokenIds

# An input that so many workers were lost with is given up. The first time, others of its batch may have been the cause.
MAX_LOSSES = 2
# A popular input may be under way on several workers when they are killed together. A further try comes later than this.
SAME_MOMENT_S = 0.25
MAX_INPUTS = 20_000
# They may have been in the wrong place when workers ended for another reason.
FORGET_AFTER_S = 600.0


class _Record(NamedTuple):
    losses: int
    noted: float


class Quarantine:
    """Remembers the last ``MAX_INPUTS`` of them by their token ids, each for ``FORGET_AFTER_S`` of ``clock``'s seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._records: dict[bytes, _Record] = {}

    def __bool__(self) -> bool:
        return bool(self._records)

    def note_loss(self, ids: TokenIds) -> None:
        key, now = _key(ids), self._clock()
        # Anew at the end, which is the last to be forgotten.
        record = self._records.pop(key, None)
        losses = 1
        if record and now - record.noted < FORGET_AFTER_S:
            losses = record.losses + (now - record.noted >= SAME_MOMENT_S)
        self._records[key] = _Record(losses, now)
        if len(self._records) > MAX_INPUTS:
            del self._records[next(iter(self._records))]

    def clear(self, inputs: Iterable[TokenIds]) -> None:
        """These were computed, so that they were not the cause."""
        for ids in inputs:
            self._records.pop(_key(ids), None)

    def is_suspect(self, ids: TokenIds) -> bool:
        """To be computed alone, so that it is known what a worker is lost with."""
        return self._losses(ids) > 0

    def is_given_up(self, ids: TokenIds) -> bool:
        return self._losses(ids) >= MAX_LOSSES

    def _losses(self, ids: TokenIds) -> int:
        record = self._records.get(_key(ids))
        return record.losses if record and self._clock() - record.noted < FORGET_AFTER_S else 0


def _key(ids: TokenIds) -> bytes:
    return blake2b(ids.tobytes(), digest_size=16).digest()
