from dataclasses import replace

import numpy as np
import pytest

from launcher.engines.base import Batch
from launcher.engines.messages import (
    NOTHING,
    NUMBER_BYTES,
    ReceivedTrace,
    batch_frames,
    error_frames,
    read_batch,
    read_computed,
    read_error,
    read_vectors,
    vector_frames,
)
from launcher.errors import EngineError, NotReady, WorkerLost

CLS = 101
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NUMBER = (7).to_bytes(NUMBER_BYTES, "little")


def batch_of(*texts: list[int]) -> Batch:
    ids = [token for text in texts for token in text]
    return Batch(np.array(ids, np.int32), np.array([len(text) for text in texts], np.int32))


def test_a_batch_comes_back_even_where_a_text_contains_the_cls_id() -> None:
    batch = batch_of([CLS, 5, CLS, 102], [9], [CLS, CLS])
    number, *frames = batch_frames(7, batch)
    assert number == NUMBER
    back = read_batch(frames)
    assert back.lengths.tolist() == [4, 1, 2]
    assert back.ids.tolist() == batch.ids.tolist()


def test_the_question_whether_a_worker_is_there_is_a_batch_without_texts() -> None:
    _, *frames = batch_frames(1, NOTHING)
    assert len(read_batch(frames).lengths) == 0


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "two frames"),
        ([b""], "two frames"),
        ([b"\0\0\0\1", b"\0" * 3], "two frames"),
        ([b"\0" * 4, b"\0" * 4], "a traceparent"),
        (batch_frames(1, Batch(np.array([1, 2], np.int32), np.array([2, 0], np.int32)))[1:], "at least one token"),
        (batch_frames(1, Batch(np.array([1, 2], np.int32), np.array([3, -1], np.int32)))[1:], "at least one token"),
        (batch_frames(1, Batch(np.array([1, 2], np.int32), np.array([1], np.int32)))[1:], "add up to 1 tokens, but 2"),
        (batch_frames(1, Batch(np.array([1, 2], np.int32), np.array([2, 1], np.int32)))[1:], "add up to 3 tokens, but 2"),
    ],
)
def test_what_is_no_batch_is_refused(frames: list[bytes], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_batch(frames)


def test_a_trace_goes_with_its_batch_and_what_was_told_of_it_comes_back() -> None:
    batch = replace(batch_of([CLS, 5]), trace=ReceivedTrace(PARENT))
    _, *frames = batch_frames(7, batch)
    there = read_batch(frames)
    assert there.trace and there.trace.parent == PARENT
    there.trace.computed("worker 1", 2**62, 2**62 + 5)
    *_, computed = vector_frames(NUMBER, np.ones((1, 2), np.float32), there)
    assert read_computed(bytes(computed)) == ("worker 1", 2**62, 2**62 + 5)


def test_a_batch_without_a_trace_has_none_there() -> None:
    _, *frames = batch_frames(7, batch_of([CLS, 5]))
    assert read_batch(frames).trace is None


@pytest.mark.parametrize("frame", [b"\0" * 15, b"\0" * 16 + b"\xff"])
def test_what_does_not_say_when_it_was_computed_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError):
        read_computed(frame)


def test_vectors_come_back() -> None:
    vectors = np.array([[0.5, -1.0], [2.0, 3.0]], np.float32)
    number, verdict, rows, computed = vector_frames(NUMBER, vectors)
    assert (number, verdict, computed) == (NUMBER, b"", b"")
    assert read_vectors(bytes(rows), 2).tolist() == vectors.tolist()


def test_a_refusal_carries_its_kind_and_reason() -> None:
    for sent, told in ((ValueError, EngineError), (NotReady, NotReady), (WorkerLost, WorkerLost)):
        number, verdict, reason, computed = error_frames(NUMBER, sent("zu groß"))
        assert (number, computed) == (NUMBER, b"")
        assert verdict
        error = read_error(verdict, reason)
        assert (type(error), str(error)) == (told, "zu groß")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "0 bytes are not 2 vectors"),
        (b"\0" * 4, "4 bytes are not 2 vectors"),
        (b"\0" * 9, "9 bytes are not 2 vectors"),
        (np.array([np.nan, 1], "<f4").tobytes(), "not finite"),
    ],
)
def test_what_are_no_vectors_is_refused(frame: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_vectors(frame, 2)
