"""Three servers with requests of a steady pace, that can be killed, slowed and made to fail."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from benchmarks.server import free_port
from tests.support.server import RunningServer
from tests.support.texts import of_tokens
from tests.support.troubled_worker import Orders, Trouble

SERVERS = 3
CLIENTS = 8
PAUSE_S = 0.2
REPLY_TIMEOUT_S = 30.0
MODEL = "proof"
# One request in five has a text of a length that a worker can be told to refuse.
GOOD_TOKENS, REFUSED_TOKENS = (20, 24, 28, 32), 33
# Above what rules call slow, and what they call a slow P95.
DELAY_S = 2.5


class Service:
    """``urls`` are the servers' and stay theirs."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._trouble = Trouble(folder)
        self._ports = [free_port() for _ in range(SERVERS)]
        settings = (f"model.name={MODEL}", "log.level=warning", "queue.max_wait_s=60", "server.request_timeout_s=60")
        arguments = ("--model", str(model), *(part for setting in settings for part in ("--set", setting)))
        self._arguments = [*arguments, *self._trouble.arguments]
        self._servers: list[RunningServer] = []
        self.urls = [f"http://127.0.0.1:{port}" for port in self._ports]

    def start(self) -> None:
        for port in self._ports:
            self._servers.append(self._server(port))
        for server in self._servers:
            server.wait_ready()

    def stop(self) -> None:
        for server in self._servers:
            if server.process.poll() is None:
                server.stop()

    def kill_one(self) -> None:
        self._servers[-1].process.kill()
        self._servers[-1].wait()

    def start_it_again(self) -> None:
        self._servers[-1] = self._server(self._ports[-1]).wait_ready()

    def slow_down(self) -> None:
        self._trouble.order(Orders(delay_s=DELAY_S))

    def fail(self) -> None:
        self._trouble.order(Orders(refused_tokens=REFUSED_TOKENS))

    def recover(self) -> None:
        self._trouble.order(Orders())

    def _server(self, port: int) -> RunningServer:
        # The last --port counts.
        return RunningServer([*self._arguments, "--port", str(port)])


@contextmanager
def running_service(folder: Path, model: Path) -> Iterator[Service]:
    service = Service(folder, model)
    try:
        service.start()
        with under_pace(service.urls):
            yield service
    finally:
        service.stop()


@contextmanager
def under_pace(urls: Sequence[str]) -> Iterator[None]:
    """``CLIENTS`` to each, which ask, and pause, and ask again, whatever they were answered."""
    done = threading.Event()
    texts = [of_tokens(tokens) for tokens in (*GOOD_TOKENS, REFUSED_TOKENS)]

    def ask(url: str, first: int) -> None:
        with httpx.Client(base_url=url, timeout=REPLY_TIMEOUT_S) as client:
            for turn in itertools.count(first):
                try:
                    client.post("/v1/embeddings", json={"model": MODEL, "input": texts[turn % len(texts)]})
                except httpx.TransportError:
                    wait_until_ready(client)
                if done.wait(PAUSE_S):
                    return

    def wait_until_ready(client: httpx.Client) -> None:
        """As whatever stands before servers does with one that is gone."""
        while not done.wait(PAUSE_S):
            with suppress(httpx.TransportError):
                if client.get("/ready").status_code == httpx.codes.OK:
                    return

    threads = [threading.Thread(target=ask, args=(url, number)) for url in urls for number in range(CLIENTS)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(done.set)
        yield
