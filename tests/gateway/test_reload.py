"""SIGHUP: keys, the log's level, sampling and file are followed, and nothing else is; with one gateway process and with two."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import httpx
import psutil
import pytest

from tests.support.metrics import metrics_of
from tests.support.server import RunningServer, running_server

DEADLINE_S = 20.0
BODY = {"model": "tiny-zh", "input": "你好"}
FIRST_KEYS = "old: sk-old\nkept: {key: sk-kept, requests_per_minute: 1000}\n"
OPENVINO = ["--engine", "openvino", "--set", "engine.dtype=float32"]


def in_folder(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "keys", folder / "server.log", folder / "config.yaml"


def write_files(folder: Path) -> None:
    """As they are at the start of each test."""
    keys, log, config = in_folder(folder)
    keys.write_text(FIRST_KEYS)
    config.write_text(f"server: {{api_keys_file: {keys}, max_body_mb: 16}}\nlog: {{file: {log}, level: info}}\n")


@dataclass
class Served:
    server: RunningServer
    processes: int
    folder: Path

    def __post_init__(self) -> None:
        self.keys, self.log, self.config = in_folder(self.folder)

    def reload(self) -> None:
        """Returns once every process has done it."""
        self.server.process.send_signal(signal.SIGHUP)
        for _ in range(self.processes if self.processes == 1 else self.processes + 1):
            self.server.wait_line(re.compile("SIGHUP: reloaded"), DEADLINE_S)

    def statuses(self, key: str) -> set[int]:
        """Of every process."""
        return {self._ask(key) for _ in range(self.processes)}

    def _ask(self, key: str) -> int:
        # Each a connection of its own, and so the next process.
        url = f"{self.server.base_url}/v1/embeddings"
        return httpx.post(url, json=BODY, headers={"authorization": f"Bearer {key}"}, timeout=30).status_code


@pytest.fixture(scope="module", params=[1, 2], ids=["one-process", "two-processes"])
def started(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    arguments = ["--config", str(folder / "config.yaml"), "--model", str(tiny_checkpoint), *OPENVINO]
    arguments += ["--processes", str(request.param)]
    write_files(folder)
    with running_server(*arguments, environment={"SGL_EMBED_API_KEYS": "env:sk-env"}) as server:
        yield Served(server, request.param, folder)


@pytest.fixture
def served(started: Served) -> Iterator[Served]:
    yield started
    write_files(started.folder)
    started.reload()


def test_keys_are_taken_from_the_file_again(served: Served) -> None:
    assert served.statuses("sk-old") == {200}
    served.keys.write_text("new: sk-new\nkept: {key: sk-kept, requests_per_minute: 1000}\n")
    served.reload()
    assert served.statuses("sk-old") == {401}
    for key in ("sk-new", "sk-kept", "sk-env"):
        assert served.statuses(key) == {200}
    with httpx.Client(base_url=served.server.base_url) as client:
        series = metrics_of(client)
    assert series['embedding_key_requests_total{key="new"}'] == served.processes
    assert series['embedding_key_requests_total{key="old"}'] == served.processes


def test_limits_are_taken_too(served: Served) -> None:
    served.keys.write_text(f"old: {{key: sk-old, requests_per_minute: {served.processes}}}\n")
    served.reload()
    assert served.statuses("sk-old") == {200}
    assert served.statuses("sk-old") == {429}


@pytest.mark.parametrize("content", ["old: sk-other\nold: sk-twice", "", "old: {key: sk-other, rpm: 5}", "env: sk-other"])
def test_a_bad_file_leaves_the_keys_as_they_were(served: Served, content: str) -> None:
    served.keys.write_text(content)
    served.reload()
    assert served.statuses("sk-old") == {200}
    assert served.statuses("sk-env") == {200}
    assert served.statuses("sk-other") == {401}
    assert re.search(r"SIGHUP: API keys: stays as it was: (server\.api_keys_file|SGL_EMBED_API_KEYS): ", served.server.output())
    assert "Traceback" not in served.server.output()
    assert "sk-" not in served.server.output()


def test_the_level_is_taken_and_what_else_has_changed_is_said(served: Served) -> None:
    def lines_about_probes() -> int:
        httpx.get(f"{served.server.base_url}/live")
        # The line is written once the reply has been sent.
        assert served.statuses("sk-old") == {200}
        return served.server.output().count("GET /live")

    assert lines_about_probes() == 0
    text = served.config.read_text()
    served.config.write_text(text.replace("max_body_mb: 16", "max_body_mb: 17").replace("info", "debug"))
    served.reload()
    httpx.get(f"{served.server.base_url}/live")
    served.server.wait_line(re.compile("GET /live 200"), DEADLINE_S)
    assert served.server.output().count("need a restart: server.max_body_mb\n") == 1

    served.config.write_text("log: {levle: debug}")
    served.reload()
    assert "SIGHUP: log settings: stays as it was: " in served.server.output()
    assert "log.levle: unknown key, did you mean level?" in served.server.output()


def lines_of(served: Served, *ids: str) -> list[str]:
    """Which of these requests have a line; each is asked of every process, and the last always has one."""
    headers = {"authorization": "Bearer sk-old"}
    for _ in range(served.processes):
        with httpx.Client(base_url=served.server.base_url, headers=headers, timeout=30) as client:
            for id_ in ids:
                assert client.post("/v1/embeddings", json=BODY, headers={"x-request-id": id_}).status_code == 200
            client.post("/v1/embeddings", json={}, headers={"x-request-id": f"bad-{ids[0]}"})
        served.server.wait_line(re.compile(re.escape(f"id=bad-{ids[0]}")), DEADLINE_S)
    said = served.server.output()
    return [id_ for id_ in ids if said.count(f"id={id_}\n") == served.processes]


def test_sampling_is_taken_and_what_failed_or_was_slow_is_told_all_the_same(served: Served) -> None:
    began = served.config.read_text()
    assert lines_of(served, "all-0", "all-1") == ["all-0", "all-1"]
    served.config.write_text(began.replace("level: info", "level: info, requests: 0, slow_request_s: 60"))
    served.reload()
    assert lines_of(served, "none-0", "none-1") == []
    assert "id=none-" not in served.server.output()
    served.config.write_text(began.replace("level: info", "level: info, requests: 0, slow_request_s: 0.000001, format: json"))
    served.reload()
    assert lines_of(served, "slow-0", "slow-1") == ["slow-0", "slow-1"]
    # Programs may be reading the file.
    assert "need a restart: log.format\n" in served.server.output()
    with httpx.Client(base_url=served.server.base_url) as client:
        counted = metrics_of(client)['embedding_requests_total{status="200",task="embeddings"}']
    assert counted >= 6 * served.processes


def test_a_log_that_was_moved_away_goes_on_in_a_new_file(served: Served) -> None:
    moved = served.folder / "server.log.1"
    served.log.rename(moved)
    assert served.statuses("sk-old") == {200}
    served.server.wait_line(re.compile("POST /v1/embeddings 200"), DEADLINE_S)
    assert not served.log.exists()
    served.reload()
    size = moved.stat().st_size
    assert served.statuses("sk-kept") == {200}
    for _ in range(served.processes):
        served.server.wait_line(re.compile("key=kept"), DEADLINE_S)
    assert served.log.read_text().count("key=kept") == served.processes
    assert moved.stat().st_size == size


def has_started_one_anew(served: Served) -> bool:
    with httpx.Client(base_url=served.server.base_url, timeout=30) as client:
        shown = metrics_of(client)
    restarts = sum(value for name, value in shown.items() if name.startswith("embedding_process_restarts_total"))
    ready = sum(value for name, value in shown.items() if "process_state" in name and 'state="ready"' in name)
    return (restarts, ready) == (1, served.processes)


def test_a_gateway_that_starts_anew_knows_the_keys_that_the_others_know(served: Served) -> None:
    if served.processes == 1:
        pytest.skip("the only process is not started anew")
    served.keys.write_text("new: sk-new\n")
    served.reload()
    served.keys.write_text("broken")
    psutil.Process(served.server.process.pid).children()[0].kill()
    deadline = monotonic() + DEADLINE_S
    while not has_started_one_anew(served):
        assert monotonic() < deadline, served.server.output()
    assert [served.statuses("sk-new"), served.statuses("sk-old")] == [{200}, {401}]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_hangup_during_the_start_ends_nothing(tiny_checkpoint: Path, processes: int) -> None:
    server = RunningServer(["--model", str(tiny_checkpoint), *OPENVINO, "--processes", str(processes)])
    server.wait_line(re.compile("loading tiny-zh"), DEADLINE_S)
    while not server.base_url:
        server.process.send_signal(signal.SIGHUP)
        try:
            server.wait_ready(timeout_s=0.02)
        except TimeoutError:
            continue
    assert httpx.post(f"{server.base_url}/v1/embeddings", json=BODY).status_code == 200
    assert server.stop() == 0


def test_the_end_of_its_terminal_stops_the_server(tiny_checkpoint: Path) -> None:
    ours, its = pty.openpty()
    arguments = ["--model", str(tiny_checkpoint), "--engine", "openvino", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", "serve", *arguments],
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Its controlling terminal, as a shell's would be.
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(its, termios.TIOCSCTTY, 0),
    )
    os.close(its)
    try:
        assert process.stdout
        assert process.stdout.readline().startswith("sgl-embed is ready")
        os.close(ours)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
