from __future__ import annotations

import numpy as np
import pytest

from launcher.engines.openvino.pooling import pool

RNG = np.random.default_rng(0)
HIDDEN = RNG.standard_normal((12, 5)).astype(np.float32)
# Two inputs side by side, a gap, and one that ends with the rows.
STARTS, LENGTHS = np.array([0, 3, 8]), np.array([3, 2, 4])


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", HIDDEN[[0, 3, 8]]),
        ("last", HIDDEN[[2, 4, 11]]),
        ("mean", np.stack([HIDDEN[0:3].mean(0), HIDDEN[3:5].mean(0), HIDDEN[8:12].mean(0)])),
    ],
)
def test_each_pooling_by_its_definition(pooling: str, expected: np.ndarray) -> None:
    pooled = pool(pooling, HIDDEN, STARTS, LENGTHS)
    np.testing.assert_allclose(pooled, unit(expected), rtol=1e-6)
    assert pooled.dtype == np.float32


def test_mean_of_inputs_that_leave_the_end_empty() -> None:
    np.testing.assert_allclose(
        pool("mean", HIDDEN, np.array([4]), np.array([5])), unit(HIDDEN[4:9].mean(0, keepdims=True)), rtol=1e-6
    )


def test_a_zero_vector_stays_zero() -> None:
    assert pool("cls", np.zeros((1, 4), np.float32), np.array([0]), np.array([1])).tolist() == [[0, 0, 0, 0]]
