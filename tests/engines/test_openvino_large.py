"""bge-large-zh-v1.5's real shape on OpenVINO, with random weights: parity, and memory in a process of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from launcher.config.schema import Model
from launcher.embedding.tokens import Tokenizer
from launcher.engines.base import Batch, Vectors
from launcher.engines.openvino.engine import OpenVinoEngine
from launcher.models.checkpoint import read_checkpoint
from tests.engines.test_openvino_parity import DTYPES, MIN_COSINE
from tests.support import texts
from tests.support.checkpoints import BGE_LARGE, write_checkpoint
from tests.support.reference import Reference, cosine

# Few, because each costs the reference seconds on two cores.
SHORT = [*texts.SENTENCES[:6], texts.ODDITIES["literal special tokens"]]
MEDIUM, OVER_LONG = texts.of_tokens(100), texts.over_long(512)[0]
TEXTS = [*SHORT, MEDIUM, OVER_LONG]
WEIGHTS_MB = {"float32": 1302, "bfloat16": 651}
# The linear layers' 302 million weights, and the tables of vectors, which stay in float32.
INT8_WEIGHTS_MB = 302 + 89
MEMORY_ON_TOP_MB = 400
INT8_MEMORY_ON_TOP_MB = 250
# What serving does after the start: a short text alone, a full one, and a batch.
MEASURE_MEMORY = """
import asyncio, sys
from pathlib import Path
import numpy as np
from launcher.config.schema import Model
from launcher.engines.base import Batch
from launcher.engines.openvino.engine import OpenVinoEngine
from launcher.models.checkpoint import read_checkpoint

async def main(folder, dtype, weights):
    checkpoint = read_checkpoint(Path(folder), Model())
    engine = OpenVinoEngine(checkpoint, dtype=dtype, weights=weights, threads=0, max_batch_tokens=4096)
    await engine.start()
    for lengths in ([16], [512], [64, 100, 7, 30] * 4):
        await engine.run(Batch(np.full(sum(lengths), 1000, np.int32), np.array(lengths, np.int32)))
    (memory,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS:"))
    assert "torch" not in sys.modules
    print(int(memory.split()[1]) // 1024)
    await engine.stop()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("models") / "bge-large-shape"
    yield write_checkpoint(folder, BGE_LARGE, initializer_range=0.05)
    # 1.3 GB that pytest would keep for three runs.
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def expected(folder: Path) -> Vectors:
    reference = Reference(folder)
    # In one batch all would be padded to the longest.
    short, medium, over_long = (reference.vectors(batch) for batch in (SHORT, [MEDIUM], [OVER_LONG]))
    assert (short @ short.T)[~np.eye(len(short), dtype=bool)].max() < 0.95, "parity would prove nothing"
    return np.concatenate([short, medium, over_long])


@pytest.mark.parametrize("dtype", DTYPES)
def test_parity(folder: Path, expected: Vectors, dtype: str) -> None:
    checkpoint = read_checkpoint(folder, Model())
    tokenizer = Tokenizer(folder, checkpoint.max_tokens, checkpoint.shape.vocab_size)
    ids = [item.ids for item in tokenizer.encode(TEXTS, "end")]
    assert max(map(len, ids)) == 512

    async def encode() -> Vectors:
        engine = OpenVinoEngine(checkpoint, dtype=dtype, threads=0, max_batch_tokens=4096)
        await engine.start()
        vectors = await engine.run(Batch(np.concatenate(ids), np.array([len(i) for i in ids], np.int32)))
        await engine.stop()
        return vectors

    cosines = cosine(asyncio.run(encode()), expected)
    assert cosines.min() >= MIN_COSINE[dtype], cosines


@pytest.fixture(scope="module")
def folder_in_half_the_size(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same model stored in float16, as many are published."""
    smaller = tmp_path_factory.mktemp("models") / "bge-large-shape-fp16"
    shutil.copytree(folder, smaller, ignore=shutil.ignore_patterns("*.safetensors"))
    halves = {name: tensor.astype(np.float16) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, smaller / "model.safetensors", metadata={"format": "pt"})
    yield smaller
    shutil.rmtree(smaller)


def memory_mb(folder: Path, dtype: str, weights: str) -> int:
    command = [sys.executable, "-c", MEASURE_MEMORY, str(folder), dtype, weights]
    measured = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert measured.returncode == 0, measured.stderr
    return int(measured.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["folder", "folder_in_half_the_size"])
def test_memory(request: pytest.FixtureRequest, stored: str, dtype: str) -> None:
    """The weights once in the precision they run in, and a little, however they are stored."""
    assert memory_mb(request.getfixturevalue(stored), dtype, "dtype") <= WEIGHTS_MB[dtype] + MEMORY_ON_TOP_MB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_with_int8_weights(folder: Path, dtype: str) -> None:
    """Kept as they are: OpenVINO does not widen them again, and the float32 ones they were made of are gone."""
    assert memory_mb(folder, dtype, "int8") <= INT8_WEIGHTS_MB + INT8_MEMORY_ON_TOP_MB
