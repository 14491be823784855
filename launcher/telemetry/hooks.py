"""The one place where the rest of the code says what happened; who listens is decided at composition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

CacheLevel = Literal["memory", "redis"]
Task = Literal["embeddings", "tokenize"]
Stage = Literal["tokenize", "cache", "queue", "inference", "encode"]
# Of a request that asks the model; 499 where its client has gone.
Status = Literal[200, 400, 404, 413, 415, 429, 499, 500, 503, 504]
# Why a request got no answer of the kind that it asked for.
Reason = Literal[
    "malformed",
    "head_too_large",
    "head_timeout",
    "body_too_large",
    "unsupported_body",
    "invalid",
    "not_found",
    "model_not_found",
    "unauthorized",
    "rate_limited",
    "overloaded",
    "too_many_connections",
    "not_ready",
    "deadline_exceeded",
    "internal_error",
]
ProcessState = Literal["new", "starting", "ready", "draining", "dead"]
Result = Literal["passed", "failed"]


class Hooks(Protocol):
    """Durations are in seconds."""

    def offered(self, task: Task) -> None:
        """A request for ``task`` arrived with a key that may ask, whatever becomes of it."""

    def accepted(self, task: Task) -> None:
        """Its inputs were checked, and given room or found in the cache: no limit refuses it any more."""

    def answered(self, task: Task, status: int, seconds: float, trace_id: str | None = None) -> None:
        """That request was answered with a ``Status``, or its client has gone (499). ``trace_id``: of its trace, where it has
        one."""

    def rejected(self, reason: Reason) -> None:
        """A request on any path but the probes', or a connection, got an error instead."""

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
    """About the engine, and the processes that the server started: its workers, and its gateways where there are several."""

    def model_loaded(self, seconds: float) -> None:
        """The engine passed its self-test, this long after it was started."""

    def process_started(self, process: str, pid: int) -> None:
        """It has this id, and leads a session of its own, until its state is "dead"."""

    def process_state(self, process: str, state: ProcessState) -> None:
        """Its state from now on."""

    def process_restart(self, process: str) -> None:
        """Another is started in the place of one that ended."""

    def self_test(self, process: str, result: Result) -> None:
        """The engine in this process had its self-test."""

    def watchdog_check(self, process: str, result: Result) -> None:
        """This worker was asked whether it still answers as it did."""

    def padding(self, tokens: int) -> None:
        """For a batch the engine computed this many positions that held no token."""
