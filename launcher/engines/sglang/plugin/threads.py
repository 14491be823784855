"""How many threads compute a batch on a CPU."""

# Products of a layer. Below, waking the threads for each of its steps takes longer than they save: with 2 cores both took
# the same at 226 million, and one a third of the time of two at 4 million (2 layers, 128 wide, float32, on 2026-11-22).
ENOUGH_PRODUCTS = 200_000_000
# A weight has to come from memory first, which takes as long as to multiply so many tokens by it (an estimate).
LEAST_TOKENS = 64


def threads_for(tokens: int, weights: int, available: int) -> int:
    """One or all ``available``; other numbers have OpenMP end threads and start them again. ``weights`` are a layer's."""
    return available if max(tokens, LEAST_TOKENS) * weights >= ENOUGH_PRODUCTS else 1
