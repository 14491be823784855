"""The one place where the rest of the code says what happened; who listens is decided at composition."""

from __future__ import annotations

from typing import Literal, Protocol

Task = Literal["embeddings", "tokenize"]
Stage = Literal["tokenize", "queue", "inference", "encode"]


class Hooks(Protocol):
    """Durations are in seconds."""

    def offered(self, task: Task) -> None:
        """A request for ``task`` arrived, whatever becomes of it."""

    def answered(self, task: Task, status: int, seconds: float) -> None: ...

    def stage(self, stage: Stage, seconds: float) -> None: ...

    def inputs(self, count: int, tokens: int, truncated: int, cached: int) -> None:
        """Inputs of one answered request: how many, their tokens, how many were cut and how many came from the cache."""

    def batch(self, inputs: int, tokens: int, seconds: float) -> None:
        """The engine finished a batch."""
