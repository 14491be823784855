from __future__ import annotations

import numpy as np
import pytest

from launcher.engines.base import Batch
from launcher.engines.openvino.rows import MAX_RUN_TOKENS, NO_SEGMENT, arrange, fill, padded, round_up, run_cost

RUN_COST = 32
RNG = np.random.default_rng(0)
MIXES = {
    "one short": [16],
    "one full": [512],
    "equal": [64] * 8,
    "queries": RNG.integers(5, 40, 64).tolist(),
    "passages": RNG.integers(200, 513, 32).tolist(),
    "one long among short ones": [512, *RNG.integers(3, 30, 63).tolist()],
    "all sizes": RNG.integers(1, 513, 300).tolist(),
    "very many": RNG.geometric(1 / 20, 2048).clip(1, 512).tolist(),
}


@pytest.mark.parametrize("lengths", MIXES.values(), ids=MIXES)
def test_every_input_lies_in_one_place_alone(lengths: list[int]) -> None:
    seen: list[int] = []
    for run in arrange(lengths, RUN_COST):
        seen += run.inputs.tolist()
        assert run.lengths.tolist() == [lengths[i] for i in run.inputs]
        ends = run.starts + run.lengths
        assert (run.starts[1:] >= ends[:-1]).all(), "inputs overlap or are out of order"
        assert (run.starts // run.width == (ends - 1) // run.width).all(), "an input crosses into the next row"
        assert ends[-1] <= run.rows * run.width
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize("lengths", MIXES.values(), ids=MIXES)
def test_little_is_left_empty_and_runs_stay_small(lengths: list[int]) -> None:
    runs = arrange(lengths, RUN_COST)
    assert sum(lengths) >= 0.9 * sum(run.rows * run.width for run in runs)
    assert max(run.rows * run.width for run in runs) <= MAX_RUN_TOKENS


def test_an_input_longer_than_a_run_still_gets_one() -> None:
    (run,) = arrange([MAX_RUN_TOKENS + 100], RUN_COST)
    assert (run.rows, run.width) == (1, round_up(MAX_RUN_TOKENS + 100))


def test_a_lone_input_is_padded_by_a_few_tokens_at_most() -> None:
    widths = {length: arrange([length], RUN_COST)[0].width for length in range(1, 513)}
    assert all(length <= width <= length + 3 for length, width in widths.items() if length <= 144)
    assert len(set(widths.values())) < 60, "each width costs building kernels"


def test_the_graph_gets_each_input_whole_and_the_rest_marked_empty() -> None:
    batch = Batch(np.array([11, 12, 21, 31, 32, 33], np.int32), np.array([2, 1, 3], np.int32))
    (run,) = arrange([2, 1, 3], RUN_COST)
    ids, positions, segments = fill(run, batch, np.array([0, 2, 3]))
    assert ids.tolist() == [31, 32, 33, 11, 12, 21, 0, 0]
    assert positions.tolist() == [0, 1, 2, 0, 1, 0, 0, 0]
    assert segments.tolist() == [[0, 0, 0, 1, 1, 2, NO_SEGMENT, NO_SEGMENT]]
    assert {array.dtype for array in (ids, positions, segments)} == {np.dtype(np.int32)}


def test_a_rest_that_would_leave_its_row_empty_evens_the_rows_out() -> None:
    (run,) = arrange([10, 30] * 5, RUN_COST)
    assert (run.rows, run.width) == (2, 100)


@pytest.mark.parametrize(("length", "count", "rows", "width"), [(18, 32, 16, 36), (66, 8, 4, 132), (30, 16, 8, 60)])
def test_inputs_of_one_length_leave_nothing_empty(length: int, count: int, rows: int, width: int) -> None:
    (run,) = arrange([length] * count, RUN_COST)
    assert (run.rows, run.width) == (rows, width)
    assert run.rows * run.width == length * count


def test_a_rest_that_cannot_be_evened_out_gets_a_run_of_its_own() -> None:
    assert [(run.rows, run.width) for run in arrange([400, 40], RUN_COST)] == [(1, 400), (1, 40)]


def test_places_are_padded_to_few_lengths() -> None:
    sizes = {count: len(padded(np.arange(count))) for count in range(1, MAX_RUN_TOKENS + 1)}
    assert all(count <= size <= max(count + 3, 1.5 * count) for count, size in sizes.items())
    assert len(set(sizes.values())) < 40
    assert padded(np.array([7, 9, 2, 4, 5])).tolist() == [7, 9, 2, 4, 5, 0, 0, 0]


def test_a_small_model_rather_leaves_tokens_empty_than_runs_again() -> None:
    assert [run_cost(hidden_size) for hidden_size in (128, 384, 1024)] == [94, 10, 8]
    assert len(arrange([10, 30] * 8, run_cost(128))) == 1
    assert len(arrange([10, 30] * 8, run_cost(1024))) == 2
