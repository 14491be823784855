"""What the autoscaler is told: the queries that are deployed, put to a real Prometheus that scrapes real servers under a load
whose size is known."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml

from benchmarks.bodies import MODEL_NAME
from benchmarks.overload.bars import Rows
from benchmarks.overload.run import run_load
from tests.support.full_queue import LONG_TOKENS, SMALL_QUEUE, long_request
from tests.support.processes import wait_until
from tests.support.prometheus import RunningPrometheus, running_prometheus
from tests.support.server import RunningServer, running_server

COMPONENTS = Path(__file__).parents[2] / "k8s" / "components"
# The rate's own window; and time for both loads to have begun.
WINDOW_S = 60.0
LOAD_S = 66.0
# Requests a second to each of the two servers. Compared is with what was sent, which on a busy machine may be less.
RATES = (200.0, 100.0)
# As the deployed autoscaler's comments assume; the other Prometheus scrapes every second.
DEPLOYED_INTERVAL_S = 15
NEAR = 0.05
COMPLETED = 'sum(rate(embedding_requests_total{task="embeddings",status="200"}[1m]))'


def keda_queries() -> dict[str, str]:
    (document,) = yaml.safe_load_all((COMPONENTS / "autoscaling-keda" / "scaledobject.yaml").read_text(encoding="utf-8"))
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in document["spec"]["triggers"]}


def adapter_queries() -> dict[str, str]:
    rules = yaml.safe_load((COMPONENTS / "autoscaling-adapter" / "adapter-rules.yaml").read_text(encoding="utf-8"))
    listed = yaml.safe_load(rules["data"]["config.yaml"])["externalRules"]
    return {rule["name"]["as"]: rule["metricsQuery"] for rule in listed}


OFFERED = {"keda": keda_queries()["offered-qps"], "adapter": adapter_queries()["sgl_embed_offered_qps"]}
IN_FLIGHT = {"keda": keda_queries()["tokens-in-flight"], "adapter": adapter_queries()["sgl_embed_tokens_in_flight"]}


@dataclass(frozen=True)
class Loaded:
    """``rows`` as in ``benchmarks.overload.load``, for each server; ``at``: while the load went on, WINDOW_S after it began."""

    rows: tuple[Rows, ...]
    at: float

    def offered_qps(self, server: int) -> float:
        return len(self._within(server)) / WINDOW_S

    def answered_qps(self, server: int) -> float:
        return float(np.sum(self._within(server)[:, 2] == 200)) / WINDOW_S

    def _within(self, server: int) -> Rows:
        due = self.rows[server][:, 0]
        at = self.at - (time.time() - time.monotonic())
        return self.rows[server][(due > at - WINDOW_S) & (due <= at)]


@pytest.fixture(scope="module")
def servers(tiny_checkpoint: Path) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Two pods. The first takes one request at a time, so that it refuses much of what comes."""
    common = ("--model", str(tiny_checkpoint), *SMALL_QUEUE, "--set", f"model.name={MODEL_NAME}")
    with running_server(*common, "--set", "queue.max_tokens=1") as first, running_server(*common) as second:
        yield first, second


