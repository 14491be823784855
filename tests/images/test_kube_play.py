"""The pod of ``k8s/overlays/dev-cpu`` as it is rendered, run by podman: its security, volumes, init container and arguments.

podman passes over what it does not know, such as preStop, fsGroup and where pods may be placed: none of that is tried here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.images.conftest import AS_ROOT, MODEL, ROOT
from tests.support.containers import Pod, Podman, played_pod

pytestmark = AS_ROOT

VOLUME = "sgl-embed-weights"
PLAYED = ("ConfigMap", "Deployment")
# What podman 4.3.1 understands in another way than Kubernetes, and how.
TAKEN_OUT = {
    "ports": "a containerPort is published at the same port of the host",
    "startupProbe": "curl is run for it in the container, which has none, at port 0 where the port has a name",
    "readinessProbe": "the same",
    "livenessProbe": "the same",
}
# By default Always, which podman 4.3.1 does for an init container too, again and again.
PUT_IN = {"restartPolicy": "Never"}


@pytest.fixture
def weights(podman: Podman, tiny_checkpoint: Path) -> Path:
    """The volume that the overlay claims, filled by the same command as its Job uses."""
    podman.run("volume", "create", VOLUME)
    folder = Path(podman.run("volume", "inspect", "--format", "{{.Mountpoint}}", VOLUME))
    fetch = ("fetch", "--model", str(tiny_checkpoint), "--set", f"model.name={MODEL}", str(folder))
    subprocess.run([sys.executable, "-m", "launcher", *fetch], check=True, timeout=60)
    return folder / MODEL


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    command = ("kubectl", "kustomize", f"{ROOT}/k8s/overlays/dev-cpu")
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    kept = [manifest for manifest in yaml.safe_load_all(rendered) if manifest["kind"] in PLAYED]
    (deployment,) = (manifest for manifest in kept if manifest["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (server,) = spec["containers"]
    for field in TAKEN_OUT:
        del server[field]
    spec.update(PUT_IN)
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(kept, allow_unicode=True), encoding="utf-8")
    return file


@pytest.fixture
def pod(podman: Podman, cpu_image: str, manifests: Path, weights: Path) -> Iterator[Pod]:
    with played_pod(podman, manifests) as pod:
        yield pod


def test_the_pod_serves_checked_weights_and_may_do_next_to_nothing(pod: Pod, weights: Path) -> None:
    checked = pod.complete("check-weights")
    assert checked.state("ExitCode") == "0", checked.log()
    server = pod.start("server").wait_ready()
    body = {"model": MODEL, "input": ["今天天气真好"]}
    reply = httpx.post(f"{server.base_url}/v1/embeddings", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["data"][0]["embedding"]) == 128
    rights = server.rights()
    assert rights["Uid"].split() == ["10001"] * 4 and rights["Gid"].split() == ["10001"] * 4
    assert (int(rights["CapBnd"], 16), rights["NoNewPrivs"], rights["Seccomp"]) == (0, "1", "2")
    folders = ("", "/opt/sgl-embed", "/etc/sgl-embed/configs", "/models", "/tmp", "/var/cache/sgl-embed")
    assert [folder for folder in folders if server.may_write(folder)] == ["/tmp", "/var/cache/sgl-embed"]

    with (weights / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    changed = pod.complete("check-weights")
    assert changed.state("ExitCode") == "1", changed.log()
    assert "model.safetensors: FAILED" in changed.log()
