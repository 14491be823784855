"""The light bundle is gathered from the package index, then installed without one, by its own instructions, and served."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.reference import Reference, cosine
from tests.support.server import running_server

ROOT = Path(__file__).parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TEXTS = ["今天天气真好", "明天会下雨吗"]
# No index, no folder of wheels but the bundle's, and nothing of this checkout.
ALONE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": ""}

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "light"
    options = ("--python-version", PYTHON, "--platform", "manylinux_2_34_x86_64", "--model", str(tiny_checkpoint))
    command = [sys.executable, "-m", "deploy.bundle", *options, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return out


@pytest.fixture(scope="module")
def commands(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The instructions' indented lines, for a folder that anybody may write to."""
    prefix = tmp_path_factory.mktemp("installed")
    text = (bundle / "INSTALL.txt").read_text(encoding="utf-8").replace("/opt/sgl-embed", str(prefix))
    return re.findall(r"^ {4}(.*)$", text, re.MULTILINE)


def run(command: str, bundle: Path) -> str:
    environment = {**os.environ, **ALONE, "PATH": f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=bundle, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_wheels_and_the_models_needed_files_and_all_are_summed(bundle: Path) -> None:
    kinds = {path.suffix for path in (bundle / "wheels").iterdir()}
    assert kinds == {".whl"}
    assert (bundle / "models/tiny-zh/model.safetensors").exists()
    assert (bundle / "models/tiny-zh/1_Pooling/config.json").exists()
    summed = {line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    held = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert summed == held - {"SHA256SUMS"}


def test_by_its_instructions_it_is_installed_without_an_index_and_serves(
    bundle: Path, commands: list[str], tiny_checkpoint: Path
) -> None:
    *install, plan, serve = commands
    for command in install:
        run(command, bundle)
    assert "name: tiny-zh" in run(plan, bundle)

    program, _, arguments = serve.partition(" serve ")
    model = arguments.replace("models/", f"{bundle}/models/").split()
    with running_server(*model, environment=ALONE, program=[program]) as server:
        body = {"model": "tiny-zh", "input": TEXTS}
        reply = httpx.post(f"{server.base_url}/v1/embeddings", json=body, timeout=60).json()
    vectors = np.array([item["embedding"] for item in reply["data"]], np.float32)
    assert cosine(vectors, Reference(tiny_checkpoint).vectors(TEXTS)).min() >= 0.999
