"""The one place where the rest of the code says what happened; who listens is decided at composition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

CacheLevel = Literal["memory", "redis"]
Task = Literal["embeddings", "tokenize"]
Stage = Literal["tokenize", "cache", "queue", "inference", "encode"]
ProcessState = Literal["new", "starting", "ready", "draining", "dead"]


class Hooks(Protocol):
    """Durations are in seconds."""

    def offered(self, task: Task) -> None:
        """A request for ``task`` arrived, whatever becomes of it."""

    def answered(self, task: Task, status: int, seconds: float) -> None: ...

    def stage(self, stage: Stage, seconds: float) -> None: ...

    def inputs(self, count: int, tokens: int, truncated: int) -> None:
        """Inputs of one answered request: how many, their tokens, and how many were cut."""

    def spared(self, cached: Mapping[CacheLevel, int], deduplicated: int) -> None:
        """How many of them the engine was spared: kept in a cache level, or equal to one that was under way."""

    def batch(self, inputs: int, tokens: int, seconds: float) -> None:
        """The engine finished a batch."""

    def callers(self, names: Iterable[str]) -> None:
        """The names of all API keys from now on."""

    def called(self, name: str) -> None:
        """A request came with the key of this name, whatever becomes of it."""

    def limited(self, name: str) -> None:
        """It was refused, because the key's limits were used up."""

    def spent(self, name: str, tokens: int) -> None:
        """It was answered, and its inputs had this many tokens."""


class ProcessHooks(Protocol):
    """About the processes that the server started: its workers, and its gateways where there are several."""

    def process_state(self, process: str, state: ProcessState) -> None:
        """Its state from now on."""

    def process_restart(self, process: str) -> None:
        """Another is started in the place of one that ended."""
