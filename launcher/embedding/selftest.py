"""The check that an engine must pass before it may answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from launcher.embedding.tokens import Tokenizer
from launcher.engines.base import Batch, TokenIds, Vectors
from launcher.errors import EngineError

RunBatch = Callable[[Batch], Awaitable[Vectors]]

# The first two share a long beginning: an engine that mixes up what texts have in common fails on them.
TEXTS = (
    "向量检索把文本变成数字，再比较它们之间的距离，这样就能找到意思相近的句子。",
    "向量检索把文本变成数字，再比较它们之间的距离，但是今天的天气比昨天冷。",
    "The quick brown fox jumps over the lazy dog, twice.",
    "你好",
)
MIN_AGREEMENT = 0.999
# An untrained model gives different texts a cosine of 0.9998; above this they are the same vector.
SAME_VECTOR = 0.99999
MAX_LENGTH_ERROR = 1e-3


async def self_test(run: RunBatch, tokenizer: Tokenizer) -> None:
    """Raise ``EngineError`` with the figure where known texts alone, together, repeated and at full length do not agree.

    This finds an engine whose vectors depend on the company they are computed in or on chance, or that cannot take the
    longest input. It cannot find one that is wrong in the same way every time, such as with another model's weights.
    """
    # Together no more than a full input, which is what each engine takes at least.
    room = max(tokenizer.max_tokens // len(TEXTS), 1)
    texts = [item.ids[:room] for item in tokenizer.encode(TEXTS, "end")]
    (longest,) = tokenizer.encode(["".join(TEXTS) * (tokenizer.max_tokens // len(TEXTS) + 1)], "end")

    alone = np.concatenate([await _run(run, [ids]) for ids in texts])
    together = await _run(run, texts)
    full = await _run(run, [longest.ids])
    full_again = await _run(run, [longest.ids])

    _require_agreement("alone and in a batch", alone, together)
    _require_agreement(f"of {len(longest.ids)} tokens, computed twice", full, full_again)
    _require_differences(np.concatenate([together, full]))


def canary(tokenizer: Tokenizer) -> Batch:
    """One short text, for asking now and then whether an engine still answers as it did."""
    (item,) = tokenizer.encode(TEXTS[-1:], "end")
    return Batch(np.array(item.ids, np.int32), np.array([len(item.ids)], np.int32))


async def _run(run: RunBatch, texts: Sequence[TokenIds]) -> Vectors:
    vectors = await run(Batch(np.concatenate(texts), np.array([len(ids) for ids in texts], np.int32)))
    if len(vectors) != len(texts):
        raise EngineError(f"self-test: {len(texts)} texts gave {len(vectors)} vectors")
    if not np.isfinite(vectors).all():
        raise EngineError("self-test: a vector holds numbers that are not finite")
    error = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
    if error > MAX_LENGTH_ERROR:
        raise EngineError(f"self-test: a vector's length is off from 1 by {error:.4f}")
    return vectors


def _require_agreement(what: str, first: Vectors, second: Vectors) -> None:
    cosine = float((first * second).sum(axis=1).min())
    if cosine < MIN_AGREEMENT:
        raise EngineError(
            f"self-test: the vectors of a text {what} agree only to a cosine of {cosine:.4f}, not {MIN_AGREEMENT}"
        )


def _require_differences(vectors: Vectors) -> None:
    cosines = vectors @ vectors.T
    if cosines.min() > SAME_VECTOR:
        raise EngineError(f"self-test: different texts give the same vector (cosine {cosines.min():.6f})")