@pytest.fixture(scope="module")
def of_first(servers: tuple[RunningServer, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPrometheus]:
    with running_prometheus(tmp_path_factory.mktemp("first"), [servers[0].base_url]) as prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def before(of_first: RunningPrometheus) -> dict[str, list[float]]:
    """What each query gave before the first request, once there were the two scrapes that a rate takes."""
    wait_until("there is a rate", lambda: bool(of_first.values(OFFERED["keda"])), 10)
    return {query: of_first.values(query) for query in (*OFFERED.values(), *IN_FLIGHT.values(), COMPLETED)}


@pytest.fixture(scope="module")
def of_both(
    servers: tuple[RunningServer, ...], before: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPrometheus]:
    urls = [server.base_url for server in servers]
    with running_prometheus(tmp_path_factory.mktemp("both"), urls, DEPLOYED_INTERVAL_S) as prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def loaded(servers: tuple[RunningServer, ...], of_both: RunningPrometheus, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("load")
    files = [folder / f"{number}.npy" for number in range(len(servers))]

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for server, rate, file in zip(servers, RATES, files, strict=True):
                port = str(urlsplit(server.base_url).port)
                group.create_task(run_load(("open", port, str(file), f"{rate}:{LOAD_S}"), LOAD_S))

    asyncio.run(run())
    rows = tuple(np.load(file) for file in files)
    # Of the load that ended first: both were there from a minute before until then.
    last_s = min(float(each[:, 0].max()) for each in rows)
    return Loaded(rows, last_s + time.time() - time.monotonic())


@pytest.mark.parametrize("component", OFFERED)
def test_before_any_request_all_is_there_and_0(before: dict[str, list[float]], component: str) -> None:
    """Nothing at all would be an error for KEDA, upon which no pod is taken away."""
    assert before[OFFERED[component]] == [0]
    assert before[IN_FLIGHT[component]] == [0]
    assert before[COMPLETED] == [0]


@pytest.mark.parametrize("component", OFFERED)
def test_the_query_gives_what_was_offered_though_much_of_it_was_refused(
    of_first: RunningPrometheus, loaded: Loaded, component: str
) -> None:
    assert set(loaded.rows[0][:, 2]) == {200, 429}
    measured = of_first.value(OFFERED[component], loaded.at)
    assert measured == pytest.approx(loaded.offered_qps(0), rel=NEAR)


@pytest.mark.parametrize("component", OFFERED)
def test_it_gives_the_load_of_all_pods_at_the_deployed_interval(
    of_both: RunningPrometheus, loaded: Loaded, component: str
) -> None:
    measured = of_both.value(OFFERED[component], loaded.at)
    assert measured == pytest.approx(loaded.offered_qps(0) + loaded.offered_qps(1), rel=NEAR)


def test_answered_requests_would_hide_the_load_of_a_full_pod(of_first: RunningPrometheus, loaded: Loaded) -> None:
    measured = of_first.value(COMPLETED, loaded.at)
    assert measured == pytest.approx(loaded.answered_qps(0), rel=NEAR)
    assert measured < 0.9 * of_first.value(OFFERED["keda"], loaded.at)


def test_a_pod_that_refuses_is_scraped(of_first: RunningPrometheus, loaded: Loaded) -> None:
    """Within a second each, but for a few where other programs have the machine."""
    assert of_first.value("sum(sum_over_time(up[1m]))", loaded.at) >= 0.9 * WINDOW_S


@pytest.mark.parametrize("component", IN_FLIGHT)
def test_tokens_in_flight_are_those_of_the_requests_under_way(
    servers: tuple[RunningServer, ...], of_first: RunningPrometheus, loaded: Loaded, component: str
) -> None:
    query = IN_FLIGHT[component]
    with long_request(servers[0], model=MODEL_NAME):
        wait_until("Prometheus sees it", lambda: of_first.value(query) == LONG_TOKENS, 10)
    wait_until("Prometheus sees its end", lambda: of_first.value(query) == 0, 10)


def test_a_pod_that_drains_is_scraped_and_says_that_it_takes_no_more(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with (
        running_server("--model", str(tiny_checkpoint), *SMALL_QUEUE) as server,
        running_prometheus(tmp_path, [server.base_url]) as prometheus,
    ):
        assert prometheus.value("embedding_ready") == 1
        with long_request(server):
            server.process.send_signal(signal.SIGTERM)
            wait_until("Prometheus sees it", lambda: prometheus.value("embedding_ready and up == 1") == 0, 10)
            assert prometheus.value(IN_FLIGHT["keda"]) == LONG_TOKENS
        assert server.wait() == 0
        wait_until("Prometheus sees its end", lambda: prometheus.value("up") == 0, 10)
