"""The matrices of linear layers rounded to 8 bits: a quarter of float32's memory for vectors that are a little off.

Symmetric, with one scale per output: w ≈ scale * q, q from -127 to 127. OpenVINO keeps q in memory and multiplies on the fly,
if it finds the constant, its conversion and its scale right before the matrix product.
"""

from __future__ import annotations

import mmap
import tempfile

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15 as op

from launcher.engines.openvino.weights import MappedWeights
from launcher.errors import ModelError

LARGEST = 127
# Of a matrix row without any number: the scale must not be 0.
SMALLEST_SCALE = 1e-12


class Int8Weights:
    """``MappedWeights`` with int8 matrices, which lie in a file too, so that they can be forgotten like the rest."""

    def __init__(self, weights: MappedWeights) -> None:
        self._weights = weights
        self._maps: list[mmap.mmap] = []

    def float32(self, name: str, *shape: int) -> ov.Node:
        return self._weights.float32(name, *shape)

    def table(self, name: str, rows: int, width: int) -> ov.Node:
        return self._weights.table(name, rows, width)

    def matrix(self, name: str, outputs: int, inputs: int) -> ov.Node:
        quantized, scales = quantize(self._weights.array(name, outputs, inputs))
        try:
            stored = self._store(quantized)
        except OSError as error:
            raise ModelError(f"int8 weights cannot be written to {tempfile.gettempdir()}: {error}") from error
        constant = ov.op.Constant(ov.Tensor(stored, quantized.shape, ov.Type.i8), shared_memory=True)
        return op.multiply(op.convert(constant, "f32"), op.constant(scales))

    def forget_pages(self) -> None:
        self._weights.forget_pages()
        for stored in self._maps:
            stored.madvise(mmap.MADV_DONTNEED)

    def _store(self, matrix: NDArray[np.int8]) -> NDArray[np.int8]:
        with tempfile.TemporaryFile() as file:
            file.write(matrix.data)
            file.flush()
            self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return np.frombuffer(self._maps[-1], np.int8)


def quantize(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Of [outputs, inputs]: int8 of the same shape, and float32 scales [outputs, 1]."""
    scales = np.maximum(np.abs(matrix).max(axis=1, keepdims=True) / LARGEST, np.float32(SMALLEST_SCALE))
    return np.rint(matrix / scales).astype(np.int8), scales
