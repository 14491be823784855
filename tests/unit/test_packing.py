import numpy as np
import pytest

from launcher.engines.base import Batch
from launcher.engines.sglang.packing import pack, packed_limit, unpack_header

CLS = 101


def batch_of(*texts: list[int]) -> Batch:
    ids = [token for text in texts for token in text]
    return Batch(np.array(ids, np.int32), np.array([len(text) for text in texts], np.int32))


def as_sent(packed: list[int]) -> np.ndarray:
    return np.array(packed, np.int64)


def test_header_precedes_the_ids() -> None:
    assert pack(batch_of([CLS, 7, 102], [CLS, 102])) == [2, 3, 2, CLS, 7, 102, CLS, 102]


def test_packed_numbers_are_plain_integers() -> None:
    # json and pickle of NumPy scalars cost ten times as much, and orjson refuses them.
    assert {type(number) for number in pack(batch_of([CLS], [CLS, 102]))} == {int}


def test_lengths_come_back_even_where_a_text_contains_the_cls_id() -> None:
    texts = ([CLS, 5, CLS, 102], [9], [CLS, CLS])
    packed = as_sent(pack(batch_of(*texts)))
    lengths = unpack_header(packed)
    assert lengths.tolist() == [4, 1, 2]
    assert packed[-lengths.sum() :].tolist() == [token for text in texts for token in text]


def test_packed_limit_is_reached_by_texts_of_one_token() -> None:
    assert len(pack(batch_of(*([CLS] for _ in range(64))))) == packed_limit(64)
    assert len(pack(batch_of([CLS] * 64))) < packed_limit(64)


@pytest.mark.parametrize(
    ("ids", "lengths"), [([], []), ([1, 2], [2, 0]), ([1, 2], [1]), ([1, 2], [2, 1])], ids=["empty", "zero", "short", "long"]
)
def test_pack_refuses_lengths_that_do_not_fit_the_ids(ids: list[int], lengths: list[int]) -> None:
    with pytest.raises(ValueError):
        pack(Batch(np.array(ids, np.int32), np.array(lengths, np.int32)))


@pytest.mark.parametrize(
    "packed",
    [[], [0], [-1, 5], [-2, 4, 9], [1], [3, 1, 1], [1, 2, 9], [2, 1, 1, 9], [2, 3, -1, 9, 9], [1, 1, 9, 9], [10, 11, 12]],
)
def test_a_malformed_header_is_refused(packed: list[int]) -> None:
    with pytest.raises(ValueError):
        unpack_header(as_sent(packed))
