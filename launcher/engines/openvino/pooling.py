"""From token vectors to one unit vector per input, in float32 whatever the encoder ran in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from launcher.config.schema import Pooling
from launcher.engines.base import Vectors


def pool(pooling: Pooling, hidden: Vectors, starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> Vectors:
    """Rows of unit length, float32 [n_inputs, size].

    ``hidden`` is [n_tokens, size]; inputs start at ``starts``, ascending, and nothing of one lies in another.
    """
    if pooling == "cls":
        pooled = hidden[starts]
    elif pooling == "last":
        pooled = hidden[starts + lengths - 1]
    else:
        pooled = _mean(hidden, starts, lengths)
    # The floor is torch.nn.functional.normalize's.
    unit: Vectors = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    return unit


def _mean(hidden: Vectors, starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> Vectors:
    # reduceat sums from each bound to the next, and what lies between an end and the next start is dropped again.
    bounds = np.stack([starts, starts + lengths], axis=1).ravel()
    if bounds[-1] == len(hidden):
        bounds = bounds[:-1]
    sums: Vectors = np.add.reduceat(hidden, bounds, axis=0)[::2]
    means: Vectors = np.divide(sums, lengths[:, None], dtype=np.float32)
    return means
