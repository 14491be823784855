"""A worker's batch socket by itself: real sockets, an encoder that counts."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("sglang", reason="needs the sglang extra")

import torch
import zmq

from launcher.engines.base import Batch, Vectors
from launcher.engines.messages import NOTHING, REFUSED, ReceivedTrace, batch_frames, read_computed, read_vectors
from launcher.engines.sglang.plugin import batches
from launcher.engines.sglang.plugin.batches import BatchSocket

pytestmark = pytest.mark.sglang

DEADLINE_MS = 10_000
BATCH = Batch(np.array([5, 6, 7], np.int32), np.array([2, 1], np.int32))
NAME = "worker 0"
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACED = replace(BATCH, trace=ReceivedTrace(PARENT))


def lengths_of(batch: Batch) -> Vectors:
    if batch.ids.max() == 404:
        raise ValueError("404 is not a word")
    if batch.ids.max() == 500:
        raise torch.OutOfMemoryError("no room")
    return batch.lengths[:, None].astype(np.float32)


class Worker:
    """The batch socket, a gateway that asks it, and SGLang's own way in."""

    def __init__(self, folder: str) -> None:
        self._context = zmq.Context()
        self.sglang = self._socket(zmq.PUSH)
        sglang_in = self._socket(zmq.PULL)
        sglang_in.bind("inproc://sglang")
        self.sglang.connect("inproc://sglang")
        self.batches = BatchSocket(f"ipc://{folder}/batches", NAME, lengths_of, [sglang_in])
        self.gateway = self._socket(zmq.DEALER)
        self.gateway.connect(f"ipc://{folder}/batches")

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.rcvtimeo = DEADLINE_MS
        return socket

    def close(self) -> None:
        self.batches.close()
        self._context.destroy(linger=0)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with tempfile.TemporaryDirectory() as folder:
        made = Worker(folder)
        yield made
        made.close()


def ask(worker: Worker, *questions: list[bytes]) -> list[list[bytes]]:
    """The answers, got while the socket has its turn."""
    turn = Thread(target=worker.batches.maybe_sleep)
    turn.start()
    for frames in questions:
        worker.gateway.send_multipart(frames)
    answers = [worker.gateway.recv_multipart() for _ in questions]
    worker.sglang.send(b"end of the turn")
    turn.join(DEADLINE_MS / 1e3)
    assert not turn.is_alive()
    return answers


def test_batches_are_answered_in_one_turn_until_sglang_has_a_message(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TURN_S", DEADLINE_MS / 1e3)
    (first, verdict, rows, computed), (second, *_) = ask(worker, batch_frames(1, BATCH), batch_frames(2, BATCH))
    assert (first[0], second[0], verdict, computed) == (1, 2, b"", b"")
    assert read_vectors(rows, 2).tolist() == [[2.0], [1.0]]


def test_the_question_whether_it_is_there_is_answered(worker: Worker) -> None:
    assert ask(worker, batch_frames(1, NOTHING))[0][1:] == [b"", b"", b""]


def test_of_a_traced_batch_it_is_said_when_it_was_computed(worker: Worker) -> None:
    before = time.perf_counter_ns()
    ((_, verdict, _, computed),) = ask(worker, batch_frames(1, TRACED))
    assert verdict == b""
    name, began, ended = read_computed(computed)
    assert name == NAME
    assert before < began < ended < time.perf_counter_ns()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (batch_frames(1, Batch(np.array([404], np.int32), np.array([1], np.int32)))[1:], b"404 is not a word"),
        (batch_frames(1, Batch(np.array([500], np.int32), np.array([1], np.int32)))[1:], b"no room"),
        ([b"x"], b"two frames"),
        ([], b"two frames"),
    ],
    ids=["refused", "out-of-memory", "one-frame", "no-frames"],
)
def test_a_bad_batch_is_refused_with_the_reason_and_the_next_is_answered(
    worker: Worker, content: list[bytes], reason: bytes
) -> None:
    refused, answered = ask(worker, [b"number!!", *content], batch_frames(2, BATCH))
    assert refused[1] == REFUSED
    assert reason in refused[2]
    assert answered[1] == b""


def test_another_error_ends_the_loop(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Batch) -> Vectors:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(worker.batches, "_encode", fail)
    worker.gateway.send_multipart(batch_frames(1, BATCH))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        worker.batches.maybe_sleep()


def test_an_error_that_ends_the_worker_names_the_trace(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Batch) -> Vectors:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(worker.batches, "_encode", fail)
    worker.gateway.send_multipart(batch_frames(1, TRACED))
    with pytest.raises(RuntimeError) as raised:
        worker.batches.maybe_sleep()
    assert PARENT.decode() in "".join(traceback.format_exception(raised.value))


def test_a_turn_ends_by_itself(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TURN_S", 0.01)
    worker.batches.maybe_sleep()
