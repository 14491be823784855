"""What is measured, and on whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

from benchmarks.bodies import Bodies, distinct_bodies, repeated_bodies
from benchmarks.models import MODELS

Kind = Literal["load", "repeated", "ingest"]

TINY_SERVERS = ("ours-openvino", "ours-sglang", "sglang-tuned", "sglang-stock", "infinity", "naive")
# In float16, SGLang's default, the large shape would take minutes a request on a CPU; in bfloat16 it is the tuned one.
LARGE_SERVERS = ("ours-openvino", "ours-sglang", "sglang-tuned", "infinity", "naive")
GPU_SERVERS = ("ours-sglang", "sglang-stock")
LOOP = "loop-openvino"
CACHED = "ours-openvino-cached"
# The longest text that SGLang takes of a model of 512 tokens: it keeps 7 back, and [CLS] and [SEP] are two.
LONGEST = 500


@dataclass(frozen=True, kw_only=True)
class Case:
    """``clients`` connections, each with one request of ``texts`` texts under way. ``seconds`` is one repetition."""

    model: str
    name: str
    title: str
    clients: int
    texts: int = 1
    characters: tuple[int, int] = (16, 16)
    contenders: tuple[str, ...]
    seconds: float = 2.0
    warmup_s: float = 1.0
    kind: Kind = "load"

    @property
    def timed(self) -> bool:
        """Whether requests are so slow that counting them is too coarse: each one's begin and end is noted then."""
        return self.model != "tiny" and self.clients <= 8

    def bodies(self) -> Bodies:
        """More than are ever under way at once, so that no contender sees a text twice at the same time."""
        if self.kind == "repeated":
            return repeated_bodies(8192, 1000, self.characters[0], seed=1)
        return distinct_bodies(max(4 * self.clients, 2048 // self.texts), self.texts, self.characters, seed=1)


CASES = (
    Case(model="tiny", name="1x1", title="1 client, 1 short text", clients=1, contenders=(LOOP, *TINY_SERVERS), seconds=4),
    Case(model="tiny", name="32x1", title="32 clients, 1 short text", clients=32, contenders=TINY_SERVERS, seconds=4),
    Case(model="tiny", name="256x1", title="256 clients, 1 short text", clients=256, contenders=TINY_SERVERS),
    Case(
        model="tiny", name="8x32", title="8 clients, 32 short texts", clients=8, texts=32, seconds=4,
        contenders=(LOOP, *TINY_SERVERS),
    ),
    Case(
        model="tiny", name="4x8-64", title="4 clients, 8 texts of 64 characters", clients=4, texts=8,
        characters=(64, 64), contenders=TINY_SERVERS,
    ),
    Case(
        model="tiny", name="4x8-500", title=f"4 clients, 8 texts of {LONGEST} characters", clients=4, texts=8,
        characters=(LONGEST, LONGEST), contenders=TINY_SERVERS, seconds=4,
    ),
    Case(
        model="tiny", name="mixed", title=f"8 clients, 4 texts of 8 to {LONGEST} characters", clients=8, texts=4,
        characters=(8, LONGEST), contenders=TINY_SERVERS,
    ),
    Case(
        model="tiny", name="repeated", title="32 clients, 1 of 1,000 texts, by Zipf's law", clients=32, kind="repeated",
        contenders=("ours-openvino", CACHED),
    ),
    Case(
        model="large", name="1x1", title="1 client, 1 short text", clients=1, contenders=(LOOP, *LARGE_SERVERS), seconds=4,
    ),
    Case(
        model="large", name="4x8-64", title="4 clients, 8 texts of 64 characters", clients=4, texts=8,
        characters=(64, 64), contenders=(LOOP, *LARGE_SERVERS), seconds=16, warmup_s=2,
    ),
    Case(
        model="large", name="repeated", title="32 clients, 1 of 1,000 texts, by Zipf's law", clients=32, kind="repeated",
        contenders=("ours-openvino", CACHED), seconds=6, warmup_s=10,
    ),
    Case(
        model="large", name="ingest", title="1 short text beside a request of 2048", clients=1, kind="ingest",
        contenders=("ours-openvino", "ours-sglang", "sglang-tuned", "infinity"), seconds=30,
    ),
)  # fmt: skip


def gpu_cases(model: str, *contenders: str, long_texts: int = 64) -> tuple[Case, ...]:
    """A query is 16 tokens here. Long texts are too, for SGLang's sake, ``LONGEST`` characters and not 510."""
    query = (14, 14)
    return (
        Case(
            model=model, name="1x1", title="1 client, 1 text of 16 tokens", clients=1, characters=query,
            contenders=contenders, seconds=4,
        ),
        Case(
            model=model, name="32x1", title="32 clients, 1 text of 16 tokens", clients=32, characters=query,
            contenders=contenders, seconds=4,
        ),
        Case(
            model=model, name="8x256", title="8 clients, 256 texts of 16 tokens", clients=8, texts=256, characters=query,
            contenders=contenders, seconds=8, warmup_s=2,
        ),
        Case(
            model=model, name=f"8x{long_texts}-500", title=f"8 clients, {long_texts} texts of {LONGEST} characters", clients=8,
            texts=long_texts, characters=(LONGEST, LONGEST), contenders=contenders, seconds=8, warmup_s=2,
        ),
    )  # fmt: skip


SUITES = {
    "cpu": CASES,
    "gpu": (*gpu_cases("gpu-float16", *GPU_SERVERS), *gpu_cases("gpu-bfloat16", *GPU_SERVERS)),
    # On a CPU it takes the tuned one's flags to start SGLang without chunks, and with chunks its vectors are wrong here.
    "gpu-rehearsal": gpu_cases("rehearsal", "ours-sglang", "sglang-tuned", long_texts=8),
}
ALL_CASES = tuple(case for cases in SUITES.values() for case in cases)


def needs_gpu(cases: Iterable[Case]) -> bool:
    return any(MODELS[case.model].device == "cuda" for case in cases)


def selected(only: Iterable[str], cases: Iterable[Case] = CASES) -> list[tuple[Case, str]]:
    """Pairs of case and contender. Each of ``only`` narrows it to names "model/case/contender" that contain it.

    "tiny", "32x1", "infinity", "large/1x1/ours-*"; a comma in it means "or".
    """
    return [
        (case, contender)
        for case in cases
        for contender in case.contenders
        if all(_named(f"{case.model}/{case.name}/{contender}", pattern) for pattern in only)
    ]


def _named(name: str, patterns: str) -> bool:
    return any(fnmatch(f"/{name}/", f"*/{pattern}/*") for pattern in patterns.split(","))
