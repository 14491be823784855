from __future__ import annotations

import numpy as np
import pytest

from launcher.engines.openvino.pooling import kept_tokens, mean_states, unit_rows

RNG = np.random.default_rng(0)
HIDDEN = RNG.standard_normal((12, 5)).astype(np.float32)
# Two inputs side by side, a gap, and one that ends with the rows.
STARTS, LENGTHS = np.array([0, 3, 8]), np.array([3, 2, 4])


@pytest.mark.parametrize(("pooling", "places"), [("cls", [0, 3, 8]), ("last", [2, 4, 11])])
def test_which_token_makes_the_vector(pooling: str, places: list[int]) -> None:
    kept = kept_tokens(pooling, STARTS, LENGTHS)
    assert kept is not None
    assert kept.tolist() == places


def test_all_tokens_make_a_mean() -> None:
    assert kept_tokens("mean", STARTS, LENGTHS) is None
    means = mean_states(HIDDEN, STARTS, LENGTHS)
    np.testing.assert_allclose(means, [HIDDEN[0:3].mean(0), HIDDEN[3:5].mean(0), HIDDEN[8:12].mean(0)], rtol=1e-6)
    assert means.dtype == np.float32


def test_mean_of_inputs_that_leave_the_end_empty() -> None:
    means = mean_states(HIDDEN, np.array([4]), np.array([5]))
    np.testing.assert_allclose(means, HIDDEN[4:9].mean(0, keepdims=True), rtol=1e-6)


def test_rows_get_unit_length_and_a_zero_row_stays_zero() -> None:
    rows = unit_rows(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert rows.dtype == np.float32
