"""``python -m benchmarks.capacity`` on a real server, for so short that its figures mean nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RunningServer, running_server

QUICK = ("--seconds", "3", "--max-clients", "2", "--max-p95-ms", "5000")


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    environment = {"SGL_EMBED_API_KEYS": "bench:sk-1"}
    with running_server("--model", str(tiny_checkpoint), "--engine", "openvino", environment=environment) as server:
        yield server


def capacity(*arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.capacity", *QUICK, *arguments],
        env={**os.environ, "SGL_EMBED_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_server_that_runs_is_measured_with_real_texts(server: RunningServer, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    # Eight characters, [CLS] and [SEP].
    texts.write_text("今天天气真好啊吗\n明天会不会下雨呢\n", encoding="utf-8")
    done = capacity(
        "--url", f"{server.base_url}/v1", "--texts", str(texts), "--inputs", "2", "--peak-qps", "100000", key="sk-1"
    )
    assert done.returncode == 0, done.stderr
    assert "Requests of 2.00 inputs and 20.0 tokens on average." in done.stdout
    assert re.search(r"^\| 2( \*\*knee\*\*)? \| \d", done.stdout, re.MULTILINE)
    assert re.search(r"^  threshold of offered-qps +[\d.]+ +0.65 of ", done.stdout, re.MULTILINE)
    assert "--to-qps 100000" in done.stdout


def test_one_is_started_with_a_configuration(tiny_checkpoint: Path) -> None:
    done = capacity("--config", "configs/local.yaml", "--set", f"model.id={tiny_checkpoint}", "--tokens", "16")
    assert done.returncode == 0, done.stderr
    assert "Requests of 1.35 inputs and 21.6 tokens on average." in done.stdout


def test_what_is_wrong_is_said(server: RunningServer) -> None:
    refused = capacity("--url", server.base_url, key="wrong")
    assert refused.returncode == 1
    assert refused.stderr.startswith("capacity: status 401: ")
    assert capacity("--url", "http://127.0.0.1:1").stderr == "capacity: [Errno 111] Connection refused\n"
    assert "expected an address such as http://127.0.0.1:30000" in capacity("--url", "127.0.0.1").stderr
    assert "argument --tokens: expected tokens of an input such as 16-128" in capacity("--url", "x", "--tokens", "3").stderr
