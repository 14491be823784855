"""A batch as the encoder sees it (NumPy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher.engines.base import Batch

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segments:
    """Texts laid end to end, shortest first, so that texts of equal length are neighbours.

    ``ids``, ``positions``: [n_tokens]; a position counts from the start of its own text.
    ``lengths``: [n_texts], ascending; ``bounds``: [n_texts + 1], where text i is ``bounds[i]:bounds[i + 1]``.
    ``rows``: [n_texts], for each text in the order of the batch, its place here.
    """

    ids: Ints
    positions: Ints
    lengths: Ints
    bounds: Ints
    rows: Ints


def segments_of(batch: Batch, *, vocab_size: int, max_tokens: int) -> Segments:
    """Raises ``ValueError`` for an id outside the vocabulary, on which a kernel would end the worker, and a text too long."""
    if batch.lengths.max() > max_tokens:
        raise ValueError(f"a text of {batch.lengths.max()} tokens is longer than the {max_tokens} that the model takes")
    if batch.ids.min() < 0 or batch.ids.max() >= vocab_size:
        raise ValueError(f"ids from {batch.ids.min()} to {batch.ids.max()} are not within the vocabulary of {vocab_size}")
    return _shortest_first(batch.ids.astype(np.int64), batch.lengths.astype(np.int64))


def _shortest_first(ids: Ints, lengths: Ints) -> Segments:
    count, length = len(lengths), lengths[0]
    if (lengths == length).all():
        # As they stand; a single text always does.
        return Segments(ids, np.tile(np.arange(length), count), lengths, np.arange(count + 1) * length, np.arange(count))
    order = np.argsort(lengths, kind="stable")
    rows = np.empty_like(order)
    rows[order] = np.arange(len(order))
    starts = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    positions = np.arange(len(ids)) - np.repeat(bounds[:-1], lengths)
    return Segments(ids[np.repeat(starts, lengths) + positions], positions, lengths, bounds, rows)
