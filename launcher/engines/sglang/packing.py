"""Many texts in one SGLang request.

SGLang's cost is per request, not per text, so a whole batch travels as one flat ``input_ids`` list:

    [n, length_1, …, length_n, ids of text 1, …, ids of text n]

The lengths are explicit: a text may itself contain the id of [CLS], so boundaries cannot be found in the ids. The list is
``1 + n + sum(lengths)`` long, at most ``packed_limit(max_batch_tokens)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from launcher.engines.base import Batch


def packed_limit(max_batch_tokens: int) -> int:
    """The longest list that a batch of ``max_batch_tokens`` packs to: every text a single token."""
    return 1 + 2 * max_batch_tokens


def pack(batch: Batch) -> list[int]:
    """The flat list for ``batch``.

    Raises ``ValueError`` where the batch is empty, a length is below 1, or the lengths do not add up to the ids.
    """
    _check(batch.lengths, len(batch.ids))
    return [len(batch.lengths), *batch.lengths.tolist(), *batch.ids.tolist()]


def unpack_header(packed: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lengths [n] at the head of ``packed``; the ids of the texts are its last ``sum(lengths)`` entries.

    Raises ``ValueError`` where the header is cut short or disagrees with the length of the list.
    """
    texts = int(packed[0]) if len(packed) else 0
    if not 1 <= texts < len(packed):
        raise ValueError(f"a packed request of {len(packed)} numbers cannot hold {texts} texts")
    lengths = packed[1 : 1 + texts]
    _check(lengths, len(packed) - 1 - texts)
    return lengths


def _check(lengths: NDArray[np.int32] | NDArray[np.int64], tokens: int) -> None:
    if len(lengths) == 0:
        raise ValueError("a packed request holds at least one text")
    if lengths.min() < 1:
        raise ValueError("a packed text holds at least one token")
    total = int(lengths.sum(dtype=np.int64))
    if total != tokens:
        raise ValueError(f"the lengths add up to {total} tokens, but {tokens} are there")
