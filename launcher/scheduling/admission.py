"""How much work may wait: limits in tokens and in seconds, and an honest answer to those who are turned away."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from launcher.errors import Overloaded
from launcher.scheduling.queue import MAX_BULK_WAIT_S, Job, is_bulk
from launcher.scheduling.speed import EngineSpeed

# Of the speed that was measured, what is counted on: refusing takes some of the CPU that an engine shares with HTTP.
CAUTION = 0.8
MIN_RETRY_AFTER_S = 1.0
# openai-python pays no attention to a longer one, and would be back at once.
MAX_RETRY_AFTER_S = 60.0


class Admission:
    """Counts the tokens that wait or run; refuses what would make them more than ``max_tokens``, what would wait longer than
    ``max_wait_s`` at the engine's speed, and what would not be finished by its own deadline.

    A query (what fits one batch) waits until its batch is done, bulk until its first one begins. A request waits for what goes
    before it, and is never refused for its own size: what comes while nothing is in flight is admitted, and a query does not
    wait while no other query is. Until the engine's speed is known, from a batch of some size, only ``max_tokens`` counts.

    ``on_change`` is told each new count of tokens, ``clock`` is that of the deadlines.
    """

    def __init__(
        self,
        max_tokens: int,
        *,
        max_wait_s: float,
        max_batch_tokens: int,
        on_change: Callable[[int], object] = lambda tokens: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_tokens = max_tokens
        self._max_wait_s = max_wait_s
        self._max_batch_tokens = max_batch_tokens
        self._on_change = on_change
        self._clock = clock
        self._speed = EngineSpeed(max_batch_tokens)
        self._query_tokens = 0
        self._bulk: set[Job] = set()
        self.tokens_in_flight = 0

    def admit(self, job: Job, deadline: float = math.inf) -> None:
        """Count ``job`` as in flight until ``release``. Raises ``Overloaded`` with the time until there is room."""
        self._check(job.tokens, deadline)
        if self._is_bulk(job.tokens):
            self._bulk.add(job)
        else:
            self._query_tokens += job.tokens
        self._count(job.tokens)

    def release(self, job: Job) -> None:
        if self._is_bulk(job.tokens):
            self._bulk.remove(job)
        else:
            self._query_tokens -= job.tokens
        self._count(-job.tokens)

    def full(self) -> Overloaded | None:
        """What a query of one token without a deadline would be refused with, if it would be."""
        try:
            self._check(1, math.inf)
        except Overloaded as error:
            return error
        return None

    def observe(self, tokens: int, seconds: float, busy_s: float) -> None:
        """Learn from a finished batch, as ``EngineSpeed.observe`` does."""
        self._speed.observe(tokens, seconds, busy_s)

    def _check(self, tokens: int, deadline: float) -> None:
        if not self.tokens_in_flight:
            return
        speed = (self._speed.tokens_per_s or math.inf) * CAUTION
        excess = self.tokens_in_flight + tokens - self._max_tokens
        if excess > 0:
            # Once nothing is in flight, it is admitted whatever its size.
            raise Overloaded(retry_after_s(min(excess, self.tokens_in_flight) / speed))
        before = self._tokens_before(tokens, speed)
        if not before:
            return
        begin_s = before / speed
        wait_s = begin_s + self._longest_batch(tokens) / speed
        if wait_s > self._max_wait_s:
            raise Overloaded(retry_after_s(wait_s - self._max_wait_s))
        latest_s = latest_begin_s(deadline - self._clock(), tokens / speed)
        if begin_s > latest_s:
            raise Overloaded(retry_after_s(begin_s - latest_s), "it would not be finished before its deadline")

    def _tokens_before(self, tokens: int, speed: float) -> float:
        """What the engine computes before a request of ``tokens`` has its first batch."""
        bulk = sum([job.tokens_left for job in self._bulk]) if self._bulk else 0
        if self._is_bulk(tokens):
            return self._query_tokens + bulk
        if not self._query_tokens or not bulk:
            return self._query_tokens
        # Bulk has a batch under way, and one more each time it has waited long enough.
        turns = 1 + self._query_tokens / speed // MAX_BULK_WAIT_S
        return self._query_tokens + min(bulk, turns * self._max_batch_tokens)

    def _longest_batch(self, tokens: int) -> int:
        """The tokens of a query's batch, if as many come after it as are before it. Of bulk only the beginning counts."""
        return 0 if self._is_bulk(tokens) else min(self._query_tokens, self._max_batch_tokens)

    def _is_bulk(self, tokens: int) -> bool:
        return is_bulk(tokens, self._max_batch_tokens)

    def _count(self, tokens: int) -> None:
        self.tokens_in_flight += tokens
        self._on_change(self.tokens_in_flight)


def latest_begin_s(left_s: float, own_s: float) -> float:
    """Until when a request must have begun that has ``left_s`` and takes ``own_s``. What takes longer than it has is not
    refused for that: it must only begin in time."""
    return left_s - own_s if own_s < left_s else left_s


def retry_after_s(seconds: float) -> float:
    return min(max(seconds, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
