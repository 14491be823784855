"""podman with images, networks and a configuration of the test's own; it needs neither a daemon nor systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.processes import wait_until

MISSING = "these tests need root and podman: apt install podman runc netavark aardvark-dns iptables catatonit (Debian, Ubuntu)"
# runc, because Debian 12's crun refuses machines with cgroups of both versions.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
READY_TIMEOUT_S = 60


class Podman:
    """``command`` and ``environment`` are what calls it with this storage, by whomever."""

    def __init__(self, folder: Path) -> None:
        assert shutil.which("podman") and os.geteuid() == 0, MISSING
        (folder / "networks").mkdir()
        configuration = folder / "containers.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder))
        # vfs keeps a full copy of each layer, and works everywhere.
        options = ("--root", f"{folder}/storage", "--runroot", f"{folder}/run", "--storage-driver", "vfs")
        self.command = ("podman", *options)
        self.environment: Mapping[str, str] = {**os.environ, "CONTAINERS_CONF": str(configuration)}

    def call(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        command = (*self.command, *arguments)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout_s)

    def run(self, *arguments: str, timeout_s: float = 60) -> str:
        """What it printed; what fails fails the test."""
        done = self.call(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"podman {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()


class Container:
    """Of an image of this project's, or of another that ``exec`` and ``stop`` are enough for."""

    def __init__(self, podman: Podman, name: str) -> None:
        self.podman = podman
        self.name = name

    @property
    def base_url(self) -> str:
        return f"http://{self.podman.run('port', self.name, '30000/tcp')}"

    def wait_ready(self) -> Container:
        wait_until(f"{self.name} is ready", self._is_ready, READY_TIMEOUT_S)
        return self

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.podman.call("exec", self.name, *command)

    def state(self, field: str) -> str:
        return self.podman.run("inspect", "--format", f"{{{{.State.{field}}}}}", self.name)

    def log(self) -> str:
        done = self.podman.call("logs", self.name)
        return done.stdout + done.stderr

    def _is_ready(self) -> bool:
        assert self.state("Status") == "running", self.log()
        try:
            return httpx.get(f"{self.base_url}/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_podman(folder: Path) -> Iterator[Podman]:
    podman = Podman(folder)
    try:
        yield podman
    finally:
        podman.call("pod", "rm", "--all", "--force", "--time", "0")
        podman.call("rm", "--all", "--force", "--time", "0")
        shutil.rmtree(folder)


@contextmanager
def running_container(podman: Podman, image: str, *options: str, command: Sequence[str] = ()) -> Iterator[Container]:
    name = podman.run("run", "--detach", *options, image, *command).splitlines()[-1]
    try:
        yield Container(podman, name)
    finally:
        podman.run("rm", "--force", "--time", "0", name)
