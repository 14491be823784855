"""The client and the engine, against a small worker over real ZeroMQ sockets."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from launcher.engines.base import Batch, Vectors
from launcher.engines.client import WorkerClient
from launcher.engines.messages import error_frames, vector_frames
from launcher.engines.sglang.engine import SglangEngine
from launcher.errors import EngineError, NotReady, WorkerLost
from tests.support.worker import Answer, Frames, StandInWorker, echo_lengths

BATCH = Batch(np.array([101, 7, 102, 101, 102], np.int32), np.array([3, 2], np.int32))
DEADLINE_S = 10


class Workers:
    """Starts workers and closes them and their clients at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[StandInWorker | WorkerClient] = []

    def start(self, answer: Answer = echo_lengths) -> WorkerClient:
        return self.start_both(answer)[0]

    def start_both(self, answer: Answer = echo_lengths) -> tuple[WorkerClient, StandInWorker]:
        worker = StandInWorker(self._folder, answer)
        client = WorkerClient(worker.address)
        self._made += [worker, client]
        return client, worker

    async def end(self) -> None:
        for made in self._made:
            await made.close()


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    # The address of an ipc socket has 107 bytes at most, and pytest's own folders are long.
    with tempfile.TemporaryDirectory() as folder:
        made = Workers(Path(folder))
        async with asyncio.timeout(DEADLINE_S):
            yield made
        await made.end()


async def test_a_batch_comes_back_as_one_vector_per_text(workers: Workers) -> None:
    vectors = await workers.start().encode(BATCH)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[3.0] * 4, [2.0] * 4]


async def test_a_large_batch_passes(workers: Workers) -> None:
    batch = Batch(np.full(32768, 21127, np.int32), np.full(2048, 16, np.int32))
    assert (await workers.start().encode(batch)).shape == (2048, 4)


async def test_answers_find_their_batches_in_whatever_order_they_come(workers: Workers) -> None:
    arrived = asyncio.Event()

    async def second_first(number: bytes, batch: Batch) -> Frames:
        if len(batch.lengths) == 1:
            arrived.set()
        else:
            await arrived.wait()
        return await echo_lengths(number, batch)

    client = workers.start(second_first)
    long, short = await asyncio.gather(
        client.encode(BATCH), client.encode(Batch(np.array([1], np.int32), np.array([1], np.int32)))
    )
    assert (long[:, 0].tolist(), short[:, 0].tolist()) == ([3, 2], [1])


async def test_a_refusal_carries_its_reason(workers: Workers) -> None:
    async def refuse(number: bytes, _: Batch) -> Frames:
        return error_frames(number, ValueError("the text is too long"))

    with pytest.raises(EngineError, match=r"^the text is too long$"):
        await workers.start(refuse).encode(BATCH)


async def test_a_worker_that_is_not_ready_says_so(workers: Workers) -> None:
    async def unready(number: bytes, _: Batch) -> Frames:
        return error_frames(number, NotReady("the model is being loaded"))

    client = workers.start(unready)
    with pytest.raises(NotReady, match="the model is being loaded"):
        await client.encode(BATCH)
    with pytest.raises(NotReady, match="the model is being loaded"):
        await client.ready()


async def test_a_wrong_answer_is_an_engine_error(workers: Workers) -> None:
    async def one_vector_too_few(number: bytes, _: Batch) -> Frames:
        return vector_frames(number, np.zeros((1, 1), np.float32))

    with pytest.raises(EngineError, match="4 bytes are not 2 vectors"):
        await workers.start(one_vector_too_few).encode(BATCH)


async def test_a_message_that_is_no_answer_leaves_the_next_ones_alone(workers: Workers) -> None:
    async def two_frames_first(number: bytes, batch: Batch) -> Frames:
        return [number, b""] if len(batch.lengths) == 1 else await echo_lengths(number, batch)

    client = workers.start(two_frames_first)
    unanswered = asyncio.create_task(client.encode(Batch(np.array([1], np.int32), np.array([1], np.int32))))
    assert (await client.encode(BATCH)).shape == (2, 4)
    assert (await client.encode(BATCH)).shape == (2, 4)
    assert not client.closed
    unanswered.cancel()


async def test_a_worker_whose_client_is_closed_counts_no_more(workers: Workers) -> None:
    engine = SglangEngine(max_batch_tokens=64, workers=1)
    client = workers.start()
    engine.add(client)
    assert engine.unready_reason() is None
    await client.close()
    assert engine.unready_reason() == "no SGLang worker is ready"
    with pytest.raises(NotReady):
        await engine.run(BATCH)


async def test_an_answer_that_nobody_waits_for_any_more_does_no_harm(workers: Workers) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(number: bytes, batch: Batch) -> Frames:
        arrived.set()
        await release.wait()
        return await echo_lengths(number, batch)

    client = workers.start(hold)
    asking = asyncio.create_task(client.encode(BATCH))
    await arrived.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    release.set()
    assert (await client.encode(BATCH)).shape == (2, 4)


