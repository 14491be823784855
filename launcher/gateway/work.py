"""What answering a request took, for its line in the log."""

from __future__ import annotations

import msgspec

from launcher.embedding.service import CacheAnswer

# A third faster than f-strings.
TIMES = "tokenize=%.1fms queue=%.1fms inference=%.1fms encode=%.1fms"


class Work(msgspec.Struct, frozen=True, gc=False):
    """``truncated`` counts inputs that were cut; ``cache`` is None where no vectors were asked for, and the times after
    tokenizing mean nothing then."""

    inputs: int
    tokens: int
    truncated: int
    tokenize_s: float
    cache: CacheAnswer | None = None
    queue_s: float = 0.0
    inference_s: float = 0.0
    encode_s: float = 0.0

    def __str__(self) -> str:
        truncated = f" truncated={self.truncated}" if self.truncated else ""
        counts = f"inputs={self.inputs} tokens={self.tokens}{truncated}"
        if not self.cache:
            return f"{counts} tokenize={self.tokenize_s * 1e3:.1f}ms"
        times = (self.tokenize_s * 1e3, self.queue_s * 1e3, self.inference_s * 1e3, self.encode_s * 1e3)
        return f"{counts} cache={self.cache} {TIMES % times}"

    def fields(self) -> dict[str, object]:
        known: dict[str, object] = {
            "inputs": self.inputs,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "tokenize_ms": milliseconds(self.tokenize_s),
        }
        if self.cache:
            known["cache"] = self.cache
            known["queue_ms"] = milliseconds(self.queue_s)
            known["inference_ms"] = milliseconds(self.inference_s)
            known["encode_ms"] = milliseconds(self.encode_s)
        return known


def milliseconds(seconds: float) -> float:
    """To the microsecond; ``round`` would take three times as long."""
    return int(seconds * 1e6 + 0.5) / 1e3
