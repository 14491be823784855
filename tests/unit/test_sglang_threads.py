"""How many threads a batch gets."""

import pytest

from launcher.engines.sglang.plugin.threads import threads_for

# Weights of one layer: 128 wide, MiniLM, bge-large.
SMALL, MIDDLE, LARGE = 196_608, 1_769_472, 12_582_912


@pytest.mark.parametrize(
    ("tokens", "weights", "threads"),
    [(18, SMALL, 1), (576, SMALL, 1), (4096, SMALL, 16), (18, MIDDLE, 1), (512, MIDDLE, 16), (1, LARGE, 16)],
)
def test_one_thread_computes_what_is_little(tokens: int, weights: int, threads: int) -> None:
    assert threads_for(tokens, weights, 16) == threads


def test_no_more_threads_than_there_are() -> None:
    assert threads_for(1, SMALL, 1) == threads_for(4096, LARGE, 1) == 1
