"""Steady load on a server, with every answer checked."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import httpx
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
MIN_COSINE = 0.999
# The served name of the checkpoint that tests share.
MODEL = "tiny-zh"


def embed(client: httpx.Client, texts: Sequence[str], headers: Mapping[str, str] | None = None) -> httpx.Response:
    # Longer than any deadline that a test sets.
    return client.post("/v1/embeddings", json={"model": MODEL, "input": list(texts)}, headers=headers, timeout=240)


def vectors_of(reply: httpx.Response) -> Vectors:
    return np.array([item["embedding"] for item in reply.json()["data"]], np.float32)


@dataclass
class Load:
    """``clients`` threads that ask for some of ``texts`` one after the other; enter it to start, leave it to stop.

    ``outcomes`` counts statuses and, by their names, exceptions, of the requests that began before ``end_count``; ``wrong``
    counts vectors that are not those of ``reference``.
    """

    base_url: str
    reference: Mapping[str, Vectors]
    clients: int = 8
    headers: Mapping[str, str] = field(default_factory=dict)
    outcomes: Counter[int | str] = field(default_factory=Counter)
    wrong: int = 0
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        self._counts_until = math.inf
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(self.clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int, timeout_s: float = 60.0) -> None:
        """Return once ``more`` requests were answered with vectors from now on."""
        with self._answered:
            goal = self.outcomes[200] + more
            assert self._answered.wait_for(lambda: self.outcomes[200] >= goal, timeout_s), self.outcomes

    def end_count(self) -> None:
        """What begins from now on does not count: where a server stops, later requests find nobody."""
        self._counts_until = monotonic()

    def _run(self, number: int) -> None:
        texts = list(self.reference)
        sizes = itertools.cycle((1, 3, 8, 1, 20))
        with httpx.Client(base_url=self.base_url, headers=self.headers, timeout=120) as client:
            for turn in itertools.count(number):
                if self._stop.is_set():
                    return
                size = next(sizes)
                self._ask(client, [texts[(turn * 7 + i) % len(texts)] for i in range(size)])

    def _ask(self, client: httpx.Client, texts: Sequence[str]) -> None:
        began = monotonic()
        wrong = 0
        outcome: int | str
        try:
            reply = embed(client, texts)
            outcome = reply.status_code
            if outcome == 200:
                expected = np.concatenate([self.reference[text] for text in texts])
                wrong = int(((vectors_of(reply) * expected).sum(axis=1) < MIN_COSINE).sum())
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        with self._answered:
            if began < self._counts_until:
                self.outcomes[outcome] += 1
            self.wrong += wrong
            self.slowest_s = max(self.slowest_s, monotonic() - began)
            self._answered.notify_all()


def reference_of(base_url: str, texts: Sequence[str]) -> dict[str, Vectors]:
    """The vectors of ``texts``, each asked for alone while nothing is broken."""
    with httpx.Client(base_url=base_url, timeout=120) as client:
        return {text: vectors_of(embed(client, [text]).raise_for_status()) for text in texts}
