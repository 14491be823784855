"""From packed requests to the texts an encoder sees."""

import numpy as np
import pytest

from launcher.engines.base import Batch
from launcher.engines.sglang.packing import pack
from launcher.engines.sglang.plugin.segments import Segments, split_requests

VOCABULARY, MAX_TOKENS = 1000, 8


def request_of(*texts: list[int]) -> list[int]:
    ids = [token for text in texts for token in text]
    return pack(Batch(np.array(ids, np.int32), np.array([len(text) for text in texts], np.int32)))


def split(*requests: list[int], trailing: int = 0) -> Segments:
    flat = [number for request in requests for number in request] + [0] * trailing
    lengths = [len(request) for request in requests]
    return split_requests(np.array(flat, np.int64), lengths, vocab_size=VOCABULARY, max_tokens=MAX_TOKENS)


def texts_in_order(segments: Segments) -> list[list[int]]:
    return [segments.ids[segments.bounds[row] : segments.bounds[row + 1]].tolist() for row in segments.rows]


def test_texts_of_several_requests_are_laid_shortest_first() -> None:
    segments = split(request_of([1, 2, 3], [4]), request_of([5, 6], [7]))
    assert segments.lengths.tolist() == [1, 1, 2, 3]
    assert segments.ids.tolist() == [4, 7, 5, 6, 1, 2, 3]
    assert segments.positions.tolist() == [0, 0, 0, 1, 0, 1, 2]
    assert segments.bounds.tolist() == [0, 1, 2, 4, 7]


def test_rows_lead_back_to_the_callers_order() -> None:
    texts = ([1, 2, 3], [4], [5, 6], [7, 8, 9])
    segments = split(request_of(*texts[:1]), request_of(*texts[1:]))
    assert segments.texts_per_request == [1, 3]
    assert texts_in_order(segments) == list(texts)


def test_numbers_after_the_last_request_are_not_read() -> None:
    # A batch may be padded to a round size.
    assert texts_in_order(split(request_of([1, 2]), trailing=5)) == [[1, 2]]


@pytest.mark.parametrize(
    "bad",
    [[10, 11, 12], [0], request_of([1, VOCABULARY]), request_of([-1]), request_of([1] * (MAX_TOKENS + 1))],
    ids=["not-packed", "no-texts", "id-too-large", "id-negative", "too-long"],
)
def test_a_bad_request_gets_no_rows_and_leaves_its_neighbours_alone(bad: list[int]) -> None:
    segments = split(request_of([1, 2]), bad, request_of([3], [4]))
    assert segments.texts_per_request == [1, 0, 2]
    assert texts_in_order(segments) == [[1, 2], [3], [4]]


def test_only_bad_requests_leave_nothing() -> None:
    segments = split([10, 11, 12])
    assert (segments.texts_per_request, len(segments.lengths), segments.bounds.tolist()) == ([0], 0, [0])


def test_a_text_of_the_longest_length_is_taken() -> None:
    assert texts_in_order(split(request_of([VOCABULARY - 1] * MAX_TOKENS))) == [[VOCABULARY - 1] * MAX_TOKENS]
