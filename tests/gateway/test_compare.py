"""``sgl-embed compare`` against real servers: same vectors, other vectors, other sizes, no server."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.checkpoints import TINY, write_checkpoint
from tests.support.server import RunningServer, running_server

KEY = "a-key-of-this-test"


def compare(old: str, new: str, *arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "launcher", "compare", old, new, *arguments)
    environment = {**os.environ, "SGL_EMBED_API_KEY": key or ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture(scope="module")
def same_weights_other_length(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """The fingerprint differs, and so do vectors of texts beyond the limit."""
    arguments = ("--model", str(tiny_checkpoint), "--engine", "openvino", "--set", "engine.dtype=float32")
    keys = {"SGL_EMBED_API_KEYS": f"test:{KEY}"}
    with running_server(*arguments, "--set", "model.max_tokens=256", environment=keys) as server:
        yield server


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = write_checkpoint(tmp_path_factory.mktemp("models") / "tiny-zh", TINY, seed=11)
    with running_server("--model", str(folder), "--engine", "openvino", "--set", "engine.dtype=float32") as server:
        yield server


def test_a_server_agrees_with_itself(openvino_server: RunningServer) -> None:
    done = compare(openvino_server.base_url, openvino_server.base_url + "/")
    assert done.returncode == 0, done.stderr
    assert re.search(r"may be mixed: .* agree to a cosine of 1\.0000", done.stdout), done.stdout


def test_other_weights_of_the_same_name_must_not_be_mixed(openvino_server: RunningServer, other_weights: RunningServer) -> None:
    done = compare(openvino_server.base_url, other_weights.base_url)
    assert done.returncode == 1, done.stderr
    assert "must not be mixed" in done.stdout


def test_another_limit_of_length_shows_and_keys_are_sent(
    openvino_server: RunningServer, same_weights_other_length: RunningServer
) -> None:
    done = compare(openvino_server.base_url, same_weights_other_length.base_url, key=KEY)
    assert done.returncode == 1, done.stderr
    (cosine,) = re.findall(r"a cosine of (\S+)", done.stdout)
    enough = ("--min-cosine", str(float(cosine) - 1e-4))
    assert compare(openvino_server.base_url, same_weights_other_length.base_url, *enough, key=KEY).returncode == 0
    refused = compare(openvino_server.base_url, same_weights_other_length.base_url)
    assert refused.returncode == 5
    assert "401" in refused.stderr and "Traceback" not in refused.stderr


def test_a_server_that_is_not_there_is_named(openvino_server: RunningServer) -> None:
    done = compare(openvino_server.base_url, "http://127.0.0.1:1")
    assert done.returncode == 5
    assert "http://127.0.0.1:1/v1/models" in done.stderr and "Traceback" not in done.stderr


class Lookalike(ThreadingHTTPServer):
    """Says to be what another says to be too, as with another version of an engine, but has vectors of its own."""

    def __init__(self, vector: list[float]) -> None:
        super().__init__(("127.0.0.1", 0), LookalikeRequest)
        self.vector = vector
        self.url = f"http://127.0.0.1:{self.server_port}"


class LookalikeRequest(BaseHTTPRequestHandler):
    server: Lookalike

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "tiny-zh", "fingerprint": "0" * 16, "dimensions": 2}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._reply({"data": [{"embedding": self.server.vector} for _ in request["input"]]})

    def _reply(self, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def lookalike(*vector: float) -> Iterator[str]:
    with Lookalike([*vector]) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


def test_a_fingerprint_does_not_answer_for_the_vectors() -> None:
    with lookalike(1, 0) as old, lookalike(0, 1) as new:
        assert compare(old, old).returncode == 0
        assert compare(old, new).returncode == 1


@pytest.mark.parametrize("reply", [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def test_what_is_no_such_server_did_not_answer(openvino_server: RunningServer, reply: bytes) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = Thread(target=answer_once, args=(listener, reply))
        thread.start()
        done = compare(f"http://127.0.0.1:{listener.getsockname()[1]}", openvino_server.base_url)
        thread.join()
    assert done.returncode == 5, done.stdout
    assert "Traceback" not in done.stderr


def answer_once(listener: socket.socket, reply: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(reply)