async def test_what_waits_for_a_worker_that_never_comes_ends_with_the_client(tmp_path: Path) -> None:
    client = WorkerClient(f"ipc://{tmp_path}/nobody")
    waiting = asyncio.create_task(client.ready())
    asking = asyncio.create_task(client.encode(BATCH))
    assert not (await asyncio.wait({waiting, asking}, timeout=0.05))[0]
    await client.close()
    for task in (waiting, asking):
        with pytest.raises(NotReady):
            await task
    with pytest.raises(NotReady):
        await client.encode(BATCH)


async def test_ready_when_the_worker_answers(workers: Workers) -> None:
    await workers.start().ready()


async def test_an_engine_without_workers_is_not_ready() -> None:
    engine = SglangEngine(max_batch_tokens=64, workers=2)
    assert engine.slots == 4
    assert engine.unready_reason() == "no SGLang worker is ready"
    with pytest.raises(NotReady):
        await engine.run(BATCH)


async def test_batches_go_to_the_worker_with_the_fewest_in_flight(workers: Workers) -> None:
    release, arrivals = asyncio.Event(), [asyncio.Semaphore(0), asyncio.Semaphore(0)]
    served = [0, 0]

    def holding(worker: int) -> Answer:
        async def hold(number: bytes, batch: Batch) -> Frames:
            served[worker] += 1
            arrivals[worker].release()
            await release.wait()
            return await echo_lengths(number, batch)

        return hold

    engine = SglangEngine(max_batch_tokens=64, workers=2)
    for worker in range(2):
        engine.add(workers.start(holding(worker)))
    running = [asyncio.create_task(engine.run(BATCH)) for _ in range(engine.slots)]
    for worker in (0, 1):
        await arrivals[worker].acquire()
        await arrivals[worker].acquire()
    release.set()
    await asyncio.gather(*running)
    assert served == [2, 2]


async def test_a_removed_worker_gets_no_more_batches(workers: Workers) -> None:
    served: list[int] = []

    def counting(worker: int) -> Answer:
        async def count(number: bytes, batch: Batch) -> Frames:
            served.append(worker)
            return await echo_lengths(number, batch)

        return count

    engine = SglangEngine(max_batch_tokens=64, workers=2)
    clients = [workers.start(counting(worker)) for worker in range(2)]
    for client in clients:
        engine.add(client)
    engine.remove(clients[0])
    for _ in range(3):
        await engine.run(BATCH)
    assert served == [1, 1, 1]
    await engine.stop()
    assert engine.unready_reason() is not None


async def test_a_failed_batch_frees_its_place(workers: Workers) -> None:
    async def fail(number: bytes, _: Batch) -> Frames:
        return error_frames(number, ValueError("out of memory"))

    engine = SglangEngine(max_batch_tokens=64, workers=2)
    engine.add(workers.start(fail))
    for _ in range(3):
        with pytest.raises(EngineError):
            await engine.run(BATCH)
    # Were the failed ones still counted, every batch would now go to the other.
    engine.add(workers.start())
    with pytest.raises(EngineError):
        await engine.run(BATCH)


def once_then_silent(arrived: asyncio.Semaphore) -> Answer:
    """Answers the first batch, and takes in the others."""
    answered = False

    async def answer(number: bytes, batch: Batch) -> Frames:
        nonlocal answered
        if not answered:
            answered = True
            return await echo_lengths(number, batch)
        arrived.release()
        return await asyncio.Event().wait()

    return answer


async def in_flight(client: WorkerClient, arrived: asyncio.Semaphore, count: int) -> list[asyncio.Task[Vectors]]:
    await client.ready()
    asking = [asyncio.create_task(client.encode(BATCH)) for _ in range(count)]
    for _ in asking:
        await arrived.acquire()
    return asking


async def test_of_the_batches_that_a_worker_is_lost_with_it_had_begun_the_first(workers: Workers) -> None:
    arrived = asyncio.Semaphore(0)
    client = workers.start(once_then_silent(arrived))
    asking = await in_flight(client, arrived, 3)
    await client.close()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [WorkerLost, NotReady, NotReady]


async def test_the_end_of_a_worker_is_noticed_at_once(workers: Workers) -> None:
    arrived = asyncio.Semaphore(0)
    client, worker = workers.start_both(once_then_silent(arrived))
    asking = await in_flight(client, arrived, 2)
    await worker.close()
    await client.gone()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [WorkerLost, NotReady]
    assert client.closed


async def test_there_is_room_while_a_worker_has_less_than_its_slots(workers: Workers) -> None:
    arrived = asyncio.Semaphore(0)
    engine = SglangEngine(max_batch_tokens=64, workers=2)
    waiting = asyncio.create_task(engine.available())
    assert not (await asyncio.wait({waiting}, timeout=0.02))[0]
    client = workers.start(once_then_silent(arrived))
    engine.add(client)
    await waiting
    await client.ready()
    running = [asyncio.create_task(engine.run(BATCH)) for _ in range(2)]
    for _ in running:
        await arrived.acquire()
    waiting = asyncio.create_task(engine.available())
    assert not (await asyncio.wait({waiting}, timeout=0.02))[0]
    running[0].cancel()
    await waiting
    running[1].cancel()
    await asyncio.gather(*running, return_exceptions=True)
