from __future__ import annotations

import numpy as np

from launcher.engines.openvino.int8 import quantize

RNG = np.random.default_rng(0)


def test_no_number_is_off_by_more_than_half_a_step() -> None:
    matrix = RNG.standard_normal((6, 40)).astype(np.float32) * np.logspace(-3, 3, 6, dtype=np.float32)[:, None]
    quantized, scales = quantize(matrix)
    assert (quantized.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (6, 1))
    assert (np.abs(quantized).max(axis=1) == 127).all(), "a row does not use all 8 bits"
    assert (np.abs(quantized * scales - matrix) <= 0.501 * scales).all()


def test_a_row_of_zeros_stays_zero() -> None:
    quantized, scales = quantize(np.zeros((2, 3), np.float32))
    assert not (quantized * scales).any()
