"""The whole engine on a real SGLang server, on the CPU; the same server for every test of this file."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio

pytest.importorskip("sglang", reason="needs the sglang extra")

import torch
from safetensors.numpy import load_file, save_file
from torch.nn.functional import normalize
from transformers import AutoModel

from launcher.engines.base import Batch, Vectors
from launcher.engines.sglang.argv import WorkerSpec
from launcher.engines.sglang.engine import SglangEngine
from launcher.errors import EngineError, WorkerDied
from launcher.supervisor.supervisor import Supervisor, worker_names
from launcher.supervisor.worker import Upkeep
from launcher.telemetry.counts import WorkerCounts
from launcher.telemetry.processes import ProcessMetrics
from launcher.telemetry.registry import Registry
from launcher.telemetry.tracing import TracedBatch, Tracer
from tests.support.checkpoints import write_checkpoint
from tests.support.evil import add_code
from tests.support.spans import Kept

pytestmark = [pytest.mark.sglang, pytest.mark.asyncio(loop_scope="module")]

START_TIMEOUT_S = 240.0
MAX_BATCH_TOKENS = 4096
SCHEDULER_RSS_BYTES, WORKER_RSS_BYTES = 2.0e9, 3.0e9
CLS, SEP = 101, 102
CODE_RAN = "code-ran"
Text = list[int]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Wide, so that the vectors of different texts differ.
    folder = write_checkpoint(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.2)
    return add_code(folder, folder.parent / CODE_RAN)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The server's private one, with a path short enough for sockets."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture(scope="module")
def said() -> Iterator[list[str]]:
    """What the supervisor logs, at every level."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, listener = logging.getLogger("launcher.supervisor"), Listener()
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.removeHandler(listener)
    logger.setLevel(logging.NOTSET)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(checkpoint: Path, folder: Path, said: list[str]) -> AsyncIterator[SglangEngine]:
    made = SglangEngine(max_batch_tokens=MAX_BATCH_TOKENS, workers=1)
    ready = asyncio.Event()
    running = asyncio.create_task(supervisor_of(checkpoint, made, folder).run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert workers() == []


def spec_of(folder: Path) -> WorkerSpec:
    # At this level SGLang prints its settings.
    talkative = ("--log-level", "info")
    return WorkerSpec(model_folder=folder, dtype="float32", device="cpu", pooling="cls", metrics=True, extra_args=talkative)


def supervisor_of(checkpoint: Path, engine: SglangEngine, folder: Path) -> Supervisor:
    upkeep = Upkeep(
        engine=engine,
        self_test=one_text,
        canary=batch_of([[CLS, SEP]]),
        hooks=ProcessMetrics(Registry(), worker_names(1)),
        start_timeout_s=START_TIMEOUT_S,
        hang_timeout_s=60.0,
    )
    return Supervisor([spec_of(checkpoint)], upkeep, folder)


async def one_text(run: Callable[[Batch], Awaitable[Vectors]]) -> None:
    await run(batch_of([[CLS, SEP]]))


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "sglang.launch_server" in child.cmdline()]


def key_of(worker: psutil.Process) -> str:
    return worker.environ()["SGLEMBED_KEY"]


async def ask_sglang(method: str, path: str, body: dict[str, object], key: str | None) -> int:
    """The status of a request to the worker's own HTTP API."""
    (process,) = workers()
    port = process.cmdline()[process.cmdline().index("--port") + 1]
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    content = None if method == "GET" else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, headers, method=method)
    try:
        answer = await asyncio.to_thread(urllib.request.urlopen, request, timeout=30)
    except urllib.error.HTTPError as error:
        return error.code
    return int(answer.status)


def batch_of(texts: list[Text]) -> Batch:
    ids = np.concatenate([np.array(text, np.int32) for text in texts])
    return Batch(ids, np.array([len(text) for text in texts], np.int32))


def random_texts(lengths: list[int], seed: int) -> list[Text]:
    """From few words each, which keeps their vectors apart."""
    rng = np.random.default_rng(seed)
    return [[CLS, *rng.choice(rng.integers(104, 21000, 6), length - 1).tolist()] for length in lengths]


