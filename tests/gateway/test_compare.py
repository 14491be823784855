"""``sgl-embed compare`` against real servers: same vectors, other vectors, other sizes, no server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import TINY, write_checkpoint
from tests.support.server import RunningServer, running_server

KEY = "a-key-of-this-test"


def compare(old: str, new: str, *arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "launcher", "compare", old, new, *arguments)
    environment = {**os.environ, "SGL_EMBED_API_KEY": key or ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture(scope="module")
def same_weights_other_length(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """The fingerprint differs, and so do vectors of texts beyond the limit."""
    arguments = ("--model", str(tiny_checkpoint), "--engine", "openvino", "--set", "engine.dtype=float32")
    keys = {"SGL_EMBED_API_KEYS": f"test:{KEY}"}
    with running_server(*arguments, "--set", "model.max_tokens=256", environment=keys) as server:
        yield server


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = write_checkpoint(tmp_path_factory.mktemp("models") / "tiny-zh", TINY, seed=11)
    with running_server("--model", str(folder), "--engine", "openvino", "--set", "engine.dtype=float32") as server:
        yield server


def test_a_server_agrees_with_itself(openvino_server: RunningServer) -> None:
    done = compare(openvino_server.base_url, openvino_server.base_url + "/")
    assert done.returncode == 0, done.stderr
    assert "same fingerprint" in done.stdout


def test_other_weights_of_the_same_name_must_not_be_mixed(openvino_server: RunningServer, other_weights: RunningServer) -> None:
    done = compare(openvino_server.base_url, other_weights.base_url)
    assert done.returncode == 1, done.stderr
    assert "must not be mixed" in done.stdout


def test_another_limit_of_length_shows_and_keys_are_sent(
    openvino_server: RunningServer, same_weights_other_length: RunningServer
) -> None:
    done = compare(openvino_server.base_url, same_weights_other_length.base_url, key=KEY)
    assert done.returncode == 1, done.stderr
    (cosine,) = re.findall(r"a cosine of (\S+)", done.stdout)
    enough = ("--min-cosine", str(float(cosine) - 1e-4))
    assert compare(openvino_server.base_url, same_weights_other_length.base_url, *enough, key=KEY).returncode == 0
    refused = compare(openvino_server.base_url, same_weights_other_length.base_url)
    assert refused.returncode == 5
    assert "401" in refused.stderr and "Traceback" not in refused.stderr


def test_a_server_that_is_not_there_is_named(openvino_server: RunningServer) -> None:
    done = compare(openvino_server.base_url, "http://127.0.0.1:1")
    assert done.returncode == 5
    assert "http://127.0.0.1:1/v1/models" in done.stderr and "Traceback" not in done.stderr
