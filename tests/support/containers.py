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

MISSING = "these tests need podman: apt install podman runc netavark aardvark-dns iptables catatonit (Debian, Ubuntu)"
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
COMPLETE_TIMEOUT_S = 60


class Podman:
    """``command`` and ``environment`` are what calls it with this storage, by whomever."""

    def __init__(self, folder: Path) -> None:
        assert shutil.which("podman"), MISSING
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

    def remove_containers(self) -> None:
        for kind in (("pod",), ()):
            self.call(*kind, "rm", "--all", "--force", "--time", "0")


class Container:
    """Reached at its own address, which the host of a bridge has a way to: no port of this machine is taken."""

    def __init__(self, podman: Podman, name: str) -> None:
        self.podman = podman
        self.name = name

    @property
    def base_url(self) -> str:
        field = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return f"http://{self.podman.run('inspect', '--format', field, self.name)}:30000"

    def wait_ready(self) -> Container:
        wait_until(f"{self.name} is ready", self._is_ready, READY_TIMEOUT_S)
        return self

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.podman.call("exec", self.name, *command)

    def state(self, field: str) -> str:
        return self.podman.run("inspect", "--format", f"{{{{.State.{field}}}}}", self.name)

    def rights(self) -> dict[str, str]:
        """Of process 1, as /proc names them."""
        lines = self.exec("cat", "/proc/1/status").stdout.splitlines()
        return dict(line.split(":\t") for line in lines)

    def may_write(self, folder: str) -> bool:
        done = self.exec("touch", f"{folder}/written")
        assert done.returncode == 0 or "Read-only file system" in done.stderr, done
        return done.returncode == 0

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
        podman.remove_containers()
        assert podman.run("ps", "--all", "--quiet") == ""
        shutil.rmtree(folder)


@contextmanager
def running_container(podman: Podman, image: str, *options: str, command: Sequence[str] = ()) -> Iterator[Container]:
    name = podman.run("run", "--detach", *options, image, *command).splitlines()[-1]
    try:
        yield Container(podman, name)
    finally:
        podman.run("rm", "--force", "--time", "0", name)


class Pod:
    """Made by ``podman kube play`` and not yet started; its containers have the names of the manifest."""

    def __init__(self, podman: Podman) -> None:
        self.podman = podman

    def complete(self, name: str) -> Container:
        """Run an init container to its end."""
        container = self.start(name)
        wait_until(f"{name} has ended", lambda: container.state("Status") == "exited", COMPLETE_TIMEOUT_S)
        return container

    def start(self, name: str) -> Container:
        self.podman.run("start", self._container(name))
        return Container(self.podman, self._container(name))

    def _container(self, name: str) -> str:
        names = self.podman.run("ps", "--all", "--format", "{{.Names}}").splitlines()
        (found,) = (full for full in names if full.endswith(f"-{name}"))
        return found


@contextmanager
def played_pod(podman: Podman, manifests: Path) -> Iterator[Pod]:
    podman.run("kube", "play", "--start=false", str(manifests), timeout_s=120)
    try:
        yield Pod(podman)
    finally:
        podman.remove_containers()
