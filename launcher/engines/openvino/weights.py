"""The tensors of a checkpoint, mapped from its safetensors file: reading one copies nothing.

The format is an 8-byte length, a JSON header and the tensors' bytes (https://github.com/huggingface/safetensors#format).
The ``safetensors`` package would copy each tensor into memory of its own, and has no bfloat16 for numpy.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as op

from launcher.errors import ModelError

FLOAT_TYPES = {"F32": ov.Type.f32, "F16": ov.Type.f16, "BF16": ov.Type.bf16}
# BertForMaskedLM and its kin keep the encoder under this name.
WRAPPER_PREFIX = "bert."
# What LayerNorm's parameters were called in checkpoints converted from TensorFlow.
OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class MappedWeights:
    """The file stays mapped for as long as a graph built from it lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
        self._bytes = np.frombuffer(self._map, np.uint8)
        try:
            (header_length,) = struct.unpack_from("<Q", self._map)
            self._tensors_start = 8 + header_length
            self._header: dict[str, dict[str, Any]] = json.loads(self._map[8 : self._tensors_start])
        except (struct.error, ValueError, OverflowError) as error:
            raise ModelError(f"{path}: is not a safetensors file") from error

    def float32(self, name: str, *shape: int) -> ov.Node:
        """A tensor of the encoder as a float32 node, whatever precision it is stored in.

        ``name`` is as ``transformers`` writes it for ``BertModel``. Raises ``ModelError`` naming the tensor and the file
        where it is missing or has another shape.
        """
        stored = next((alias for alias in _aliases(name) if alias in self._header), None)
        if stored is None:
            raise ModelError(f"{self._path}: the tensor {name} is missing")
        entry = self._header[stored]
        if tuple(entry["shape"]) != shape:
            raise ModelError(f"{self._path}: {stored} has the shape {entry['shape']}, but config.json asks for {list(shape)}")
        element_type = FLOAT_TYPES.get(entry["dtype"])
        if element_type is None:
            raise ModelError(f"{self._path}: {stored} is stored as {entry['dtype']}; only {', '.join(FLOAT_TYPES)} can be read")
        start, stop = (self._tensors_start + offset for offset in entry["data_offsets"])
        tensor = ov.Tensor(self._bytes[start:stop], ov.Shape(shape), element_type)
        constant = ov.op.Constant(tensor, shared_memory=True)
        return constant if element_type == ov.Type.f32 else op.convert(constant, ov.Type.f32)

    def forget_pages(self) -> None:
        """Take what has been read out of the process's memory; it comes back by itself when it is touched again."""
        self._map.madvise(mmap.MADV_DONTNEED)


def _aliases(name: str) -> Iterator[str]:
    old = name
    for new_part, old_part in OLD_NAMES.items():
        old = old.replace(new_part, old_part)
    for spelling in (name, old):
        yield spelling
        yield WRAPPER_PREFIX + spelling
