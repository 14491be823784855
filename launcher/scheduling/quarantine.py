"""Inputs that workers were lost with, so that a caller who tries again does not cost further workers."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.engines.base import TokenIds

MAX_INPUTS = 1000


class Quarantine:
    """Knows the last ``MAX_INPUTS`` of them by their token ids."""

    def __init__(self) -> None:
        self._inputs: dict[bytes, None] = {}

    def add(self, ids: TokenIds) -> None:
        self._inputs[ids.tobytes()] = None
        if len(self._inputs) > MAX_INPUTS:
            del self._inputs[next(iter(self._inputs))]

    def holds_any(self, inputs: Sequence[TokenIds]) -> bool:
        return bool(self._inputs) and any(ids.tobytes() in self._inputs for ids in inputs)
