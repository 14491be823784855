"""Over HTTP, each engine gives the vectors and the token counts that sentence-transformers gives in float32."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support import texts
from tests.support.reference import Reference, cosine
from tests.support.server import RunningServer, running_server


@dataclass(frozen=True)
class Served:
    """A server, the reference for its checkpoint, and how near the two must be."""

    base_url: str
    model: str
    reference: Reference
    min_cosine: float

    def embed(self, inputs: list[str]) -> tuple[np.ndarray, int]:
        body = {"model": self.model, "input": inputs}
        reply = httpx.post(f"{self.base_url}/v1/embeddings", json=body, timeout=300)
        assert reply.status_code == 200, reply.text
        vectors = np.array([item["embedding"] for item in reply.json()["data"]], np.float32)
        return vectors, reply.json()["usage"]["prompt_tokens"]

    def assert_equal(self, inputs: list[str], vectors: np.ndarray, expected: np.ndarray) -> None:
        cosines = cosine(vectors, expected)
        worst = int(cosines.argmin())
        assert cosines[worst] >= self.min_cosine, f"{cosines[worst]} for {inputs[worst][:40]!r}"


@pytest.fixture(scope="module")
def minilm_on_sglang(minilm_folder: Path) -> Iterator[RunningServer]:
    """Real weights, mean pooling and half precision at once, since each SGLang server costs half a minute."""
    arguments = ("--model", str(minilm_folder), "--engine", "sglang", "--set", "model.name=all-MiniLM-L6-v2")
    with running_server(*arguments, "--set", "engine.dtype=bfloat16", timeout_s=480) as server:
        yield server


def case(server: str, folder: str, min_cosine: float, *marks: pytest.MarkDecorator) -> object:
    return pytest.param((server, folder, min_cosine), id=f"{server}-{min_cosine}", marks=marks)


@pytest.fixture(
    scope="module",
    params=[
        case("openvino_server", "tiny_checkpoint", 0.9999),
        case("sglang_server", "tiny_checkpoint", 0.9999, pytest.mark.sglang),
        case("minilm_server", "minilm_folder", 0.999),
        case("minilm_on_sglang", "minilm_folder", 0.999, pytest.mark.sglang),
    ],
)
def served(request: pytest.FixtureRequest) -> Served:
    server, folder, min_cosine = request.param
    base_url = request.getfixturevalue(server).base_url
    model = httpx.get(f"{base_url}/v1/models").json()["data"][0]["id"]
    return Served(base_url, model, Reference(request.getfixturevalue(folder)), min_cosine)


@pytest.fixture(scope="module")
def corpus(served: Served) -> list[str]:
    return texts.corpus(served.reference.max_tokens)


@pytest.fixture(scope="module")
def expected(served: Served, corpus: list[str]) -> np.ndarray:
    return served.reference.vectors(corpus)


def test_different_texts_have_different_vectors(served: Served) -> None:
    """Else parity would prove nothing."""
    vectors = served.reference.vectors(texts.SENTENCES)
    assert (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)].max() < 0.95


def test_each_text_alone_from_many_clients(served: Served, corpus: list[str], expected: np.ndarray) -> None:
    """Sixteen at once, so that the server packs texts of different callers together."""
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda text: served.embed([text]), corpus))
    served.assert_equal(corpus, np.concatenate([vectors for vectors, _ in replies]), expected)
    assert [tokens for _, tokens in replies] == served.reference.token_counts(corpus)


def test_the_corpus_in_one_request_twice(served: Served, corpus: list[str], expected: np.ndarray) -> None:
    for _ in range(2):
        vectors, tokens = served.embed(corpus)
        served.assert_equal(corpus, vectors, expected)
        assert tokens == sum(served.reference.token_counts(corpus))


def test_2048_mixed_texts_in_one_request(served: Served) -> None:
    """The full 2048 on the two-layer model; MiniLM's six layers would take minutes in the reference."""
    size = 2048 if served.min_cosine > 0.999 else 256
    inputs = texts.mixed_batch(size, served.reference.max_tokens, seed=7)
    vectors, _ = served.embed(inputs)
    served.assert_equal(inputs, vectors, served.reference.vectors(inputs))


def test_shared_prefixes_in_either_order(served: Served) -> None:
    inputs = [*texts.sharing_a_prefix(), *reversed(texts.sharing_a_prefix())]
    vectors, _ = served.embed(inputs)
    served.assert_equal(inputs, vectors, served.reference.vectors(inputs))
