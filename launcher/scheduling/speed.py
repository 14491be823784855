"""How fast the engine is, learned from the batches it has finished."""

from __future__ import annotations

import math

# Of its working time, how much the engine is judged by.
MEMORY_S = 5.0


class EngineSpeed:
    """Tokens per second of an engine that is given all it can take.

    Tokens over seconds of work, both fading as work goes on: a long batch counts for more than a short one, and idle time
    changes nothing. A small batch takes nearly as long as a full one, so that its speed only says what the engine can do at
    least: one of less than half of ``max_batch_tokens`` counts where it was faster than what is known.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._tokens = 0.0
        self._seconds = 0.0
        # None before the first large batch.
        self.tokens_per_s: float | None = None

    def observe(self, tokens: int, seconds: float, busy_s: float) -> None:
        """A batch took ``seconds`` and prolonged the engine's working time by ``busy_s``: less, where batches overlap."""
        if 2 * tokens < self._max_batch_tokens:
            # Of overlapping batches the one that ends right after another seems fast.
            busy_s = seconds
            if self.tokens_per_s is None or tokens <= self.tokens_per_s * seconds:
                return
        busy_s = max(busy_s, 1e-6)
        kept = math.exp(-busy_s / MEMORY_S)
        self._tokens = kept * self._tokens + tokens
        self._seconds = kept * self._seconds + busy_s
        self.tokens_per_s = self._tokens / self._seconds
