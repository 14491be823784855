"""The OpenVINO engine gives the vectors that sentence-transformers gives in float32."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from launcher.config.schema import Model
from launcher.embedding.selftest import self_test
from launcher.embedding.tokens import Tokenizer
from launcher.engines.base import Batch, Vectors
from launcher.engines.openvino.engine import OpenVinoEngine
from launcher.models.checkpoint import Checkpoint, read_checkpoint
from tests.support import texts
from tests.support.reference import Reference, cosine

MIN_COSINE = {"float32": 0.9999, "bfloat16": 0.999}
DTYPES = [
    "float32",
    pytest.param(
        "bfloat16",
        marks=pytest.mark.skipif(
            "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="this CPU has no bfloat16"
        ),
    ),
]


@dataclass(frozen=True)
class Case:
    """A checkpoint and its reference; what the reference computes is computed once for all precisions."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    reference: Reference
    batch_size: int

    @cached_property
    def corpus(self) -> list[str]:
        return texts.corpus(self.checkpoint.max_tokens)

    @cached_property
    def corpus_vectors(self) -> Vectors:
        return self.reference.vectors(self.corpus)

    @cached_property
    def mixed(self) -> list[str]:
        return texts.mixed_batch(self.batch_size, self.checkpoint.max_tokens)

    @cached_property
    def mixed_vectors(self) -> Vectors:
        return self.reference.vectors(self.mixed)


@pytest.fixture(scope="module", params=["tiny_checkpoint", "tiny_mean_checkpoint", "minilm_folder"])
def case(request: pytest.FixtureRequest) -> Case:
    folder: Path = request.getfixturevalue(request.param)
    checkpoint = read_checkpoint(folder, Model())
    tokenizer = Tokenizer(folder, checkpoint.max_tokens, checkpoint.shape.vocab_size)
    # MiniLM's six layers would take half a minute for 2048.
    return Case(checkpoint, tokenizer, Reference(folder), batch_size=256 if request.param == "minilm_folder" else 2048)


@dataclass(frozen=True)
class Running:
    engine: OpenVinoEngine
    tokenizer: Tokenizer
    min_cosine: float

    def encode(self, inputs: Sequence[str]) -> Vectors:
        """All of them as one batch."""
        return asyncio.run(self.engine.run(batch_of([item.ids for item in self.tokenizer.encode(inputs, "end")])))

    def assert_equal(self, inputs: Sequence[str], vectors: Vectors, expected: Vectors) -> None:
        assert vectors.dtype == np.float32
        assert vectors.shape == expected.shape
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
        cosines = cosine(vectors, expected)
        worst = int(cosines.argmin())
        assert cosines[worst] >= self.min_cosine, f"{cosines[worst]} for {inputs[worst][:40]!r}"


def batch_of(ids: Sequence[NDArray[np.int32]]) -> Batch:
    return Batch(np.concatenate(ids), np.array([len(i) for i in ids], np.int32))


@pytest.fixture(scope="module", params=DTYPES)
def running(request: pytest.FixtureRequest, case: Case) -> Iterator[Running]:
    engine = OpenVinoEngine(case.checkpoint, dtype=request.param, threads=0, max_batch_tokens=4096)
    asyncio.run(engine.start())
    yield Running(engine, case.tokenizer, MIN_COSINE[request.param])
    asyncio.run(engine.stop())


def test_the_checkpoint_can_tell_texts_apart(case: Case) -> None:
    """Else parity would prove nothing: any vector would equal any other."""
    vectors = case.reference.vectors(texts.SENTENCES)
    assert (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)].max() < 0.95


def test_tokens_are_those_of_the_reference(case: Case) -> None:
    inputs = case.tokenizer.encode(case.corpus, "end")
    expected = case.reference.token_ids(case.corpus)
    assert [item.ids.tolist() for item in inputs] == expected
    assert max(map(len, expected)) == case.checkpoint.max_tokens == case.reference.max_tokens


def test_each_text_alone(case: Case, running: Running) -> None:
    vectors = np.concatenate([running.encode([text]) for text in case.corpus])
    running.assert_equal(case.corpus, vectors, case.corpus_vectors)


def test_all_texts_together(case: Case, running: Running) -> None:
    running.assert_equal(case.corpus, running.encode(case.corpus), case.corpus_vectors)


def test_a_large_mixed_batch_twice(case: Case, running: Running) -> None:
    for _ in range(2):
        running.assert_equal(case.mixed, running.encode(case.mixed), case.mixed_vectors)


def test_shared_prefixes(case: Case, running: Running) -> None:
    """The order matters to engines that keep what texts have in common."""
    inputs = [*texts.sharing_a_prefix(), *reversed(texts.sharing_a_prefix())]
    running.assert_equal(inputs, running.encode(inputs), case.reference.vectors(inputs))


def test_batches_at_the_same_time(case: Case, running: Running) -> None:
    inputs = list(texts.SENTENCES)
    batches = [batch_of([item.ids]) for item in running.tokenizer.encode(inputs, "end")]

    async def all_at_once() -> Vectors:
        return np.concatenate(await asyncio.gather(*(running.engine.run(batch) for batch in batches)))

    running.assert_equal(inputs, asyncio.run(all_at_once()), case.reference.vectors(inputs))


def test_the_self_test_passes(running: Running) -> None:
    asyncio.run(self_test(running.engine.run, running.tokenizer))
