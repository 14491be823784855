"""One run: rounds in which each contender has the load in turn, and then scrapes under load."""

from __future__ import annotations

import http.client
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bodies import MODEL_NAME, Bodies, distinct_bodies
from benchmarks.contenders import environment_of
from benchmarks.cores import Split
from benchmarks.load import measure, run_wrk
from benchmarks.records import Figures
from benchmarks.server import Server, free_port, running

CLIENTS = 32
# Short texts, so that what is around the model is what costs.
CHARACTERS = (16, 16)
SCRAPE_EVERY_S = 0.2
REPLY_TIMEOUT_S = 30.0
REAL = "launcher"
QUIET, LOUD = "log.level=warning", "log.level=info"


@dataclass(frozen=True)
class Contender:
    program: str
    log_level: str
    processes: int = 1


# "again" is "metrics" once more: what the two differ by is chance.
CONTENDERS = {
    "nothing": Contender("benchmarks.instrumentation.uncounted", QUIET),
    "metrics": Contender(REAL, QUIET),
    "again": Contender(REAL, QUIET),
    "log": Contender(REAL, LOUD),
}
SCRAPED = {"one process": Contender(REAL, QUIET), "two gateway processes": Contender(REAL, QUIET, processes=2)}


@dataclass(frozen=True)
class Protocol:
    """``starts``: each begins with new servers, since one process is a little faster than the next for as long as it lives."""

    starts: int = 3
    rounds: int = 6
    seconds: int = 5
    warm_up_s: int = 3
    scrape_s: int = 20


@dataclass(frozen=True)
class Bench:
    model: Path
    work: Path
    split: Split
    protocol: Protocol
    say: Callable[[str], None]

    def rounds(self) -> Iterator[Mapping[str, Figures]]:
        bodies, file = self._bodies()
        for start in range(self.protocol.starts):
            with self._running(CONTENDERS) as servers:
                for server in servers.values():
                    run_wrk(server.url, file, CLIENTS, self.protocol.warm_up_s, timed=False)
                for number in range(self.protocol.rounds):
                    figures = {
                        name: measure(servers[name], bodies, file, CLIENTS, self.protocol.seconds, timed=False)
                        for name in in_turn(list(servers), number)
                    }
                    rates = ", ".join(f"{name} {each['requests_per_s']:.0f}" for name, each in figures.items())
                    self.say(f"start {start + 1}, round {number + 1}: {rates}")
                    yield figures

    def scrapes_ms(self) -> dict[str, list[float]]:
        _, file = self._bodies()
        found = {}
        for name, contender in SCRAPED.items():
            with self._running({name: contender}) as servers, ThreadPoolExecutor(1) as pool:
                server = servers[name]
                loading = pool.submit(run_wrk, server.url, file, CLIENTS, self.protocol.scrape_s, timed=False)
                # Not while the load begins or ends.
                found[name] = scraped_ms(server, self.protocol.scrape_s - 1)
                loading.result()
            self.say(f"{name}: {len(found[name])} scrapes, the slowest {max(found[name]):.1f} ms")
        return found

    def _bodies(self) -> tuple[Bodies, Path]:
        bodies = distinct_bodies(20_000, 1, CHARACTERS, seed=1)
        return bodies, bodies.write(self.work / "bodies")

    @contextmanager
    def _running(self, contenders: Mapping[str, Contender]) -> Iterator[dict[str, Server]]:
        """On the servers' cores; what this process starts afterwards is on the load's."""
        with ExitStack() as stack:
            os.sched_setaffinity(0, self.split.server)
            started = {name: stack.enter_context(self._server(name, each)) for name, each in contenders.items()}
            os.sched_setaffinity(0, self.split.load)
            yield started

    @contextmanager
    def _server(self, name: str, contender: Contender) -> Iterator[Server]:
        port = free_port()
        settings = (f"model.name={MODEL_NAME}", "engine.dtype=float32", contender.log_level)
        command = [
            *(sys.executable, "-m", contender.program, "serve", "--model", str(self.model), "--engine", "openvino"),
            *("--port", str(port), "--processes", str(contender.processes)),
            *(part for setting in settings for part in ("--set", setting)),
        ]
        first = distinct_bodies(1, 1, CHARACTERS, seed=0).body(0)
        with running(command, environment_of(os.environ), port, self.work / f"{name}.log", first) as server:
            yield server


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """Another one first in each round, so that none is always the one after the same other."""
    first = number % len(names)
    order = [*names[first:], *names[:first]]
    return order if number // len(names) % 2 == 0 else order[::-1]


def scraped_ms(server: Server, seconds: float) -> list[float]:
    """How long each scrape took, all over one connection, as Prometheus does it."""
    took, stop = [], threading.Event()
    ends = time.monotonic() + seconds
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=REPLY_TIMEOUT_S)) as connection:
        while (began := time.monotonic()) < ends:
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            took.append((time.monotonic() - began) * 1e3)
            stop.wait(max(began + SCRAPE_EVERY_S - time.monotonic(), 0))
    return took
