"""int8 weights give nearly the vectors of the full ones; tests/engines/test_openvino_large.py holds what memory they take."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from launcher.config.schema import Model, WeightFormat
from launcher.embedding.selftest import self_test
from launcher.embedding.tokens import Tokenizer
from launcher.engines.base import Batch, Vectors
from launcher.engines.openvino.engine import OpenVinoEngine
from launcher.models.checkpoint import read_checkpoint
from tests.engines.test_openvino_parity import DTYPES
from tests.support import texts
from tests.support.reference import Reference, cosine

# Measured on MiniLM's weights: 0.9989 at the least.
MIN_COSINE = 0.998


def encode(folder: Path, dtype: str, weights: WeightFormat) -> Vectors:
    checkpoint = read_checkpoint(folder, Model())
    tokenizer = Tokenizer(folder, checkpoint.max_tokens, checkpoint.shape.vocab_size)
    ids = [item.ids for item in tokenizer.encode(texts.SENTENCES, "end")]

    async def run() -> Vectors:
        engine = OpenVinoEngine(checkpoint, dtype=dtype, weights=weights, threads=0, max_batch_tokens=4096)
        await engine.start()
        try:
            await self_test(engine.run, tokenizer)
            return await engine.run(Batch(np.concatenate(ids), np.array([len(i) for i in ids], np.int32)))
        finally:
            await engine.stop()

    return asyncio.run(run())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", ["tiny_checkpoint", "minilm_folder"])
def test_vectors_are_near_those_of_the_full_weights(request: pytest.FixtureRequest, model: str, dtype: str) -> None:
    folder: Path = request.getfixturevalue(model)
    vectors = encode(folder, dtype, "int8")
    assert cosine(vectors, Reference(folder).vectors(texts.SENTENCES)).min() >= MIN_COSINE
    assert np.abs(vectors - encode(folder, dtype, "dtype")).max() > 1e-4, "nothing was rounded"
