"""What of a checkpoint's file stays in memory, and bfloat16's rounding."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from launcher.config.schema import Model
from launcher.engines.base import Batch
from launcher.engines.openvino.encoder import Encoder
from launcher.engines.openvino.weights import bfloat16_bits
from launcher.models.checkpoint import read_checkpoint

EXACT, NEAREST, TIES_TO_EVEN = (1.0, -2.5), (1.001, -3.14159), (1 + 2**-8, 1 + 3 * 2**-8)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_in_bfloat16_nothing_of_the_file_is_touched_after_loading(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    encoder = Encoder(read_checkpoint(folder, Model()), dtype="bfloat16", threads=1)
    encoder.encode(Batch(np.arange(3000, 3256, dtype=np.int32), np.array([200, 50, 6], np.int32)))
    assert resident_kb(folder / "model.safetensors") == 0


def resident_kb(file: Path) -> int:
    mapped = re.search(re.escape(f" {file}") + r"\n(?:\w+: .*\n)*?Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text())
    assert mapped
    return int(mapped[1])


def test_rounding_to_bfloat16_is_to_the_nearest():
    numbers = np.array([*EXACT, *NEAREST, *TIES_TO_EVEN, 0.0, 1e-38, 3e38], np.float32)
    rounded = (bfloat16_bits(numbers).astype(np.uint32) << 16).view(np.float32)
    assert rounded[:2].tolist() == [*EXACT]
    assert rounded[4:6].tolist() == [1.0, 1 + 2**-6]
    assert np.abs(rounded / np.where(numbers, numbers, 1) - (numbers != 0)).max() <= 2**-8
