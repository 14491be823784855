"""What the start-up self-test lets pass and what it stops, shown on encoders with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from launcher.embedding.selftest import self_test
from launcher.embedding.tokens import Tokenizer
from launcher.engines.base import Batch, Vectors
from launcher.errors import EngineError
from tests.support.checkpoints import bert_tokenizer

DIMENSIONS = 64
Fault = Callable[[Vectors, Batch], Vectors]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    bert_tokenizer(21128).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder, 512, 21128)


class Encoder:
    """Unit vectors that depend on an input's ids alone, put through a fault. Keeps the batches it was given."""

    def __init__(self, fault: Fault = lambda vectors, batch: vectors) -> None:
        self.fault = fault
        self.batches: list[Batch] = []

    async def __call__(self, batch: Batch) -> Vectors:
        self.batches.append(batch)
        inputs = np.split(batch.ids, np.cumsum(batch.lengths)[:-1])
        vectors = np.stack([np.random.default_rng(ids).standard_normal(DIMENSIONS) for ids in inputs]).astype(np.float32)
        return self.fault(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), batch)


@pytest.mark.parametrize("limit", [3, 4, 16, 128, 512])
async def test_a_right_encoder_passes_at_every_limit(folder: Path, limit: int) -> None:
    encoder = Encoder()
    await self_test(encoder, Tokenizer(folder, limit, 21128))
    sizes = [len(batch.ids) for batch in encoder.batches]
    assert sizes.count(limit) >= 2, "the longest input is tried, twice"
    assert max(batch.lengths.max() for batch in encoder.batches) == limit
    assert max(len(batch.lengths) for batch in encoder.batches) > 1, "texts are tried together"


async def test_no_batch_is_larger_than_a_full_input(tokenizer: Tokenizer) -> None:
    encoder = Encoder()
    await self_test(encoder, tokenizer)
    assert all(len(batch.ids) <= 512 for batch in encoder.batches)


def mix_with_neighbours(vectors: Vectors, batch: Batch) -> Vectors:
    mixed = vectors + 0.1 * vectors.sum(axis=0, keepdims=True)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def reorder(vectors: Vectors, batch: Batch) -> Vectors:
    return np.roll(vectors, 1, axis=0)


def drift() -> Fault:
    rng = np.random.default_rng(0)

    def fault(vectors: Vectors, batch: Batch) -> Vectors:
        if len(batch.ids) < 512:
            return vectors
        noisy = vectors + 0.02 * rng.standard_normal(vectors.shape)
        return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)

    return fault


def collapse(vectors: Vectors, batch: Batch) -> Vectors:
    return np.full_like(vectors, DIMENSIONS**-0.5)


def shrink(vectors: Vectors, batch: Batch) -> Vectors:
    return vectors * np.float32(0.99)


def break_one_number(vectors: Vectors, batch: Batch) -> Vectors:
    vectors[-1, 3] = np.nan
    return vectors


def lose_one(vectors: Vectors, batch: Batch) -> Vectors:
    return vectors[1:] if len(vectors) > 1 else vectors


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (mix_with_neighbours, r"alone and in a batch agree only to a cosine of 0\.\d{4}"),
        (reorder, "alone and in a batch"),
        (drift(), r"512 tokens, computed twice agree only to a cosine of 0\.9\d{3}"),
        (collapse, "same vector"),
        (shrink, r"off from 1 by 0\.01"),
        (break_one_number, "not finite"),
        (lose_one, r"gave \d vectors"),
    ],
)
async def test_a_fault_is_found(tokenizer: Tokenizer, fault: Fault, complaint: str) -> None:
    with pytest.raises(EngineError, match=complaint):
        await self_test(Encoder(fault), tokenizer)


async def test_an_engine_that_refuses_the_longest_input_fails(tokenizer: Tokenizer) -> None:
    def refuse(vectors: Vectors, batch: Batch) -> Vectors:
        if batch.lengths.max() == 512:
            raise EngineError("at most 511 tokens")
        return vectors

    with pytest.raises(EngineError, match="511"):
        await self_test(Encoder(refuse), tokenizer)