def batches_of(texts: list[Text]) -> Iterator[list[Text]]:
    """Cut where the token budget ends, as the gateway does."""
    taken: list[Text] = []
    for text in texts:
        if sum(map(len, taken)) + len(text) > MAX_BATCH_TOKENS:
            yield taken
            taken = []
        taken.append(text)
    yield taken


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Callable[[list[Text]], np.ndarray]:
    """CLS vectors of transformers in float32; texts of one length go through it together, which needs no padding."""
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def vectors(texts: list[Text]) -> np.ndarray:
        rows = np.empty((len(texts), model.config.hidden_size), np.float32)
        for length in {len(text) for text in texts}:
            places = [i for i, text in enumerate(texts) if len(text) == length]
            with torch.no_grad():
                hidden = model(torch.tensor([texts[i] for i in places])).last_hidden_state
            rows[places] = normalize(hidden[:, 0], dim=-1).numpy()
        return rows

    return vectors


def least_cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float((left * right).sum(-1).min())


async def test_texts_of_1_to_512_tokens_equal_transformers(
    engine: SglangEngine, reference: Callable[[list[Text]], np.ndarray]
) -> None:
    texts = random_texts([16, 1, 512, 2, 33, 3, 511, 100, 400, 16], seed=1)
    expected = reference(texts)
    assert (expected @ expected.T)[~np.eye(len(texts), dtype=bool)].max() < 0.95
    vectors = await engine.run(batch_of(texts))
    assert vectors.dtype == np.float32
    assert least_cosine(vectors, expected) >= 0.9999


async def test_of_a_traced_batch_the_worker_says_when_it_computed_it(engine: SglangEngine) -> None:
    kept = Kept()
    trace = Tracer(kept, sample=1, scheme="http").begin([], "/v1/embeddings", time.perf_counter())
    assert trace
    batch = batch_of([[CLS, 5, SEP], [CLS, SEP]])
    before = time.perf_counter_ns()
    await engine.run(replace(batch, trace=TracedBatch(kept, [trace], 2, 5)))
    after = time.perf_counter_ns()
    compute = kept.named("compute")
    assert compute.attributes["sgl_embed.worker"] == "worker 0"
    assert before < compute.began_ns - trace.epoch_ns < compute.ended_ns - trace.epoch_ns < after


async def test_2048_texts_in_concurrent_batches_equal_transformers(
    engine: SglangEngine, reference: Callable[[list[Text]], np.ndarray]
) -> None:
    lengths = np.random.default_rng(2).geometric(0.05, 2048).clip(1, 512).tolist()
    texts = random_texts(lengths, seed=3)
    batches = list(batches_of(texts))
    assert len(batches) > 5
    answers = await asyncio.gather(*(engine.run(batch_of(batch)) for batch in batches))
    assert least_cosine(np.concatenate(answers), reference(texts)) >= 0.9999


async def test_twice_the_same_is_the_same(engine: SglangEngine) -> None:
    # With SGLang's radix cache on, the second would be computed from what is left of the first.
    texts = random_texts([64, 64, 10], seed=4)
    texts[1] = texts[0][:60] + texts[1][60:]
    first, second = await engine.run(batch_of(texts)), await engine.run(batch_of(texts))
    assert least_cosine(first, second) > 0.99999


