"""From token vectors to one unit vector per input, in float32 whatever the encoder ran in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from launcher.config.schema import Pooling
from launcher.engines.base import Vectors


def kept_tokens(pooling: Pooling, starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """Where the one token of each input stands that makes its vector, [n_inputs]; None where all of its tokens do."""
    if pooling == "mean":
        return None
    return starts if pooling == "cls" else starts + lengths - 1


def unit_rows(vectors: Vectors) -> Vectors:
    # The floor is torch.nn.functional.normalize's.
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def mean_states(hidden: Vectors, starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> Vectors:
    """The mean over each input, [n_inputs, size].

    ``hidden`` is [n_tokens, size]; inputs start at ``starts``, ascending, and nothing of one lies in another.
    """
    # reduceat sums from each bound to the next, and what lies between an end and the next start is dropped again.
    bounds = np.stack([starts, starts + lengths], axis=1).ravel()
    if bounds[-1] == len(hidden):
        bounds = bounds[:-1]
    sums: Vectors = np.add.reduceat(hidden, bounds, axis=0)[::2]
    means: Vectors = np.divide(sums, lengths[:, None], dtype=np.float32)
    return means


def widened(states: NDArray[np.generic]) -> Vectors:
    """Of bfloat16, which is the upper half of a float32 and no type of numpy's."""
    return (states.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
