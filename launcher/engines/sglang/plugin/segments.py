"""From the packed requests of one SGLang batch to the texts that the encoder sees (NumPy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher.engines.sglang.packing import unpack_header

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segments:
    """Texts laid end to end, shortest first, so that texts of equal length are neighbours.

    ``ids``, ``positions``: [n_tokens]; a position counts from the start of its own text.
    ``lengths``: [n_texts], ascending; ``bounds``: [n_texts + 1], where text i is ``bounds[i]:bounds[i + 1]``.
    ``rows``: [n_texts], for each text in the order of the requests, its place here.
    ``texts_per_request``: 0 for a request that was refused.
    """

    ids: Ints
    positions: Ints
    lengths: Ints
    bounds: Ints
    rows: Ints
    texts_per_request: list[int]


def split_requests(packed: Ints, request_lengths: Sequence[int], *, vocab_size: int, max_tokens: int) -> Segments:
    """Read the headers of all requests in ``packed``, of which each takes its ``request_lengths``.

    A request with a malformed header, an id outside the vocabulary or a text over ``max_tokens`` gets no rows: an exception
    here would end the server for every other request, so the caller sees an empty answer instead.
    """
    lengths: list[Ints] = []
    ids: list[Ints] = []
    texts_per_request: list[int] = []
    ends = np.cumsum(request_lengths)
    for start, end in zip(ends - request_lengths, ends, strict=True):
        request = packed[start:end]
        header = _accepted_lengths(request, vocab_size, max_tokens)
        lengths.append(header)
        ids.append(request[len(request) - int(header.sum()) :])
        texts_per_request.append(len(header))
    return _shortest_first(_join(ids), _join(lengths), texts_per_request)


def _accepted_lengths(request: Ints, vocab_size: int, max_tokens: int) -> Ints:
    try:
        lengths = unpack_header(request)
    except ValueError:
        return np.empty(0, np.int64)
    ids = request[1 + len(lengths) :]
    sound = lengths.max() <= max_tokens and ids.min() >= 0 and ids.max() < vocab_size
    return lengths if sound else np.empty(0, np.int64)


def _shortest_first(ids: Ints, lengths: Ints, texts_per_request: list[int]) -> Segments:
    order = np.argsort(lengths, kind="stable")
    rows = np.empty_like(order)
    rows[order] = np.arange(len(order))
    starts = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    positions = np.arange(len(ids)) - np.repeat(bounds[:-1], lengths)
    return Segments(ids[np.repeat(starts, lengths) + positions], positions, lengths, bounds, rows, texts_per_request)


def _join(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
