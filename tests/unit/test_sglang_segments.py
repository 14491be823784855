"""From a batch to what an encoder sees."""

import numpy as np
import pytest

from launcher.engines.base import Batch
from launcher.engines.sglang.plugin.segments import Segments, segments_of

VOCABULARY, MAX_TOKENS = 1000, 8


def split(*texts: list[int]) -> Segments:
    ids = np.array([token for text in texts for token in text], np.int32)
    batch = Batch(ids, np.array([len(text) for text in texts], np.int32))
    return segments_of(batch, vocab_size=VOCABULARY, max_tokens=MAX_TOKENS)


def texts_in_order(segments: Segments) -> list[list[int]]:
    return [segments.ids[segments.bounds[row] : segments.bounds[row + 1]].tolist() for row in segments.rows]


def test_texts_are_laid_shortest_first() -> None:
    segments = split([1, 2, 3], [4], [5, 6], [7])
    assert segments.lengths.tolist() == [1, 1, 2, 3]
    assert segments.ids.tolist() == [4, 7, 5, 6, 1, 2, 3]
    assert segments.positions.tolist() == [0, 0, 0, 1, 0, 1, 2]
    assert segments.bounds.tolist() == [0, 1, 2, 4, 7]


def test_texts_of_equal_length_stay_in_order() -> None:
    segments = split([1, 2, 3], [4, 5, 6])
    assert segments.lengths.tolist() == [3, 3]
    assert segments.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert segments.positions.tolist() == [0, 1, 2, 0, 1, 2]
    assert segments.bounds.tolist() == [0, 3, 6]
    assert segments.rows.tolist() == [0, 1]


def test_rows_lead_back_to_the_callers_order() -> None:
    texts = ([1, 2, 3], [4], [5, 6], [7, 8, 9])
    assert texts_in_order(split(*texts)) == list(texts)


@pytest.mark.parametrize("bad", [[1, VOCABULARY], [-1]], ids=["id-too-large", "id-negative"])
def test_an_id_outside_the_vocabulary_is_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="within the vocabulary of 1000"):
        split([1, 2], bad)


def test_a_text_beyond_the_models_limit_is_refused() -> None:
    assert texts_in_order(split([VOCABULARY - 1] * MAX_TOKENS)) == [[VOCABULARY - 1] * MAX_TOKENS]
    with pytest.raises(ValueError, match="9 tokens is longer than the 8"):
        split([1] * (MAX_TOKENS + 1))
