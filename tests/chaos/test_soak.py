"""Minutes of mixed requests, good and bad: the memory of every process stays what it was after the first of them."""

from __future__ import annotations

import os
import statistics
from time import monotonic, sleep

import httpx
import pytest

from tests.support.load import Load, reference_of
from tests.support.processes import everything
from tests.support.server import RunningServer
from tests.support.texts import mixed_batch

# make soak goes on for ten minutes.
SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
SAMPLE_EVERY_S = 0.25
# Of the memory at the second quarter's middle: what an allocator that is not leaking still wanders by.
MAX_GROWTH, MAX_GROWTH_BYTES = 0.03, 8 << 20

pytestmark = pytest.mark.timeout(SECONDS + 500)


@pytest.mark.parametrize("engine", ["openvino", pytest.param("sglang", marks=pytest.mark.sglang)])
def test_memory_is_flat_after_the_first_requests(engine: str, request: pytest.FixtureRequest) -> None:
    server: RunningServer = request.getfixturevalue(f"{engine}_server")
    reference = reference_of(server.base_url, mixed_batch(150, 500))
    processes = {f"{process.name()} {process.pid}": process for process in everything(server)}
    sizes: dict[str, list[int]] = {name: [] for name in processes}
    with Load(server.base_url, reference, clients=4) as load, httpx.Client(base_url=server.base_url) as client:
        end = monotonic() + SECONDS
        while monotonic() < end:
            for name, process in processes.items():
                sizes[name].append(process.memory_info().rss)
            ask_badly(client)
            # This is the distance of two samples, and waits for nothing.
            sleep(SAMPLE_EVERY_S)
    assert set(load.outcomes) == {200}, load.outcomes
    assert load.wrong == 0
    growth = {name: growth_of(each) for name, each in sizes.items()}
    print(f"\n{engine}: {load.outcomes[200]} requests in {SECONDS:g} s; bytes more than before: {growth}")
    for name, each in sizes.items():
        assert growth[name] <= max(MAX_GROWTH * each[len(each) // 4], MAX_GROWTH_BYTES), growth


def ask_badly(client: httpx.Client) -> None:
    bodies = (b"{", b'{"model": "nobody", "input": "x"}', b'{"model": "tiny-zh", "input": [[99999]]}')
    assert {client.post("/v1/embeddings", content=body).status_code for body in bodies} <= {400, 404, 415}


def growth_of(sizes: list[int]) -> float:
    """From the second quarter to the last."""
    quarter = len(sizes) // 4
    return statistics.median(sizes[-quarter:]) - statistics.median(sizes[quarter : 2 * quarter])
