"""Over HTTP, each engine gives the vectors and the token counts that sentence-transformers gives in float32."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.support import processes, texts
from tests.support.checkpoints import BGE_LARGE, write_checkpoint
from tests.support.reference import Reference, cosine
from tests.support.server import RunningServer, running_server

SGLANG_0_5_17 = Path(__file__).parents[2] / "build/sglang-0.5.17/bin/python"
VERSIONS = "from importlib.metadata import version; print(version('sglang'), version('torch'))"


Start = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[RunningServer]]


@dataclass(frozen=True)
class Case:
    """``folder`` is a fixture, ``texts`` as many in one request as the reference can do in time."""

    name: str
    start: Start
    folder: str
    min_cosine: float
    texts: int = 2048
    reference_device: str = "cpu"


@dataclass(frozen=True)
class Served:
    """A server, the reference for its checkpoint, and how near the two must be."""

    server: RunningServer
    model: str
    reference: Reference
    case: Case

    def embed(self, inputs: list[str]) -> tuple[np.ndarray, int]:
        body = {"model": self.model, "input": inputs}
        reply = httpx.post(f"{self.server.base_url}/v1/embeddings", json=body, timeout=300)
        assert reply.status_code == 200, reply.text
        vectors = np.array([item["embedding"] for item in reply.json()["data"]], np.float32)
        return vectors, reply.json()["usage"]["prompt_tokens"]

    def assert_equal(self, inputs: list[str], vectors: np.ndarray, expected: np.ndarray) -> None:
        cosines = cosine(vectors, expected)
        worst = int(cosines.argmin())
        assert cosines[worst] >= self.case.min_cosine, f"{cosines[worst]} for {inputs[worst][:40]!r}"


def shared(fixture: str) -> Start:
    """A server that other tests use too."""
    return lambda request, folder: nullcontext(request.getfixturevalue(fixture))


def on_sglang(dtype: str, *arguments: str) -> Start:
    """A server of its own, which ends before the next starts."""
    given = ("--engine", "sglang", "--set", f"engine.dtype={dtype}", "--set", "model.name=served", *arguments)
    return lambda request, folder: running_server("--model", str(folder), *given, timeout_s=480)


def on_sglang_0_5_17(request: pytest.FixtureRequest, folder: Path) -> AbstractContextManager[RunningServer]:
    """Only the worker runs there: the gateway is this environment's."""
    if not SGLANG_0_5_17.exists():
        pytest.skip("SGLang 0.5.17 is not in build/: make test puts it there")
    done = subprocess.run([SGLANG_0_5_17, "-c", VERSIONS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.5.17", "2.11.0"]
    return on_sglang("float32", "--set", f"engine.sglang.python={SGLANG_0_5_17}")(request, folder)


def on_cuda(dtype: str) -> Start:
    return on_sglang(dtype, "--num-gpus", "1")


@pytest.fixture(scope="module")
def bge_large_shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "bge-large-shape", BGE_LARGE, initializer_range=0.05)


ANYWHERE = (
    Case("openvino", shared("openvino_server"), "tiny_checkpoint", 0.9999),
    Case("two-processes", shared("two_process_server"), "tiny_checkpoint", 0.9999),
    Case("openvino-minilm", shared("minilm_server"), "minilm_folder", 0.999, texts=256),
)
SGLANG = (
    Case("sglang", shared("sglang_server"), "tiny_checkpoint", 0.9999),
    Case("sglang-0.5.17", on_sglang_0_5_17, "tiny_checkpoint", 0.9999),
    # Real weights, mean pooling and half precision at once, since each SGLang server costs half a minute.
    Case("sglang-minilm", on_sglang("bfloat16"), "minilm_folder", 0.999, texts=256),
)
CUDA = (
    Case("cuda-float16", on_cuda("float16"), "bge_large_shape", 0.9999, reference_device="cuda"),
    # What 24 random layers leave of bfloat16: transformers itself is at 0.9988 (docs/performance.md).
    Case("cuda-bfloat16", on_cuda("bfloat16"), "bge_large_shape", 0.998, reference_device="cuda"),
    Case("cuda-minilm", on_cuda("float16"), "minilm_folder", 0.999, reference_device="cuda"),
)


def params(cases: Iterable[Case], *marks: pytest.MarkDecorator) -> list[object]:
    return [pytest.param(case, id=case.name, marks=marks) for case in cases]


@pytest.fixture(
    scope="module",
    params=[
        *params(ANYWHERE),
        *params(SGLANG, pytest.mark.sglang),
        *params(CUDA, pytest.mark.sglang, pytest.mark.gpu),
    ],
)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    case: Case = request.param
    folder = request.getfixturevalue(case.folder)
    with case.start(request, folder) as server:
        model = httpx.get(f"{server.base_url}/v1/models").json()["data"][0]["id"]
        yield Served(server, model, Reference(folder, case.reference_device), case)


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


def test_one_text_after_another_of_all_lengths(served: Served) -> None:
    """Alone, so that each is a batch; a GPU has small ones in CUDA graphs, where a longer text leaves its rest behind."""
    inputs = texts.of_all_lengths(served.reference.max_tokens)
    inputs = [*reversed(inputs), *inputs]
    vectors = np.concatenate([served.embed([text])[0] for text in inputs])
    served.assert_equal(inputs, vectors, served.reference.vectors(inputs))


def test_many_mixed_texts_in_one_request(served: Served) -> None:
    inputs = texts.mixed_batch(served.case.texts, served.reference.max_tokens, seed=7)
    vectors, _ = served.embed(inputs)
    served.assert_equal(inputs, vectors, served.reference.vectors(inputs))


def test_shared_prefixes_in_either_order(served: Served) -> None:
    inputs = [*texts.sharing_a_prefix(), *reversed(texts.sharing_a_prefix())]
    vectors, _ = served.embed(inputs)
    served.assert_equal(inputs, vectors, served.reference.vectors(inputs))


@pytest.mark.parametrize("served", params(SGLANG, pytest.mark.sglang), indirect=True, scope="module")
def test_the_worker_itself_answers_nobody_else(served: Served) -> None:
    """What has it ask for a secret reaches into SGLang, which differs from version to version."""
    (worker,) = processes.workers(served.server)
    port = worker.cmdline()[worker.cmdline().index("--port") + 1]
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 401
    tree = [worker, *worker.children(recursive=True)]
    listening = [one.laddr.ip for each in tree for one in each.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert set(listening) == {"127.0.0.1"}
