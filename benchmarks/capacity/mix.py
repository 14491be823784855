"""What is sent: requests of given sizes, with texts that are made up or real."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np

from benchmarks.bodies import DISTINCT, SPECIAL_TOKENS, number, random_text
from benchmarks.target import Target

SHARES = re.compile(r"([1-9]\d*)(?::(\d*\.?\d+))?")
RANGE = re.compile(r"(\d+)(?:-(\d+))?")
SHORTEST = SPECIAL_TOKENS + DISTINCT + 1
# Made-up texts: a number, which no other has, and one of these.
RESTS = 4096
# Whose tokens the server is asked to count.
SAMPLE = 1000
SAMPLED_AT_ONCE = 50


@dataclass(frozen=True)
class Inputs:
    """Inputs of a request, and the share of requests that have so many."""

    counts: tuple[int, ...]
    shares: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> Inputs:
        """``1:0.9,32:0.1``; ``1`` for one each; without shares all are equally frequent. Raises ``ValueError``."""
        found = [SHARES.fullmatch(part.strip()) for part in text.split(",")]
        weights = [float(each[2] or 1) if each else 0.0 for each in found]
        if not all(weights):
            raise ValueError(f"expected inputs of a request and their shares such as 1:0.9,32:0.1, got {text!r}")
        return cls(tuple(int(each[1]) for each in found if each), tuple(weight / sum(weights) for weight in weights))

    @property
    def mean(self) -> float:
        return sum(number * share for number, share in zip(self.counts, self.shares, strict=True))

    def drawn(self, seed: int) -> Iterator[int]:
        rng = np.random.default_rng(seed)
        while True:
            yield from rng.choice(self.counts, 1024, p=self.shares).tolist()


def parse_tokens(text: str) -> tuple[int, int]:
    """``16-128``, or ``64`` for all alike. Raises ``ValueError``."""
    found = RANGE.fullmatch(text)
    shortest, longest = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not SHORTEST <= shortest <= longest:
        raise ValueError(f"expected tokens of an input such as 16-128, from {SHORTEST} on, got {text!r}")
    return shortest, longest


def made_up(tokens: tuple[int, int], seed: int) -> Iterator[str]:
    """Chinese texts of so many tokens, [CLS] and [SEP] included, many short and some long; none comes twice."""
    rng = np.random.default_rng(seed)
    shortest, longest = tokens
    lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest + 1), RESTS)).astype(int) - SPECIAL_TOKENS - DISTINCT
    rests = [random_text(rng, length) for length in lengths]
    for i in count():
        yield number(i) + rests[i % RESTS]


def real(file: Path, seed: int) -> Iterator[str]:
    """The lines of ``file`` in random order; all come before one comes again. Raises ``ValueError`` where there is none."""
    texts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        raise ValueError(f"{file}: expected a text in each line, found none")
    rng = np.random.default_rng(seed)
    while True:
        yield from (texts[i] for i in rng.permutation(len(texts)))


def bodies(model: str, texts: Iterator[str], sizes: Iterator[int]) -> Iterator[bytes]:
    """In base64, as ``openai-python`` asks for vectors."""
    for size in sizes:
        body = {"model": model, "encoding_format": "base64", "input": list(islice(texts, size))}
        yield json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def mean_tokens(target: Target, texts: Sequence[str]) -> float:
    """Of one text, as the server counts and cuts them."""
    total = 0
    for begin in range(0, len(texts), SAMPLED_AT_ONCE):
        body = json.dumps({"input": texts[begin : begin + SAMPLED_AT_ONCE]}).encode()
        total += json.loads(target.post(body, "/tokenize"))["total_count"]
    return total / len(texts)
