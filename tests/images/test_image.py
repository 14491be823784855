"""The image for CPUs is small, holds what it should, runs with next to no rights, and ends as it is asked to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.images.conftest import AS_ROOT, BASE, MODEL, ROOT, make_image
from tests.support.containers import Container, Podman, running_container
from tests.support.processes import wait_until
from tests.support.server import running_server

pytestmark = AS_ROOT

LIMIT_BYTES = 500_000_000
TEXTS = ["今天天气真好", "明天会下雨吗", "embedding"]
WEIGHTS = {".safetensors", ".bin", ".onnx", ".pt", ".gguf", ".xml"}
COMPILERS = re.compile(r"(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|clang|tcc|ld|as|make|cargo|rustc|go|nvcc)(-[\d.]+)?")
INSTALLERS = re.compile(r"(pip|setuptools|ensurepip)([-\d.].*)?|uv")
# What is left of the rights of a container: two folders, in memory.
CONFINED = (
    "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp", "--tmpfs", "/var/cache/sgl-embed",
    "--cap-drop", "all", "--security-opt", "no-new-privileges",
)  # fmt: skip


@pytest.fixture(scope="module")
def container(podman: Podman, cpu_image: str, models: Path) -> Iterator[Container]:
    """With its own CMD, which serves a model of this name."""
    options = (*CONFINED, "--volume", f"{models}:/models:ro")
    with running_container(podman, cpu_image, *options) as container:
        yield container.wait_ready()


@pytest.fixture(scope="module")
def files(podman: Podman, cpu_image: str) -> Iterator[list[Path]]:
    """All that the image holds, without following links."""
    root = Path(podman.run("image", "mount", cpu_image))
    yield [Path(folder, name).relative_to(root) for folder, folders, names in os.walk(root) for name in (*folders, *names)]
    podman.run("image", "unmount", cpu_image)


def embed(base_url: str, texts: list[str]) -> np.ndarray:
    body = {"model": MODEL, "input": texts}
    reply = httpx.post(f"{base_url}/v1/embeddings", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return np.array([item["embedding"] for item in reply.json()["data"]], np.float32)


def test_it_is_small(podman: Podman, cpu_image: str) -> None:
    size = int(podman.run("image", "inspect", "--format", "{{.Size}}", cpu_image))
    print(f"{size / 1e6:.0f} MB, of which the base has {podman.run('image', 'inspect', '--format', '{{.Size}}', BASE)} bytes")
    assert size <= LIMIT_BYTES


def test_labels_say_what_it_is(podman: Podman, cpu_image: str) -> None:
    labels = json.loads(podman.run("image", "inspect", "--format", "{{json .Labels}}", cpu_image))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10)
    commit = git.stdout.strip() if git.returncode == 0 else "unknown"
    named = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert (named["title"], named["licenses"], named["base.name"]) == ("sgl-embed", "Apache-2.0", BASE)
    assert (named["version"], named["revision"]) == (version, commit)
    assert f"localhost/sgl-embed:{version}-cpu" in podman.run("image", "inspect", "--format", "{{.RepoTags}}", cpu_image)


def test_it_holds_no_weights(files: list[Path]) -> None:
    assert [path for path in files if path.suffix in WEIGHTS or path.is_relative_to("models/")] == [Path("models")]


def test_nothing_can_be_installed_or_compiled_in_it(files: list[Path]) -> None:
    programs = [path for path in files if path.parent.name in ("bin", "sbin")]
    assert programs
    assert [path for path in programs if COMPILERS.fullmatch(path.name)] == []
    assert [path for path in files if INSTALLERS.fullmatch(path.name)] == []


def test_it_may_do_next_to_nothing(container: Container) -> None:
    rights = container.rights()
    assert rights["Uid"].split() == ["10001"] * 4 and rights["Gid"].split() == ["10001"] * 4
    assert (int(rights["CapEff"], 16), int(rights["CapBnd"], 16), rights["NoNewPrivs"]) == (0, 0, "1")
    folders = ("", "/opt/sgl-embed", "/etc/sgl-embed/configs", "/models", "/var/tmp", "/tmp", "/var/cache/sgl-embed")
    assert [folder for folder in folders if container.may_write(folder)] == ["/tmp", "/var/cache/sgl-embed"]


def test_without_read_only_it_may_write_nowhere_else_either(podman: Podman, cpu_image: str) -> None:
    search = ("find", "/", "-xdev", "-writable", "-not", "-type", "l", "-not", "-path", "/proc/*", "-not", "-path", "/dev/*")
    found = podman.call("run", "--rm", "--entrypoint", search[0], cpu_image, *search[1:]).stdout.split()
    assert set(found) == {"/tmp", "/var/tmp", "/var/cache/sgl-embed", "/run/lock"}


def test_it_computes_what_the_untrimmed_environment_does(container: Container, models: Path) -> None:
    ours = (
        f"--config={ROOT}/configs/{MODEL}.yaml",
        f"--model={models / MODEL}",
        "--host=127.0.0.1",
    )
    with running_server(*ours) as server:
        expected = embed(server.base_url, TEXTS)
    assert np.array_equal(embed(container.base_url, TEXTS), expected)


def test_it_keeps_nothing_about_its_use(container: Container) -> None:
    embed(container.base_url, TEXTS)
    assert container.exec("find", "/var/cache/sgl-embed", "-mindepth", "1", "-not", "-name", "written").stdout == ""


def test_health_check_passes_where_it_serves_and_only_there(podman: Podman, cpu_image: str, container: Container) -> None:
    assert podman.call("healthcheck", "run", container.name).returncode == 0
    with running_container(podman, cpu_image, "--entrypoint", "sleep", command=["60"]) as idle:
        assert podman.call("healthcheck", "run", idle.name).returncode == 1


def test_process_one_reaps_orphans(container: Container) -> None:
    assert container.exec("cat", "/proc/1/comm").stdout == "dumb-init\n"
    orphan = container.exec("sh", "-c", "(sleep 0.2 & echo $!)").stdout.strip()
    assert orphan.isdecimal()
    wait_until("the orphan is reaped", lambda: container.exec("test", "-e", f"/proc/{orphan}").returncode == 1, 10)


def test_process_one_hands_a_signal_on(container: Container) -> None:
    assert container.exec("sh", "-c", "kill -HUP 1").returncode == 0
    wait_until("the server got SIGHUP", lambda: "SIGHUP: reloaded" in container.log(), 10)


def test_stopping_it_answers_what_it_accepted(podman: Podman, cpu_image: str, models: Path) -> None:
    options = (*CONFINED, "--volume", f"{models}:/models:ro")
    with running_container(podman, cpu_image, *options) as container, ThreadPoolExecutor() as threads:
        base_url = container.wait_ready().base_url
        many = [f"{i} {'长' * 300}" for i in range(900)]
        answer = threads.submit(embed, base_url, many)
        wait_until("it is at work", lambda: answer.done() or tokens_in_flight(base_url) > 0, 20)
        podman.run("stop", "--time", "30", container.name)
        assert len(answer.result()) == len(many)
        log = container.log()
        assert -1 < log.find("stopping: finishing") < log.find("POST /v1/embeddings 200"), log
        assert container.state("ExitCode") == "0", log


def tokens_in_flight(base_url: str) -> float:
    text = httpx.get(f"{base_url}/metrics", timeout=10).text
    return float(text.partition("\nembedding_tokens_in_flight ")[2].partition("\n")[0])


def test_a_damaged_bundle_ends_the_build(podman: Podman, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    for wheel in (bundle / "wheels").iterdir():
        os.link(wheel, tmp_path / "wheels" / wheel.name)
    (tmp_path / "SHA256SUMS").write_bytes((bundle / "SHA256SUMS").read_bytes())
    damaged = next((tmp_path / "wheels").glob("tqdm-*.whl"))
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content + b" ")
    done = make_image(podman, tmp_path)
    assert done.returncode != 0
    assert f"{damaged.name}: FAILED" in done.stdout + done.stderr


def test_without_a_bundle_it_is_said_how_to_get_one(podman: Podman, tmp_path: Path) -> None:
    done = make_image(podman, tmp_path / "none")
    assert done.returncode != 0
    assert f"There is no bundle in {tmp_path}/none: make bundle" in done.stderr
