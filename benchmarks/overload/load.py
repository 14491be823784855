"""Drives a server from a process of its own, so that the load's timing owes nothing to what else is measured.

``python -m benchmarks.overload.load closed PORT SECONDS CLIENTS`` keeps that many requests under way.
``python -m benchmarks.overload.load open PORT FILE RATE:SECONDS ...`` sends at each rate in turn, at random times, whatever has
been answered by then; a line says when each begins.

``FILE`` becomes a numpy array with a row for each request: when it was due, how long it took from then on, its status.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import uvloop

from benchmarks.bodies import DISTINCT, MODEL_NAME, SPECIAL_TOKENS, number, random_text
from benchmarks.clients import Load, answered_per_s, many_connections
from benchmarks.target import Target

TEXTS = 4096
TOKENS = (20, 60)
BODY = '{"model":"%s","encoding_format":"base64","input":"%s"}'


def bodies(seed: int = 1) -> Iterator[bytes]:
    """Without end; no text comes twice."""
    rng = np.random.default_rng(seed)
    shortest, longest = (tokens - SPECIAL_TOKENS - DISTINCT for tokens in TOKENS)
    rests = [random_text(rng, int(rng.integers(shortest, longest + 1))) for _ in range(TEXTS)]
    for i in count():
        yield (BODY % (MODEL_NAME, number(i) + rests[i % TEXTS])).encode()


def main(mode: str, port: str, *rest: str) -> None:
    many_connections()
    load = Load(Target("127.0.0.1", int(port)), bodies())
    if mode == "closed":
        seconds, clients = float(rest[0]), int(rest[1])
        uvloop.run(load.closed(clients, seconds))
        print(answered_per_s(load.answered, seconds))
    else:
        file, *phases = rest
        rates = [(float(rate), float(seconds)) for rate, _, seconds in (phase.partition(":") for phase in phases)]
        uvloop.run(load.open(rates, lambda: print(time.monotonic(), flush=True)))
        np.save(file, np.array(load.answered))


if __name__ == "__main__":
    main(*sys.argv[1:])
