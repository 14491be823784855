"""``make gpu-check`` and ``make bench-gpu`` fail where there is no GPU, and the check runs all that is marked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Loads the hooks of tests/conftest.py on a machine that seems to have a GPU.
PRETENDING = """
from tests import conftest
conftest.visible_gpus = lambda environment: ("0",)
from tests.conftest import pytest_addoption, pytest_collection_modifyitems, pytest_configure, pytest_sessionfinish
"""
TESTS = """
import pytest
pytestmark = pytest.mark.gpu
def test_that_runs(): pass
def test_that_may_not_run():
    if {skips}: pytest.skip("CUDA is broken")
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """In the checkout, where no GPU is visible."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    # Of a make that runs these tests.
    environment.pop("MAKEFLAGS", None)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("target", ["gpu-check", "bench-gpu"])
def test_without_a_gpu_the_target_fails_and_says_why(target: str) -> None:
    if target == "bench-gpu" and shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    done = run("make", target, f"GPU_PYTHON={sys.executable}", "ARGS=")
    assert done.returncode != 0
    assert "no NVIDIA GPU is visible" in done.stderr


@pytest.mark.parametrize(("skips", "status"), [(True, 1), (False, 0)], ids=["one-skips", "all-run"])
def test_a_skipped_test_is_no_passed_one(tmp_path: Path, skips: bool, status: int) -> None:
    (tmp_path / "conftest.py").write_text(PRETENDING)
    (tmp_path / "test_on_gpu.py").write_text(TESTS.format(skips=skips))
    arguments = ("-p", "no:cacheprovider", "-m", "gpu", "--require-gpu")
    done = run(sys.executable, "-m", "pytest", *arguments, str(tmp_path))
    assert done.returncode == status, done.stdout + done.stderr
    assert ("counts as failed" in done.stdout) is skips


def test_the_target_runs_every_file_with_tests_for_a_gpu() -> None:
    (listed,) = re.findall(r"^GPU_TESTS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    assert set(listed.split()) == {path.relative_to(ROOT).as_posix() for path in marked} - {"tests/unit/test_gpu_check.py"}