@pytest.mark.parametrize("length", [1, 512])
async def test_a_full_batch_is_admitted(
    engine: SglangEngine, reference: Callable[[list[Text]], np.ndarray], length: int
) -> None:
    texts = random_texts([length] * (MAX_BATCH_TOKENS // length), seed=5)
    assert least_cosine(await engine.run(batch_of(texts)), reference(texts)) >= 0.9999


@pytest.mark.parametrize("text", [[CLS, 21128, SEP], [CLS, -1, SEP], [CLS] * 513], ids=["too-large", "negative", "too-long"])
async def test_a_bad_text_is_refused_and_the_server_lives(engine: SglangEngine, text: Text) -> None:
    with pytest.raises(EngineError, match=r"not within the vocabulary|longer than"):
        await engine.run(batch_of([[CLS, 7, SEP], text]))
    assert (await engine.run(batch_of([[CLS, 7, SEP]]))).shape == (1, 128)


@pytest.mark.parametrize(
    ("ids", "status"),
    [([10, 11, 12], 200), ([0], 200), ([[CLS, SEP], [CLS]], 200), ([5, 99999999], 500), ([5, -1], 500)],
)
async def test_a_request_to_sglang_itself_does_no_harm(engine: SglangEngine, ids: list[object], status: int) -> None:
    """Such as its warm-up sends. An id outside the vocabulary would end the worker if it came to a kernel."""
    assert await ask_sglang("POST", "/encode", {"input_ids": ids}, key=key_of(*workers())) == status
    assert (await engine.run(batch_of([[CLS, 7, SEP]]))).shape == (1, 128)


@pytest.mark.parametrize("key", [None, "", "guessed"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/health_generate"),
        ("GET", "/model_info"),
        ("GET", "/server_info"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("OPTIONS", "/encode"),
        ("POST", "/encode"),
        ("POST", "/flush_cache"),
        ("POST", "/update_weights_from_disk"),
        ("POST", "/health/../flush_cache"),
    ],
)
async def test_without_the_key_of_this_start_sglang_answers_nothing(
    engine: SglangEngine, method: str, path: str, key: str | None
) -> None:
    assert await ask_sglang(method, path, {"input_ids": [0]}, key) == 401


async def test_what_sglang_counts_is_shown_with_the_workers_name(engine: SglangEngine, folder: Path) -> None:
    shown = {metric.name: metric for metric in WorkerCounts(folder).collect()}
    # Set before the model is called ready; others follow its first request.
    assert {"sglang:startup_time_seconds", "sglang:weight_memory_usage_gb"} <= set(shown)
    assert all(sample.labels["process"] == "worker 0" for metric in shown.values() for sample in metric.samples)
    assert sum(sample.value for sample in shown["sglang:startup_time_seconds"].samples) > 0


async def test_the_key_is_in_no_command_line_and_in_no_log(engine: SglangEngine, said: list[str]) -> None:
    (process,) = workers()
    key = key_of(process)
    assert len(key) == 64
    children = process.children(recursive=True)
    assert children
    assert not [child for child in children if key in " ".join([*child.cmdline(), *child.environ().values()])]
    assert key not in " ".join(process.cmdline())
    assert [line for line in said if "server_args=" in line and "<secret>" in line]
    assert not [line for line in said if key in line]


async def test_no_process_listens_beyond_this_machine(engine: SglangEngine) -> None:
    (process,) = workers()
    tree = [process, *process.children(recursive=True)]
    listening = [one.laddr.ip for each in tree for one in each.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert set(listening) == {"127.0.0.1"}


async def test_code_in_the_checkpoint_was_not_run(engine: SglangEngine, checkpoint: Path) -> None:
    assert "auto_map" in (checkpoint / "config.json").read_text()
    assert not (checkpoint.parent / CODE_RAN).exists()


async def test_a_small_model_takes_little_memory(engine: SglangEngine) -> None:
    await engine.run(batch_of(random_texts([512] * (MAX_BATCH_TOKENS // 512), seed=6)))
    (process,) = workers()
    sizes = {child.name(): child.memory_info().rss for child in process.children(recursive=True)}
    (scheduler,) = (size for name, size in sizes.items() if "scheduler" in name or "sglang::sche" in name)
    assert scheduler <= SCHEDULER_RSS_BYTES
    assert process.memory_info().rss + sum(sizes.values()) <= WORKER_RSS_BYTES


async def test_a_checkpoint_that_lacks_a_weight_ends_the_start_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="launcher.supervisor")
    broken = write_checkpoint(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with tempfile.TemporaryDirectory() as folder, pytest.raises(WorkerDied) as died:
        await supervisor_of(broken, SglangEngine(max_batch_tokens=64, workers=1), Path(folder)).run(lambda: None)
    told = time.time()
    reason = "lacks 1 weights, the first of them 'encoder.layer.1.output.dense.bias'"
    assert reason in died.value.log_tail
    (failed,) = (record.created for record in caplog.records if reason in record.getMessage())
    assert told - failed < 5.0
