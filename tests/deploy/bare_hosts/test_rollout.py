"""rollout.sh of deploy/compose on three real servers behind nginx; in the place of compose stands what starts processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.compose import NAMES, SHIPPED, Replicas, compose_command
from tests.support.load import Load, reference_of
from tests.support.nginx import RunningNginx
from tests.support.processes import wait_until
from tests.support.texts import SENTENCES
from tests.support.wrk import load, under_load_throughout

pytestmark = pytest.mark.timeout(240)

Rollout = Callable[..., subprocess.CompletedProcess[str]]
WINDOW_S = 5


@pytest.fixture
def folder(nginx: RunningNginx, variables: Mapping[str, str]) -> Path:
    """deploy/compose on this host."""
    for file in ("rollout.sh", "probe.py"):
        shutil.copy(SHIPPED / file, nginx.folder)
    write_variables(nginx.folder / ".env", variables)
    return nginx.folder


@pytest.fixture
def rollout(replicas: Replicas, nginx: RunningNginx, folder: Path) -> Iterator[Rollout]:
    with compose_command(replicas, folder, nginx.run_folder) as environment:

        def run(*arguments: str, ready_timeout_s: float | str = 60) -> subprocess.CompletedProcess[str]:
            environment["READY_TIMEOUT_S"] = str(ready_timeout_s)
            command = [folder / "rollout.sh", *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)

        yield run


def write_variables(file: Path, variables: Mapping[str, str]) -> Path:
    file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return file


def processes(replicas: Replicas) -> dict[str, int]:
    return {name: replicas[name].process.pid for name in NAMES}


def marked_down(folder: Path) -> list[str]:
    lines = (folder / "nginx/replicas.conf").read_text().splitlines()
    return [line.rpartition("# ")[2] for line in lines if " down;" in line]


def mark_down(folder: Path, *names: str) -> None:
    file = folder / "nginx/replicas.conf"
    for name in names:
        file.write_text(file.read_text().replace(f"; # {name}", f" down; # {name}"))


def stand_in(folder: Path, program: str, script: str) -> None:
    """For what rollout.sh finds in its path."""
    file = folder / "programs" / program
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def fingerprint(url: str) -> str:
    return str(httpx.get(f"{url}/v1/models").json()["data"][0]["fingerprint"])


def test_replacing_all_replicas_costs_no_request(
    replicas: Replicas, nginx: RunningNginx, rollout: Rollout, folder: Path, variables: Mapping[str, str], bodies: Path
) -> None:
    reference = reference_of(nginx.base_url, SENTENCES)
    before = processes(replicas)
    wanted = write_variables(folder / "next.env", {**variables, "SGL_EMBED_IMAGE": "sgl-embed:next"})
    with (
        Load(nginx.base_url, reference, clients=2) as checked,
        under_load_throughout(nginx.base_url, bodies, WINDOW_S) as running,
    ):
        checked.wait_for(20)
        done = rollout(str(wanted))
    assert done.returncode == 0, done.stderr
    assert not set(before.values()) & set(processes(replicas).values())
    assert [counted.failed for counted in running.result()] == [0] * len(running.result()), nginx.errors()
    assert set(checked.outcomes) == {200}, checked.outcomes
    assert checked.wrong == 0
    assert (folder / ".env").read_text() == wanted.read_text()
    assert "SGL_EMBED_IMAGE" not in (folder / ".env.before").read_text()
    assert " down;" not in (folder / "nginx/replicas.conf").read_text()
    assert done.stderr.count("may be mixed") == 3


def test_the_way_back_leads_back(rollout: Rollout, folder: Path, variables: Mapping[str, str]) -> None:
    old = write_variables(folder / ".env.before", {**variables, "SGL_EMBED_IMAGE": "sgl-embed:old"}).read_text()
    new = (folder / ".env").read_text()
    done = rollout(str(folder / ".env.before"))
    assert done.returncode == 0, done.stderr
    assert (folder / ".env").read_text() == old
    assert (folder / ".env.before").read_text() == new
    assert not list(folder.glob(".env*.new"))


def test_a_full_disk_loses_no_variables(rollout: Rollout, folder: Path, variables: Mapping[str, str]) -> None:
    old = (folder / ".env").read_text()
    wanted = write_variables(folder / ".env.before", {**variables, "SGL_EMBED_IMAGE": "sgl-embed:next"}).read_text()
    stand_in(folder, "mv", 'case "$*" in *" .env") exit 1 ;; esac; command -p mv "$@"')
    done = rollout(str(folder / ".env.before"))
    assert done.returncode == 4, done.stderr
    assert "put .env.new in its place" in done.stderr
    assert (folder / ".env").read_text() == old
    assert (folder / ".env.new").read_text() == wanted


def test_other_vectors_are_not_taken(
    replicas: Replicas, nginx: RunningNginx, rollout: Rollout, folder: Path, variables: Mapping[str, str], bodies: Path
) -> None:
    before, space = processes(replicas), fingerprint(nginx.base_url)
    wanted = write_variables(folder / "next.env", {**variables, "SGL_EMBED_MODEL": "other/tiny-zh"})
    done = rollout(str(wanted))
    assert done.returncode == 1, done.stderr
    assert "must not be mixed" in done.stderr
    assert "replica-1: back with" in done.stderr
    after = processes(replicas)
    assert after["replica-1"] != before["replica-1"]
    assert [after[name] for name in NAMES[1:]] == [before[name] for name in NAMES[1:]]
    assert [fingerprint(replicas.url(name)) for name in NAMES] == [space] * 3
    assert (folder / ".env").read_text() != wanted.read_text()
    assert " down;" not in (folder / "nginx/replicas.conf").read_text()
    assert load(nginx.base_url, bodies, 2).failed == 0


def test_a_replica_that_does_not_start_is_taken_back(
    replicas: Replicas, rollout: Rollout, folder: Path, variables: Mapping[str, str]
) -> None:
    wanted = write_variables(folder / "next.env", {**variables, "SGL_EMBED_MODEL": "missing"})
    done = rollout(str(wanted), ready_timeout_s=8)
    assert done.returncode == 1, done.stderr
    assert "not ready in time" in done.stderr
    assert "replica-1: back with" in done.stderr
    assert all(map(replicas.running, NAMES))


@pytest.mark.parametrize(("model", "ready_timeout_s"), [("missing", 5), ("other/tiny-zh", 60)])
def test_a_replica_that_does_not_come_back_stays_out_of_rotation(
    nginx: RunningNginx, rollout: Rollout, folder: Path, variables: Mapping[str, str], model: str, ready_timeout_s: float
) -> None:
    space = fingerprint(nginx.base_url)
    write_variables(folder / ".env", {**variables, "SGL_EMBED_MODEL": model})
    done = rollout(ready_timeout_s=ready_timeout_s)
    assert done.returncode == 3, done.stderr
    assert "replica-1: is out of rotation; the others answer" in done.stderr
    assert marked_down(folder) == ["replica-1"]
    assert [httpx.get(f"{nginx.base_url}/health").status_code for _ in range(4)] == [200] * 4
    assert {fingerprint(nginx.base_url) for _ in range(6)} == {space}

    write_variables(folder / ".env", variables)
    done = rollout()
    assert done.returncode == 0, done.stderr
    assert marked_down(folder) == []


def test_who_is_down_is_replaced_first_and_alone(
    replicas: Replicas, rollout: Rollout, folder: Path, variables: Mapping[str, str]
) -> None:
    mark_down(folder, "replica-2", "replica-3")
    before = processes(replicas)
    wanted = write_variables(folder / "next.env", {**variables, "SGL_EMBED_MODEL": "missing"})
    done = rollout(str(wanted), ready_timeout_s=8)
    assert done.returncode == 1, done.stderr
    assert [name for name in NAMES if replicas[name].process.pid != before[name]] == ["replica-2"]
    assert marked_down(folder) == ["replica-3"]


@pytest.mark.parametrize("sed", ["exit 1", 'command -p sed "$@" | head -n 4'])
def test_a_list_of_replicas_that_cannot_be_written_stays_whole(
    replicas: Replicas, rollout: Rollout, folder: Path, sed: str
) -> None:
    before, listed = processes(replicas), (folder / "nginx/replicas.conf").read_text()
    stand_in(folder, "sed", sed)
    done = rollout()
    assert done.returncode == 1, done.stderr
    assert "replica-1: left alone" in done.stderr
    assert (folder / "nginx/replicas.conf").read_text() == listed
    assert processes(replicas) == before


def test_nothing_is_begun_where_no_other_replica_is_ready(replicas: Replicas, rollout: Rollout) -> None:
    for name in NAMES[1:]:
        replicas[name].process.kill()
        replicas[name].wait()
    before = replicas["replica-1"].process.pid
    done = rollout()
    assert done.returncode == 1, done.stderr
    assert "replica-1: left alone" in done.stderr
    assert "replica-2 is not running" in done.stderr
    assert replicas["replica-1"].process.pid == before
    assert replicas.running("replica-1")


def test_only_nginx_is_reloaded(replicas: Replicas, nginx: RunningNginx, rollout: Rollout, folder: Path) -> None:
    before = processes(replicas)
    mark_down(folder, "replica-2")
    assert rollout("--reload-nginx").returncode == 0
    assert processes(replicas) == before
    answered = {httpx.get(f"{nginx.base_url}/v1/models") for _ in range(6)}
    assert all(reply.status_code == 200 for reply in answered)
    lines = nginx.wait_log(6)
    assert f"127.0.0.1:{replicas.ports['replica-2']}" not in {line["upstream"] for line in lines}


@pytest.mark.parametrize("arguments", [["--nonsense"], ["/does/not/exist.env"]])
def test_what_cannot_be_done_is_refused(rollout: Rollout, arguments: list[str]) -> None:
    assert rollout(*arguments).returncode == 2


def test_a_time_that_is_none_is_refused(rollout: Rollout) -> None:
    done = rollout(ready_timeout_s="5m")
    assert done.returncode == 2
    assert "READY_TIMEOUT_S must be a number of seconds, not '5m'" in done.stderr


def test_two_at_once_are_refused(rollout: Rollout, folder: Path) -> None:
    with subprocess.Popen(["flock", folder / ".rollout.lock", "cat"], stdin=subprocess.PIPE) as holder:
        wait_until("the lock is held", lambda: locked(folder), 5)
        done = rollout()
        assert holder.stdin
        holder.stdin.close()
    assert done.returncode == 2
    assert "another rollout is under way" in done.stderr


def locked(folder: Path) -> bool:
    return subprocess.run(["flock", "--nonblock", folder / ".rollout.lock", "true"], check=False).returncode != 0
