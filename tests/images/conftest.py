"""The image for CPUs, built once by ``make image`` and run by podman."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import Podman, running_podman
from tests.support.debian import base_archive

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and podman need root here: sudo make test-images")
ROOT = Path(__file__).parents[2]
MODEL = "bge-small-zh-v1.5"
BASE = "localhost/debian-python:3.11"


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with running_podman(tmp_path_factory.mktemp("podman")) as podman:
        podman.run("import", "--change", "CMD=python3", str(base_archive(ROOT / "build/images")), BASE)
        yield podman


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the base's Python, whatever this one is."""
    out = tmp_path_factory.mktemp("bundles") / "image"
    target = ("--python-version", "3.11", "--platform", f"manylinux_2_34_{platform.machine()}")
    subprocess.run([sys.executable, "-m", "deploy.bundle", *target, "--out", str(out)], cwd=ROOT, check=True, timeout=300)
    return out


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """What is mounted at /models: a model of the name in the image's own command, which others than root may read."""
    folder = tmp_path_factory.mktemp("mounted") / "models"
    shutil.copytree(tiny_checkpoint, folder / MODEL, copy_function=shutil.copyfile)
    return folder


@pytest.fixture(scope="session")
def cpu_image(podman: Podman, bundle: Path) -> str:
    done = make_image(podman, bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def make_image(podman: Podman, bundle: Path) -> subprocess.CompletedProcess[str]:
    """As a user makes it; without layers to build on later, each of which would be a copy. Prints the image's id last."""
    options = (f"CONTAINERS={' '.join(podman.command)}", f"BUNDLE={bundle}", f"BASE={BASE}", "ARGS=--layers=false")
    # These tests may have been started by a make, whose own variables are not meant here.
    environment = {name: value for name, value in podman.environment.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "image", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
