"""The texts of a case and the request bodies that carry them: seeded, and the same for every contender."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.texts import COMMON

# The name every contender serves its model under.
MODEL_NAME = "bench"
SPECIAL_TOKENS = 2
# Characters that make a text differ from all others; equal ones would be encoded once.
DISTINCT = 3


@dataclass(frozen=True)
class Bodies:
    """Request bodies of one case. ``texts[i]`` are the inputs of body ``i``; a character is a token."""

    texts: tuple[tuple[str, ...], ...]

    @property
    def texts_per_request(self) -> float:
        return float(np.mean([len(texts) for texts in self.texts]))

    @property
    def tokens_per_request(self) -> float:
        return float(np.mean([sum(len(text) + SPECIAL_TOKENS for text in texts) for texts in self.texts]))

    def body(self, index: int) -> bytes:
        return request_body(self.texts[index])

    def write(self, file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\n".join(map(self.body, range(len(self.texts)))) + b"\n")
        return file


def request_body(texts: Sequence[str]) -> bytes:
    return json.dumps({"model": MODEL_NAME, "input": texts}, ensure_ascii=False, separators=(",", ":")).encode()


def distinct_bodies(requests: int, texts_per_request: int, characters: tuple[int, int], seed: int) -> Bodies:
    """All texts differ. Lengths are log-uniform over ``characters``: many short ones, some long."""
    rng = np.random.default_rng(seed)
    shortest, longest = characters
    lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest + 1), (requests, texts_per_request))).astype(int)
    return Bodies(tuple(tuple(random_text(rng, length) for length in row) for row in lengths))


def repeated_bodies(requests: int, distinct_texts: int, characters: int, seed: int) -> Bodies:
    """One text a request, drawn from ``distinct_texts`` by Zipf's law: the n-th text comes up 1/n times as often."""
    rng = np.random.default_rng(seed)
    texts = [random_text(rng, characters) for _ in range(distinct_texts)]
    share = 1 / np.arange(1, distinct_texts + 1)
    drawn = rng.choice(distinct_texts, requests, p=share / share.sum())
    return Bodies(tuple((texts[i],) for i in drawn))


def number(i: int) -> str:
    """``DISTINCT`` Chinese characters, others for each ``i``."""
    first, size = ord("一"), 20_000
    return "".join(chr(first + i // size**place % size) for place in range(DISTINCT))


def random_text(rng: np.random.Generator, characters: int) -> str:
    return "".join(rng.choice(list(COMMON), characters))
