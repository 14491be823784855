"""How the inputs of a batch are laid side by side into rows of equal width, with little left empty.

Inputs share a row and do not see each other there, so short ones fill what long ones leave.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

from launcher.engines.base import Batch

# Short inputs are laid together up to this width: wide enough to fill well, narrow enough for attention to stay cheap.
SHARED_WIDTH = 144
# Inputs of about one length fill rows of a few of them to within this part; others fill wide rows better.
MAX_EMPTY_PART = 0.05
# Bounds the memory of one run, which stays: 14 MB more than with 640 in the shape of bge-large, which takes 6 % less time so,
# and a 2-layer model 15 % less; twice as many tokens at once are another 3 to 5 % (docs/performance.md).
MAX_RUN_TOKENS = 1152
# Another run of another shape costs this much in each layer (740 us in 2 layers), and a token 24 * hidden_size² operations, of
# which so many are done in a second (both on 2 cores of an Intel Xeon in float32, 2026-11-21).
RUN_S_PER_LAYER = 370e-6
OPERATIONS_PER_S = 1e11
MIN_RUN_COST, MAX_RUN_COST = 8, 128
NO_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class Run:
    """One pass through the graph.

    ``inputs`` are indices into the batch; ``starts`` and ``lengths`` say where each lies in the flattened rows, ascending.
    """

    rows: int
    width: int
    inputs: NDArray[np.intp]
    starts: NDArray[np.intp]
    lengths: NDArray[np.intp]


def run_cost(hidden_size: int) -> int:
    """As many tokens as cost what another run costs: many in a small model, few in a large one."""
    tokens = RUN_S_PER_LAYER * OPERATIONS_PER_S / (24 * hidden_size**2)
    return min(max(round(tokens), MIN_RUN_COST), MAX_RUN_COST)


def arrange(lengths: Sequence[int], run_cost: int) -> list[Run]:
    """Lay inputs of these lengths into runs; each input is in exactly one.

    What would leave more than ``run_cost`` tokens empty goes into a run of its own.
    """
    if len(lengths) == 1:
        return [_lay_out([[0]], round_up(lengths[0]), lengths)]
    remaining = _Remaining(lengths)
    runs = []
    row = remaining.take(_room(lengths))
    while row:
        run, row = _next_run(row, remaining, lengths, run_cost)
        runs.append(run)
    return runs


def _room(lengths: Sequence[int]) -> int:
    """How many tokens the first row may take: few inputs' worth where that leaves nearly nothing empty."""
    longest = max(lengths)

    def size(per_row: int) -> int:
        return -(-len(lengths) // per_row) * round_up(per_row * longest)

    per_row = min(range(1, max(SHARED_WIDTH // longest, 1) + 1), key=size)
    if size(per_row) <= (1 + MAX_EMPTY_PART) * sum(lengths):
        return per_row * longest
    return max(SHARED_WIDTH, longest)


def _next_run(row: list[int], remaining: _Remaining, lengths: Sequence[int], run_cost: int) -> tuple[Run, list[int]]:
    """The run that ``row`` begins, and the row that begins the next one: empty at the end."""
    width = round_up(sum(lengths[i] for i in row))
    rows = [row]
    while (row := remaining.take(width)) and (len(rows) + 1) * width <= MAX_RUN_TOKENS:
        if not remaining and (evened := _even_out([*rows, row], lengths, run_cost)):
            return evened, []
        if width - sum(lengths[i] for i in row) > run_cost:
            break
        rows.append(row)
    return _lay_out(rows, width, lengths), row


def _even_out(rows: Sequence[Sequence[int]], lengths: Sequence[int], run_cost: int) -> Run | None:
    """The same inputs in as many rows, narrower since all are about equally full; None where too much would stay empty."""
    inputs = sorted((i for row in rows for i in row), key=lengths.__getitem__, reverse=True)
    evened: list[list[int]] = [[] for _ in rows]
    emptiest = [(0, number) for number in range(len(rows))]
    for i in inputs:
        used, number = emptiest[0]
        evened[number].append(i)
        heapreplace(emptiest, (used + lengths[i], number))
    width = round_up(max(used for used, _ in emptiest))
    size = len(rows) * width
    if size > MAX_RUN_TOKENS or size - sum(used for used, _ in emptiest) > run_cost:
        return None
    return _lay_out(evened, width, lengths)


def round_up(tokens: int) -> int:
    """Widths come in steps, because each new one costs building kernels; small ones in small steps, where it shows."""
    step = 4 if tokens <= SHARED_WIDTH else 16
    return -(-tokens // step) * step


class _Remaining:
    """Inputs not laid out yet, shortest first."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._inputs = sorted(range(len(lengths)), key=lengths.__getitem__)
        self._lengths = [lengths[i] for i in self._inputs]

    def take(self, width: int) -> list[int]:
        """Fill one row, each time with the longest that still fits."""
        row: list[int] = []
        while fitting := bisect_right(self._lengths, width):
            width -= self._lengths.pop(fitting - 1)
            row.append(self._inputs.pop(fitting - 1))
        return row

    def __bool__(self) -> bool:
        return bool(self._inputs)


def _lay_out(rows: list[list[int]], width: int, lengths: Sequence[int]) -> Run:
    inputs, starts = [], []
    for number, row in enumerate(rows):
        start = number * width
        for i in row:
            inputs.append(i)
            starts.append(start)
            start += lengths[i]
    taken = np.array(inputs)
    return Run(len(rows), width, taken, np.array(starts), np.array([lengths[i] for i in inputs]))


def fill(run: Run, batch: Batch, offsets: NDArray[np.intp]) -> list[NDArray[np.int32]]:
    """The graph's ``ids``, ``positions`` and ``segments``. ``offsets``: where each input starts in ``batch.ids``."""
    size = run.rows * run.width
    ids = np.zeros(size, np.int32)
    positions = np.zeros(size, np.int32)
    segments = np.full(size, NO_SEGMENT, np.int32)
    if len(batch.lengths) == 1:
        # A query by itself: the rest of this takes 10 us, and more when the processor comes from other work.
        length = len(batch.ids)
        ids[:length] = batch.ids
        positions[:length] = np.arange(length)
        segments[:length] = 0
        return [ids, positions, segments.reshape(run.rows, run.width)]
    before = np.cumsum(run.lengths) - run.lengths
    within = np.arange(run.lengths.sum()) - np.repeat(before, run.lengths)
    target = np.repeat(run.starts, run.lengths) + within
    ids[target] = batch.ids[np.repeat(offsets[run.inputs], run.lengths) + within]
    positions[target] = within
    segments[target] = np.repeat(np.arange(len(run.inputs)), run.lengths)
    return [ids, positions, segments.reshape(run.rows, run.width)]


def padded(places: NDArray[np.intp]) -> NDArray[np.int32]:
    """Followed by zeros up to one of few lengths: each new one costs building kernels."""
    count = len(places)
    step = 1 if count <= 4 else 4 if count <= 32 else 16 if count <= 128 else 64
    longer = np.zeros(-(-count // step) * step, np.int32)
    longer[:count] = places
    return longer
