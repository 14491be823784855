"""Which cores the server and the load run on."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """Different ones, as where clients have machines of their own."""

    server: frozenset[int]
    load: frozenset[int]

    def __str__(self) -> str:
        if self.server == self.load:
            return "which the server shares with the load"
        return f"{len(self.server)} for the server and {len(self.load)} for the load"


def split_cores(*, shared: bool) -> Split:
    cores = sorted(os.sched_getaffinity(0))
    if shared or len(cores) < 2:
        return Split(frozenset(cores), frozenset(cores))
    return Split(frozenset(cores[:-1]), frozenset(cores[-1:]))
