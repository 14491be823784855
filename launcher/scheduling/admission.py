"""How much work may wait: a limit in tokens, and an honest answer to those who are turned away."""

from __future__ import annotations

from collections.abc import Callable

from launcher.errors import Overloaded

# Weight of the newest batch in the running mean of the engine's speed.
SMOOTHING = 0.2
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1.0, 60.0


class Admission:
    """Counts the tokens that wait or run; refuses what would exceed ``max_tokens``.

    A request is never refused while nothing else is in flight, however large it is. ``on_change`` is told each new count.
    """

    def __init__(self, max_tokens: int, on_change: Callable[[int], object] = lambda tokens: None) -> None:
        self._max_tokens = max_tokens
        self._on_change = on_change
        self._tokens_per_s: float | None = None
        self.tokens_in_flight = 0

    def admit(self, tokens: int) -> None:
        """Count ``tokens`` as in flight until ``release``. Raises ``Overloaded`` with the time the queue needs."""
        if self.tokens_in_flight and self.tokens_in_flight + tokens > self._max_tokens:
            raise Overloaded(self._retry_after_s(tokens))
        self._add(tokens)

    def release(self, tokens: int) -> None:
        self._add(-tokens)

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn the engine's speed from a finished batch."""
        speed = tokens / max(seconds, 1e-6)
        self._tokens_per_s = (
            speed if self._tokens_per_s is None else self._tokens_per_s + SMOOTHING * (speed - self._tokens_per_s)
        )

    def _add(self, tokens: int) -> None:
        self.tokens_in_flight += tokens
        self._on_change(self.tokens_in_flight)

    def _retry_after_s(self, tokens: int) -> float:
        if self._tokens_per_s is None:
            return MIN_RETRY_AFTER_S
        excess = self.tokens_in_flight + tokens - self._max_tokens
        return min(max(excess / self._tokens_per_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
