"""The client and the engine, against a small real HTTP worker."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from launcher.engines.base import Batch
from launcher.engines.sglang.client import WorkerClient, decode_reply
from launcher.engines.sglang.engine import SglangEngine
from launcher.engines.sglang.packing import unpack_header
from launcher.errors import EngineError, NotReady

BATCH = Batch(np.array([101, 7, 102, 101, 102], np.int32), np.array([3, 2], np.int32))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def reply_with(vectors: np.ndarray) -> web.Response:
    return web.json_response({"embedding": base64.b64encode(vectors.astype("<f4").tobytes()).decode(), "meta_info": {}})


async def echo_lengths(request: web.Request) -> web.Response:
    """A worker whose vectors say how long each text was."""
    packed = np.array((await request.json())["input_ids"], np.int64)
    return reply_with(np.stack([np.full(4, length) for length in unpack_header(packed)]))


class Workers:
    """Starts worker servers on free ports and closes them and their clients at the end."""

    def __init__(self) -> None:
        self._servers: list[TestServer] = []
        self._clients: list[WorkerClient] = []

    async def start(self, encode: Handler = echo_lengths) -> WorkerClient:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/encode", encode)
        app.router.add_get("/model_info", model_info)
        server = TestServer(app)
        await server.start_server()
        self._servers.append(server)
        client = WorkerClient(f"http://127.0.0.1:{server.port}")
        self._clients.append(client)
        return client

    async def end(self) -> None:
        for client in self._clients:
            await client.close()
        for server in self._servers:
            await server.close()


async def model_info(_: web.Request) -> web.Response:
    return web.json_response({})


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    made = Workers()
    yield made
    await made.end()


async def test_a_batch_comes_back_as_one_vector_per_text(workers: Workers) -> None:
    client = await workers.start()
    vectors = await client.encode(BATCH)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[3.0] * 4, [2.0] * 4]


async def test_a_large_batch_passes(workers: Workers) -> None:
    client = await workers.start()
    vectors = await client.encode(Batch(np.full(32768, 21127, np.int32), np.full(2048, 16, np.int32)))
    assert vectors.shape == (2048, 4)


async def test_an_error_status_carries_its_reason(workers: Workers) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "The input is too long"}}, status=400)

    client = await workers.start(refuse)
    with pytest.raises(EngineError, match=r"400: .*The input is too long"):
        await client.encode(BATCH)


async def test_no_listener_is_not_ready(unused_tcp_port: int) -> None:
    client = WorkerClient(f"http://127.0.0.1:{unused_tcp_port}")
    assert not await client.ready()
    with pytest.raises(NotReady):
        await client.encode(BATCH)
    await client.close()


async def test_a_connection_cut_in_the_middle_is_not_ready(workers: Workers) -> None:
    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    client = await workers.start(cut)
    with pytest.raises(NotReady):
        await client.encode(BATCH)


async def test_ready_when_the_worker_answers(workers: Workers) -> None:
    assert await (await workers.start()).ready()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"not json", "not packed vectors"),
        (b'{"meta_info": {}}', "not packed vectors"),
        (b'{"embedding": [0.5, 0.5]}', "not packed vectors"),
        (b'{"embedding": "%%%"}', "not packed vectors"),
        (b'{"embedding": "AAA="}', "not packed vectors"),
        (b'{"embedding": ""}', "refused the batch"),
        (b'{"embedding": "AACAPw=="}', "1 numbers for 2 inputs"),
        (b'{"embedding": "AADAfwAAgD8="}', "not finite"),
    ],
)
def test_a_wrong_answer_is_an_engine_error(reply: bytes, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        decode_reply(reply, 2)


async def test_an_engine_without_workers_is_not_ready() -> None:
    engine = SglangEngine(max_batch_tokens=64, workers=2)
    assert engine.slots == 4
    assert engine.unready_reason() == "no SGLang worker is ready"
    with pytest.raises(NotReady):
        await engine.run(BATCH)


async def test_batches_go_to_the_worker_with_the_fewest_in_flight(workers: Workers) -> None:
    release, arrivals = asyncio.Event(), [asyncio.Semaphore(0), asyncio.Semaphore(0)]
    served = [0, 0]

    def holding(number: int) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            served[number] += 1
            arrivals[number].release()
            await release.wait()
            return await echo_lengths(request)

        return handle

    engine = SglangEngine(max_batch_tokens=64, workers=2)
    for number in range(2):
        engine.add(await workers.start(holding(number)))
    running = [asyncio.create_task(engine.run(BATCH)) for _ in range(engine.slots)]
    async with asyncio.timeout(10):
        for number in (0, 1):
            await arrivals[number].acquire()
            await arrivals[number].acquire()
    release.set()
    await asyncio.gather(*running)
    assert served == [2, 2]


async def test_a_removed_worker_gets_no_more_batches(workers: Workers) -> None:
    served: list[int] = []

    def counting(number: int) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            served.append(number)
            return await echo_lengths(request)

        return handle

    engine = SglangEngine(max_batch_tokens=64, workers=2)
    clients = [await workers.start(counting(number)) for number in range(2)]
    for client in clients:
        engine.add(client)
    await engine.remove(clients[0].url)
    for _ in range(3):
        await engine.run(BATCH)
    assert served == [1, 1, 1]
    await engine.stop()
    assert engine.unready_reason() is not None


async def test_a_failed_batch_frees_its_place(workers: Workers) -> None:
    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=500)

    engine = SglangEngine(max_batch_tokens=64, workers=2)
    failing, sound = await workers.start(fail), await workers.start()
    engine.add(failing)
    for _ in range(3):
        with pytest.raises(EngineError):
            await engine.run(BATCH)
    # Were the failed ones still counted, every batch would now go to the other.
    engine.add(sound)
    with pytest.raises(EngineError):
        await engine.run(BATCH)


async def test_a_batch_on_its_way_to_a_removed_worker_ends_with_not_ready(workers: Workers) -> None:
    arrived = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    engine = SglangEngine(max_batch_tokens=64, workers=1)
    engine.add(await workers.start(hang))
    running = asyncio.create_task(engine.run(BATCH))
    await asyncio.wait_for(arrived.wait(), 10)
    await engine.stop()
    with pytest.raises(NotReady):
        await asyncio.wait_for(running, 10)
