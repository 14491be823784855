"""``sgl-embed top`` before real servers: under a known load, in a real terminal, while a server stops and comes back."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import httpx
import pytest

from tests.support.load import embed
from tests.support.server import RunningServer, running_server
from tests.support.terminal import CTRL_C, Terminal, terminal
from tests.support.texts import all_different

REQUESTS_PER_S = 25
TEXTS_PER_REQUEST = 3
ALTERNATE, MAIN, CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


def top(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launcher", "top", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(environment or {})}
    )


class PacedLoad:
    """``REQUESTS_PER_S`` equal requests of texts never seen before, whatever the server takes for one."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.tokens_per_request = 0
        self.sent = 0
        self.behind_s = 0.0

    def __enter__(self) -> PacedLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        texts = iter(all_different(6000, 20))
        with httpx.Client(base_url=self._base_url) as client:
            began = monotonic()
            for number in itertools.count():
                late_s = monotonic() - began - number / REQUESTS_PER_S
                self.behind_s = max(self.behind_s, late_s)
                if self._stop.wait(max(-late_s, 0)):
                    return
                reply = embed(client, list(itertools.islice(texts, TEXTS_PER_REQUEST))).raise_for_status()
                self.tokens_per_request = reply.json()["usage"]["prompt_tokens"]
                self.sent += 1


def figure(pattern: str, text: str) -> float:
    found = re.search(pattern, text, re.MULTILINE)
    assert found, text
    return float(found[1].replace(",", ""))


@contextmanager
def own_server(tiny_checkpoint: Path, *arguments: str) -> Iterator[RunningServer]:
    with running_server("--model", str(tiny_checkpoint), "--engine", "openvino", *arguments) as server:
        yield server


@pytest.mark.parametrize("kind", ["openvino", "two_process"])
def test_rates_are_those_of_the_load(kind: str, request: pytest.FixtureRequest) -> None:
    server: RunningServer = request.getfixturevalue(f"{kind}_server")
    with PacedLoad(server.base_url) as load:
        done = top(server.base_url, "--once", "--interval", "4")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "\x1b" not in text
    assert text.startswith("1 of 1 ready  tiny-zh, openvino, ")
    close = pytest.approx
    assert figure(r"^embeddings +(\S+)", text) == close(REQUESTS_PER_S, rel=0.1), (text, load.behind_s)
    assert figure(r"^inputs/s +(\S+)", text) == close(REQUESTS_PER_S * TEXTS_PER_REQUEST, rel=0.1), (text, load.behind_s)
    assert figure(r"^tokens/s +(\S+)", text) == close(REQUESTS_PER_S * load.tokens_per_request, rel=0.1), (text, load.behind_s)
    assert figure(r"^batches .* of (\S+) inputs", text) == close(TEXTS_PER_REQUEST, rel=0.1)
    assert re.search(r"^stages .*inference", text, re.MULTILINE) and not re.search(r"^mean .* - +\S+$", text)
    assert ("2 ready" in text) == (kind == "two_process")


def test_one_of_several_that_is_down_is_said(openvino_server: RunningServer, two_process_server: RunningServer) -> None:
    down = "http://127.0.0.1:1"
    done = top(openvino_server.base_url, two_process_server.base_url, down, "--once", "--interval", "0.2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 of 3 ready")
    assert re.search(r"^127\.0\.0\.1:1 +no answer", done.stdout, re.MULTILINE)
    assert "DIFFERENT FINGERPRINTS" not in done.stdout


def test_other_vectors_are_warned_of(openvino_server: RunningServer, minilm_server: RunningServer) -> None:
    done = top(openvino_server.base_url, minilm_server.base_url, "--once", "--interval", "0.1")
    assert "DIFFERENT FINGERPRINTS" in done.stdout
    assert re.search(rf"^[0-9a-f]{{16}} at {minilm_server.base_url[len('http://') :]}$", done.stdout, re.MULTILINE)


def test_nobody_there_is_a_status() -> None:
    done = top("http://127.0.0.1:1", "--interval", "0.1")
    assert done.returncode == 5
    assert "http://127.0.0.1:1: " in done.stderr and "refused" in done.stderr and "Traceback" not in done.stderr
    assert top("127.0.0.1:1").returncode == 2


def assert_left_clean(screen: Terminal) -> None:
    """What was on the terminal is there again, the cursor too, and nothing was written after that but a line's end."""
    assert screen.raw.count(ALTERNATE) == screen.raw.count(MAIN) == 1
    assert screen.raw.rindex(CURSOR) > screen.raw.index(ALTERNATE)
    assert screen.raw.partition(MAIN)[2].replace(CURSOR, "").strip() == ""
    assert "Traceback" not in screen.raw
    assert screen.settings_now() == screen.settings


def test_in_a_terminal_it_outlives_its_server_and_ends_cleanly(tiny_checkpoint: Path) -> None:
    with own_server(tiny_checkpoint) as server, httpx.Client(base_url=server.base_url) as client:
        embed(client, ["一"])
        port = server.base_url.rpartition(":")[2]
        with terminal("top", server.base_url, "--interval", "0.2") as screen:
            screen.wait_for("1 of 1 ready")
            screen.wait_for(r"requests/s +offered")
            assert server.stop() == 0
            screen.wait_for("0 of 1 ready")
            screen.wait_for("no answer")
            with own_server(tiny_checkpoint, "--port", port):
                screen.wait_for("1 of 1 ready")
                screen.wait_for("ready, 1 restarts")
                screen.press(CTRL_C)
                assert screen.wait() == 0
                assert_left_clean(screen)


def test_a_signal_leaves_the_terminal_clean(openvino_server: RunningServer) -> None:
    with terminal("top", openvino_server.base_url, environment={"NO_COLOR": "1"}) as screen:
        screen.wait_for("1 of 1 ready")
        screen.process.send_signal(signal.SIGTERM)
        assert screen.wait() == 128 + signal.SIGTERM
        assert_left_clean(screen)
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", screen.raw)


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(tiny_checkpoint: Path) -> None:
    with own_server(tiny_checkpoint) as server, terminal("top", server.base_url, "--interval", "0.1") as screen:
        screen.wait_for("1 of 1 ready")
        server.process.send_signal(signal.SIGSTOP)
        try:
            screen.wait_for("no answer")
            screen.press(CTRL_C)
            assert screen.wait(timeout_s=20) == 0
            assert_left_clean(screen)
        finally:
            server.process.send_signal(signal.SIGCONT)


def test_a_terminal_that_knows_no_commands_gets_one_plain_picture(openvino_server: RunningServer) -> None:
    with terminal("top", openvino_server.base_url, "--interval", "0.2", environment={"TERM": "dumb"}) as screen:
        screen.wait_for("tokens/s")
        assert screen.wait() == 0
        assert "\x1b" not in screen.raw
