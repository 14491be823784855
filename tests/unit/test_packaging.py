"""The requirement files install the same everywhere, and the light set stays light."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SGLANG = ("0.5.17", "0.5.23")
LOCKS = sorted(path.name for path in (ROOT / "requirements").glob("*.txt"))
# What an index, a mirror or a machine's own folder would look like.
ADDRESS = re.compile(r"://|^\s*-|\s@\s|index-url|find-links|trusted-host", re.MULTILINE)
HEAVY = {"torch", "sglang", "sglang-kernel", "transformers", "sentence-transformers", "triton"}


@cache
def blocks(lock: str) -> tuple[str, ...]:
    """One requirement each: its line, its hashes, and the comment on who wants it."""
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    return tuple(block for block in re.split(r"\n(?=\S)", text) if not block.startswith("#"))


@cache
def pins(lock: str) -> dict[str, set[str]]:
    """Versions by name; several where the version depends on the platform or on Python."""
    found: dict[str, set[str]] = {}
    for block in blocks(lock):
        requirement = Requirement(block.partition(" \\")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "==", block
        found.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return found


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def assert_pinned(wanted: list[str], lock: str) -> None:
    """Every requirement of ``wanted`` has a version in the lock, and that version is one it allows."""
    for requirement in map(Requirement, wanted):
        versions = pins(lock).get(canonicalize_name(requirement.name), set())
        assert versions, f"{lock} lacks {requirement}: run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{lock}: {requirement}, not {versions}"


def test_all_files_are_there() -> None:
    others = {"audit.txt", "bench-infinity.txt", "build.txt", "dev.txt", "light.txt", "minilm.txt", "uv.txt"}
    others |= {"image.txt", "manifests.txt"}
    assert {f"sglang-{version}.txt" for version in SGLANG} == set(LOCKS) - others


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_and_hashed(lock: str) -> None:
    assert pins(lock)
    assert [block for block in blocks(lock) if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", block)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_file_names_an_index_or_a_folder(lock: str) -> None:
    without_hashes = re.sub(r"--hash=\S+|# via.*|#   \S.*", "", "\n".join(blocks(lock)))
    assert ADDRESS.findall(without_hashes) == []
    assert "://" not in (ROOT / "requirements" / lock).read_text(encoding="utf-8")


def test_light_set_holds_the_core_dependencies() -> None:
    assert_pinned(pyproject()["project"]["dependencies"], "light.txt")


def test_light_set_holds_no_torch() -> None:
    assert HEAVY & pins("light.txt").keys() == set()
    assert pins("dev.txt").keys() >= HEAVY


@pytest.mark.parametrize("extra", sorted(pyproject()["project"]["optional-dependencies"]))
def test_development_set_holds_every_extra(extra: str) -> None:
    assert_pinned(pyproject()["project"]["optional-dependencies"][extra], "dev.txt")


def test_what_is_served_with_is_what_was_tested() -> None:
    assert {name: pins("dev.txt").get(name) for name in pins("light.txt")} == pins("light.txt")


@pytest.mark.parametrize("version", SGLANG)
def test_each_sglang_has_a_set_with_what_serves_and_what_checks_it(version: str) -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *extras["redis"],
        *extras["tracing"],
        *extras["bench"],
        *extras["gpu-check"],
        f"sglang=={version}",
    ]
    assert_pinned(wanted, f"sglang-{version}.txt")


def test_newest_sglang_is_bundled_as_it_was_tested() -> None:
    (newest,) = Requirement(*pyproject()["project"]["optional-dependencies"]["sglang"]).specifier
    bundled = pins(f"sglang-{newest.version}.txt")
    assert {name: pins("dev.txt").get(name) for name in bundled} == bundled


def test_an_image_holds_the_cache_client_that_was_tested() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    assert_pinned([*extras["redis"], *extras["tracing"]], "image.txt")
    for name in ("redis", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"):
        assert pins("image.txt")[name] == pins("dev.txt")[name]


def test_build_backend_is_the_one_of_pyproject() -> None:
    assert_pinned(pyproject()["build-system"]["requires"], "build.txt")


def test_command_line_starts_without_loading_an_engine() -> None:
    program = "import sys, launcher.cli; print(sorted({'torch', 'sglang', 'openvino', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["engine", "int8", "weights"])
def test_openvino_reports_to_nobody(module: str) -> None:
    shown = "[name for name in sys.modules if name.startswith('openvino_telemetry.')]"
    program = f"import sys, launcher.engines.openvino.{module}; print({shown})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
