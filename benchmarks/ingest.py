"""How long a single query waits while another client's request of many texts is being worked on."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from benchmarks.bodies import Bodies, distinct_bodies, request_body
from benchmarks.records import Figures
from benchmarks.server import Server
from benchmarks.target import ContenderFailed

INGESTED_TEXTS = 2048
INGESTED_CHARACTERS = 16
ALONE_S = 5.0
# From the first finished batch to the last of these is how long batches take.
BATCHES = 3
METRICS_INTERVAL_S = 0.01


def measure_wait(server: Server, queries: Bodies, seconds: float, *, has_metrics: bool, texts: int = INGESTED_TEXTS) -> Figures:
    """95th percentile of a query alone and beside the ingest, and (of ours) the difference in batches' times.

    The queries beside it go on for ``seconds`` or until the ingest is done; one that has begun is waited for.
    """
    asked = iter(range(len(queries.texts)))

    def query() -> float:
        started = time.perf_counter()
        server.post(queries.body(next(asked)))
        return (time.perf_counter() - started) * 1e3

    alone_ms = _until(time.monotonic() + ALONE_S, query)
    (ingested,) = distinct_bodies(1, texts, (INGESTED_CHARACTERS, INGESTED_CHARACTERS), seed=2).texts
    with Ingest(server, request_body(ingested)) as ingest:
        batch_s = _batch_s(server, ingest) if has_metrics else None
        beside_ms = _until(time.monotonic() + seconds, query, ingest.under_way)
    if not beside_ms:
        raise ContenderFailed("the ingest was over before a query could be asked beside it")
    figures = {
        "p95_alone_ms": float(np.percentile(alone_ms, 95)),
        "p50_beside_ms": float(np.percentile(beside_ms, 50)),
        "p95_beside_ms": float(np.percentile(beside_ms, 95)),
        "queries_beside": float(len(beside_ms)),
    }
    if batch_s is not None:
        figures["batch_ms"] = batch_s * 1e3
        figures["wait_in_batches"] = (figures["p95_beside_ms"] - figures["p95_alone_ms"]) / figures["batch_ms"]
    return figures


class Ingest:
    """A large request in a thread of its own; at the end of the block its connection is closed, answered or not."""

    def __init__(self, server: Server, body: bytes) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port)
        self._body = body
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Ingest:
        self._connection.connect()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.sock:
            with suppress(OSError):
                self._connection.sock.shutdown(2)
        self._thread.join()
        self._connection.close()

    def under_way(self) -> bool:
        return self._thread.is_alive()

    def _send(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            self._connection.request("POST", "/v1/embeddings", self._body, {"Content-Type": "application/json"})
            self._connection.getresponse().read()


def _until(deadline: float, query: Callable[[], float], go_on: Callable[[], bool] = lambda: True) -> list[float]:
    latencies_ms = []
    while time.monotonic() < deadline and go_on():
        latencies_ms.append(query())
    return latencies_ms


def _batch_s(server: Server, ingest: Ingest) -> float | None:
    """Time from one finished batch of the ingest to the next; None where it was done before that could be seen."""
    ended: list[float] = []
    seen = _batches(server)
    while len(ended) < BATCHES and ingest.under_way():
        if (count := _batches(server)) > seen:
            ended += [time.monotonic()] * (count - seen)
            seen = count
        time.sleep(METRICS_INTERVAL_S)
    return (ended[-1] - ended[0]) / (len(ended) - 1) if len(ended) == BATCHES else None


def _batches(server: Server) -> int:
    match = re.search(r"^embedding_batch_duration_seconds_count (\S+)", server.get("/metrics"), re.MULTILINE)
    if not match:
        raise ContenderFailed("its /metrics do not count batches")
    return int(float(match.group(1)))
