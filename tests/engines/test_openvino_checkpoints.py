"""Checkpoints as they come: other activations, names and storage types are read right, unusable ones are refused by name."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from launcher.config.schema import Model
from launcher.embedding.tokens import Tokenizer
from launcher.engines.base import Batch, Vectors
from launcher.engines.openvino.engine import OpenVinoEngine
from launcher.errors import ModelError
from launcher.models.checkpoint import ACTIVATIONS, read_checkpoint
from tests.support import texts
from tests.support.checkpoints import TINY, Shape, write_checkpoint
from tests.support.evil import add_code
from tests.support.reference import Reference

# Between numbers of unit vectors. The two kinds of gelu, erf and tanh, are 6e-5 apart.
TOLERANCE = 5e-6
Tensors = dict[str, np.ndarray]


def encode(folder: Path) -> Vectors:
    checkpoint = read_checkpoint(folder, Model())
    tokenizer = Tokenizer(folder, checkpoint.max_tokens, checkpoint.shape.vocab_size)
    ids = [item.ids for item in tokenizer.encode(texts.SENTENCES, "end")]

    async def run() -> Vectors:
        engine = OpenVinoEngine(checkpoint, dtype="float32", threads=0, max_batch_tokens=4096)
        try:
            await engine.start()
            return await engine.run(Batch(np.concatenate(ids), np.array([len(i) for i in ids], np.int32)))
        finally:
            await engine.stop()

    return asyncio.run(run())


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    weights = folder / "model.safetensors"
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations(tmp_path: Path, activation: str) -> None:
    folder = write_checkpoint(tmp_path / "model", replace(TINY, hidden_act=activation))
    np.testing.assert_allclose(encode(folder), Reference(folder).vectors(texts.SENTENCES), atol=TOLERANCE)


@pytest.mark.parametrize(
    "shape",
    [
        # Large enough for the place of the epsilon to matter.
        replace(TINY, layer_norm_eps=0.1),
        replace(TINY, num_attention_heads=8),
        replace(TINY, hidden_size=96, num_attention_heads=3, intermediate_size=100),
        replace(TINY, type_vocab_size=1, max_position_embeddings=64, num_hidden_layers=1),
    ],
    ids=["wide epsilon", "many heads", "odd sizes", "one type, one layer"],
)
def test_shapes(tmp_path: Path, shape: Shape) -> None:
    folder = write_checkpoint(tmp_path / "model", shape)
    np.testing.assert_allclose(encode(folder), Reference(folder).vectors(texts.SENTENCES), atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_stored_in_half_the_size(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = write_checkpoint(tmp_path / "model")
    weights = folder / "model.safetensors"
    halves = {name: torch.from_numpy(tensor).to(dtype) for name, tensor in load_file(weights).items()}
    save_torch_file(halves, weights, metadata={"format": "pt"})
    np.testing.assert_allclose(encode(folder), Reference(folder).vectors(texts.SENTENCES), atol=TOLERANCE)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"bert.{name}",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        lambda name: f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ],
    ids=["inside a model with a head", "converted from TensorFlow", "both"],
)
def test_other_names_for_the_same_tensors(tmp_path: Path, rename: Callable[[str], str]) -> None:
    folder = write_checkpoint(tmp_path / "model")
    expected = encode(folder)
    rewrite(folder, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})
    np.testing.assert_array_equal(encode(folder), expected)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    missing = "encoder.layer.1.output.dense.bias"
    folder = rewrite(write_checkpoint(tmp_path / "model"), lambda tensors: {k: v for k, v in tensors.items() if k != missing})
    with pytest.raises(ModelError, match=rf"model\.safetensors: the tensor {missing} is missing"):
        encode(folder)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    name = "embeddings.position_embeddings.weight"
    folder = rewrite(write_checkpoint(tmp_path / "model"), lambda tensors: {**tensors, name: tensors[name][:256].copy()})
    with pytest.raises(ModelError, match=rf"model\.safetensors: {name} has the shape \[256, 128\].* \[512, 128\]"):
        encode(folder)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    name = "encoder.layer.0.intermediate.dense.weight"
    folder = rewrite(write_checkpoint(tmp_path / "model"), lambda tensors: {**tensors, name: tensors[name].astype(np.int8)})
    with pytest.raises(ModelError, match=rf"{name} is stored as I8"):
        encode(folder)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "plain", TINY)
    mark = tmp_path / "code-ran"
    # With a config.json that names code it would be refused; the tokenizer's file may name it.
    with_code = write_checkpoint(tmp_path / "with-code", TINY)
    config = (with_code / "config.json").read_text()
    (add_code(with_code, mark) / "config.json").write_text(config)
    assert np.abs(encode(with_code) - encode(plain)).max() < TOLERANCE
    assert not mark.exists()
    # As it would have been by whoever runs it.
    runpy.run_path(str(with_code / "custom.py"))
    assert mark.exists()
