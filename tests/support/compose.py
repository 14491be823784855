"""The replicas of deploy/compose as processes, and a stand-in for ``docker compose`` that rollout.sh can be given.

What a container would be is a process here, started with the command that compose.yaml has for it. Run as a program, with the
socket of a ``Replicas`` and compose's own arguments, this is that stand-in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Client, Listener
from pathlib import Path

import yaml

from benchmarks.server import free_port
from tests.support.server import RunningServer

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy/compose"
NAMES = ("replica-1", "replica-2", "replica-3")
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
# One thread each, since three of them share the machine; and no line for each request, which the test would have to read.
HERE = ("--set", "engine.dtype=float32", "--set", "engine.openvino.threads=1", "--set", "log.level=warning")


def expand(text: str, variables: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda match: variables.get(match[1], match[2] or ""), text)


def read_variables(file: Path) -> dict[str, str]:
    lines = (line for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def replica_command(variables: Mapping[str, str]) -> list[str]:
    """As compose.yaml has it, without ``serve``."""
    compose = yaml.safe_load((SHIPPED / "compose.yaml").read_text())
    serve, *arguments = (expand(argument, variables) for argument in compose["services"][NAMES[0]]["command"])
    assert serve == "serve"
    return arguments


class Replicas:
    """Three servers on ports that stay theirs. ``models`` holds the folders that SGL_EMBED_MODEL can name."""

    def __init__(self, folder: Path, models: Path, keys: str = "", settings: Sequence[str] = HERE) -> None:
        self.ports = {name: free_port() for name in NAMES}
        self._models = models
        self._settings = settings
        self._keys = folder / "keys"
        self._keys.mkdir()
        (self._keys / "keys.yaml").write_text(keys)
        self._servers: dict[str, RunningServer] = {}

    def start(self, name: str, variables: Mapping[str, str]) -> RunningServer:
        places = {"/models/": f"{self._models}/", "/etc/sgl-embed/configs/": f"{ROOT}/configs/"}
        places |= {"/etc/sgl-embed/keys/": f"{self._keys}/", "=0.0.0.0": "=127.0.0.1", "=30000": f"={self.ports[name]}"}
        arguments = replica_command(variables)
        for there, here in places.items():
            arguments = [argument.replace(there, here) for argument in arguments]
        if not (self._keys / "keys.yaml").read_text():
            arguments = [argument for argument in arguments if "api_keys_file" not in argument]
        self._servers[name] = RunningServer([*arguments, *self._settings])
        return self._servers[name]

    def start_all(self, variables: Mapping[str, str]) -> None:
        for server in [self.start(name, variables) for name in NAMES]:
            server.wait_ready()

    def __getitem__(self, name: str) -> RunningServer:
        return self._servers[name]

    def running(self, name: str) -> bool:
        return self._servers[name].process.poll() is None

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def stop_all(self) -> None:
        for name in self._servers:
            if self.running(name):
                self._servers[name].process.kill()
            self._servers[name].wait()


@contextmanager
def running_replicas(
    folder: Path, models: Path, variables: Mapping[str, str], keys: str = "", settings: Sequence[str] = HERE
) -> Iterator[Replicas]:
    replicas = Replicas(folder, models, keys, settings)
    try:
        replicas.start_all(variables)
        yield replicas
    finally:
        replicas.stop_all()


@contextmanager
def compose_command(replicas: Replicas, folder: Path, run_folder: Path) -> Iterator[dict[str, str]]:
    """The environment for rollout.sh, which stands in ``folder`` beside nginx's; ``run_folder`` is nginx's own."""
    programs = folder / "programs"
    programs.mkdir()
    for program, command in (("python", sys.executable), ("sgl-embed", f"{sys.executable} -m launcher")):
        (programs / program).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / program).chmod(0o755)
    socket = folder / "compose.sock"
    facts = {"ports": replicas.ports, "folder": str(folder), "run_folder": str(run_folder)}
    (folder / "compose.json").write_text(json.dumps(facts))
    with Listener(str(socket), "AF_UNIX") as listener:
        thread = threading.Thread(target=answer, args=(listener, replicas))
        thread.start()
        try:
            yield {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "COMPOSE": f"{sys.executable} -m tests.support.compose {socket}",
                "PATH": f"{programs}:{os.environ['PATH']}",
            }
        finally:
            with Client(str(socket), "AF_UNIX") as client:
                client.send(None)
            thread.join()


def answer(listener: Listener, replicas: Replicas) -> None:
    """Until it is sent None. In the process of the test, whose children the servers are."""
    while True:
        with listener.accept() as connection:
            asked = connection.recv()
            if asked is None:
                return
            verb, name, variables = asked
            if verb == "running":
                connection.send(replicas.running(name))
                continue
            if replicas.running(name):
                replicas[name].stop()
            if verb == "up":
                replicas.start(name, variables)
            connection.send(True)


def main(socket: str, *arguments: str) -> int:
    variables: dict[str, str] = {}
    if arguments[0] == "--env-file":
        variables = read_variables(Path(arguments[1]))
        arguments = arguments[2:]

    def ask(verb: str, name: str) -> bool:
        with Client(socket, "AF_UNIX") as connection:
            connection.send((verb, name, variables))
            return bool(connection.recv())

    facts = json.loads(Path(socket).with_suffix(".json").read_text())
    match arguments:
        case ("stop", name):
            ask("stop", name)
        case ("up", "-d", "--no-deps", "--force-recreate", name):
            ask("up", name)
        case ("exec", "-T", "nginx", *command):
            here = [part.replace("/etc/sgl-embed", facts["folder"]) for part in command]
            return subprocess.run([*here, facts["run_folder"]], check=False).returncode
        case ("exec", "-T", name, *command):
            if not ask("running", name):
                print(f"{name} is not running", file=sys.stderr)
                return 1
            for other, port in facts["ports"].items():
                command = [part.replace(f"http://{other}:30000", f"http://127.0.0.1:{port}") for part in command]
            here = [part.replace("/etc/sgl-embed", facts["folder"]) for part in command]
            return subprocess.run(here, check=False).returncode
        case _:
            print(f"not expected of rollout.sh: {arguments}", file=sys.stderr)
            return 64
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
