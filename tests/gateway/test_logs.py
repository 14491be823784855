"""What requests leave in the log, in both of its formats, and what a log that cannot be written does to them."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from tests.support import noisy_worker
from tests.support.log_lines import objects_in
from tests.support.server import RunningServer, running_server

DEADLINE_S = 20.0
TINY = ["--engine", "openvino", "--set", "engine.dtype=float32"]
KEY, OTHER_KEY = "sk-held-by-search", "sk-from-environment"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
TEXT = "绝密文件"
IDS = [101, 20123, 20124, 102]
TOKEN_ID = "20123"
# As it would look in a log that escapes what is not ASCII.
SECRETS = [KEY, OTHER_KEY, "sk-guessed", "Bearer", TEXT, TEXT.encode("unicode_escape").decode(), TEXT.encode().hex(), TOKEN_ID]

JSON = "application/json"
BODIES: dict[str, tuple[str, bytes | str]] = {
    "text": (JSON, f'{{"model": "tiny-zh", "input": "{TEXT}"}}'),
    "ids": (JSON, f'{{"model": "tiny-zh", "input": {IDS}}}'),
    "long": (JSON, f'{{"model": "tiny-zh", "input": "{TEXT * 1000}", "truncate": "none"}}'),
    "wrong-ids": (JSON, '{"model": "tiny-zh", "input": [20123, 99999999, -1]}'),
    "mixed": (JSON, f'{{"model": "tiny-zh", "input": ["{TEXT}", 20123, null]}}'),
    "half-a-character": (JSON, f'{{"model": "tiny-zh", "input": "{TEXT}\\ud83d"}}'),
    "no-such-model": (JSON, f'{{"model": "{TEXT}", "input": "{TEXT}"}}'),
    "no-such-choice": (JSON, f'{{"model": "tiny-zh", "input": "{TEXT}", "truncate": "{TEXT}", "dimensions": 20123}}'),
    "broken": (JSON, f'{{"model": "tiny-zh", "input": "{TEXT}'),
    "not-utf8": (JSON, b'{"input": "\xff' + TEXT.encode() + b'"}'),
    "nested": (JSON, "[" * 5000 + f'"{TEXT}"' + "]" * 5000),
    "form": ("application/x-www-form-urlencoded", f"key={KEY}&input={TEXT}"),
    "empty": (JSON, b""),
}
NOT_HTTP = f"POST /v1/embeddings HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\nContent-Length: x\r\n\r\n{TEXT}"


@dataclass
class Talkative:
    server: RunningServer
    log: Path

    def said(self, client: httpx.Client) -> str:
        """All that is in its log and on its standard error, once what came before has been written."""
        client.get("/v1/models", headers={"x-request-id": "the-last"})
        self.server.wait_line(re.compile('(id=|"request_id":")the-last'), DEADLINE_S)
        return self.log.read_text() + self.server.output()


@pytest.fixture(scope="module", params=["1-text", "2-text", "1-json", "2-json"])
def talkative(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Talkative]:
    folder = tmp_path_factory.mktemp("talkative")
    (folder / "keys").write_text(f"search: {KEY}\n")
    processes, _, form = request.param.partition("-")
    arguments = ["--model", str(tiny_checkpoint), *TINY, "--processes", processes, "--log-file", str(folder / "log")]
    arguments += ["--set", "log.level=debug", "--set", f"log.format={form}", "--set", f"server.api_keys_file={folder / 'keys'}"]
    with running_server(*arguments, environment={"SGL_EMBED_API_KEYS": f"env:{OTHER_KEY}"}) as server:
        yield Talkative(server, folder / "log")


@pytest.fixture
def client(talkative: Talkative) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=talkative.server.base_url, timeout=30) as client:
        yield client


def address_of(server: RunningServer) -> tuple[str, int]:
    address = urlsplit(server.base_url)
    assert address.hostname and address.port
    return address.hostname, address.port


def assert_kept_secret(said: str) -> None:
    assert [secret for secret in SECRETS if secret in said] == []
    assert "Traceback" not in said


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize", "/nowhere"])
def test_neither_texts_nor_keys_are_logged(talkative: Talkative, client: httpx.Client, path: str) -> None:
    statuses = {
        name: client.post(path, content=body, headers={**AUTHORIZED, "content-type": kind}).status_code
        for name, (kind, body) in BODIES.items()
    }
    assert max(statuses.values()) < 500
    assert_kept_secret(talkative.said(client))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer sk-guessed"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {OTHER_KEY}, Bearer {KEY}"},
        {"api-key": KEY, "cookie": f"key={KEY}"},
    ],
)
def test_a_refused_key_is_not_logged_either(talkative: Talkative, client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.post(f"/v1/embeddings?api_key={KEY}", json={"input": TEXT}, headers=headers).status_code == 401
    assert_kept_secret(talkative.said(client))


def test_what_is_no_http_is_not_logged(talkative: Talkative, client: httpx.Client) -> None:
    with socket.create_connection(address_of(talkative.server), timeout=DEADLINE_S) as connection:
        connection.sendall(NOT_HTTP.encode())
        assert b" 400 " in connection.recv(4096)
    assert_kept_secret(talkative.said(client))


def test_a_request_has_its_figures(talkative: Talkative, client: httpx.Client) -> None:
    id_ = {"x-request-id": "with-figures"}
    reply = client.post("/v1/embeddings", json={"model": "tiny-zh", "input": [TEXT, TEXT]}, headers={**AUTHORIZED, **id_})
    tokens = reply.json()["usage"]["prompt_tokens"]
    (line,) = {line for line in talkative.said(client).splitlines() if "with-figures" in line}
    figure = r"\d+\.\d+"
    if line.startswith("{"):
        fields = orjson.loads(line)
        times = {name: fields.pop(name) for name in list(fields) if name.endswith("_ms")}
        assert times.keys() == {"duration_ms", "tokenize_ms", "queue_ms", "inference_ms", "encode_ms"}
        assert 0 < times["inference_ms"] < times["duration_ms"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("ts"))
        assert re.fullmatch(r"server|gateway \d", fields.pop("process"))
        assert fields == {
            "level": "info",
            "logger": "launcher.access",
            "message": "POST /v1/embeddings 200",
            "request_id": "with-figures",
            "method": "POST",
            "path": "/v1/embeddings",
            "status": 200,
            "key": "search",
            "task": "embeddings",
            "inputs": 2,
            "tokens": tokens,
            "truncated": 0,
            "cache": "miss",
        }
    else:
        times = " ".join(f"{stage}={figure}ms" for stage in ("tokenize", "queue", "inference", "encode"))
        assert re.search(
            rf"POST /v1/embeddings 200 {figure}ms inputs=2 tokens={tokens} cache=miss {times} key=search id=with-figures$", line
        )


def test_a_client_that_leaves_is_logged_as_one(talkative: Talkative, client: httpx.Client) -> None:
    body = b'{"input": "'
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nX-Request-Id: gone-{len(body)}\r\n"
    with socket.create_connection(address_of(talkative.server), timeout=DEADLINE_S) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n" + body)
    talkative.server.wait_line(re.compile(r' 499 .*gone-11|gone-11.*"status":499'), DEADLINE_S)


def test_a_full_disk_hurts_no_request(tiny_checkpoint: Path) -> None:
    arguments = ["--model", str(tiny_checkpoint), *TINY, "--log-file", "/dev/full"]
    with running_server(*arguments) as server, httpx.Client(base_url=server.base_url, timeout=30) as client:
        for number in range(20):
            id_ = {"x-request-id": f"full-{number}"}
            assert client.post("/v1/embeddings", json={"model": "tiny-zh", "input": TEXT}, headers=id_).status_code == 200
            assert client.post("/v1/embeddings", json={"model": "tiny-zh"}, headers=id_).status_code == 400
        server.wait_line(re.compile("400 .* id=full-19"), DEADLINE_S)
    said = server.output()
    assert said.count("log.file: /dev/full cannot be written: No space left on device; going on without it") == 1
    assert len(re.findall(r"id=full-\d+\n", said)) == 40
    assert "Traceback" not in said


RAW_PATHS = (
    "/你好?q=1".encode(),
    b"/%E4%BD%A0%0A%0D%00forged",
    b'/{"ts":"forged"}\\',
    b"/\xff\xfe",
    b"/" + b"%FF" * 100,
    b"/a%0Alauncher.access:POST%20/v1/embeddings%20200",
)


def ask_raw(server: RunningServer, head: bytes) -> bytes:
    with socket.create_connection(address_of(server), timeout=DEADLINE_S) as connection:
        connection.sendall(head)
        return connection.recv(4096)


def test_a_whole_run_is_json(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Two gateways before a worker that prints whatever comes to its mind and ends of one text: each line of standard output,
    standard error and the file, from the first to the last."""
    file, config = tmp_path / "server.log", tmp_path / "config.yaml"
    python = noisy_worker.installed_at(tmp_path / "python")
    settings = {"format": "json", "level": "debug", "file": str(file)}
    config.write_text(json.dumps({"log": settings, "engine": {"sglang": {"device": "cpu", "python": str(python)}}}))
    arguments = ["--config", str(config), "--model", str(tiny_checkpoint), "--engine", "sglang", "--processes", "2"]
    with running_server(*arguments) as server, httpx.Client(base_url=server.base_url, timeout=60) as client:
        good = {"model": "tiny-zh", "input": TEXT}
        assert client.post("/v1/embeddings", json=good, headers={"x-request-id": "good"}).status_code == 200
        deadly = {"model": "tiny-zh", "input": [5] * noisy_worker.DEADLY_TOKENS}
        assert client.post("/v1/embeddings", json=deadly, headers={"x-request-id": "deadly"}).status_code == 500
        for path in RAW_PATHS:
            assert b"HTTP/1.1 40" in ask_raw(server, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 400 " in ask_raw(server, "你好\r\n{\r\n".encode())
        config.write_text("log: {levle: '\n'}")
        server.process.send_signal(signal.SIGHUP)
        for _ in range(3):
            server.wait_line(re.compile("SIGHUP: reloaded"), DEADLINE_S)
    entries = objects_in(server.output())
    assert {entry["process"] for entry in entries} == {"server", "gateway 0", "gateway 1", "worker 0"}
    assert [entry["message"] for entry in entries if entry["ts"] == "forged"] == []
    # The worker's own words: each as it was printed, and what it died of.
    words = {entry["message"] for entry in entries if entry["process"] == "worker 0"}
    assert {"加载模型 100%|██████████| 1/1", "加载完毕", "broken \ufffd\ufffd bytes and \ufffd half a character"} <= words
    assert "MemoryError: CUDA out of memory: 1 texts" in words
    # What came of it: once told by the server with the last lines in one field, and once by the gateway with a traceback.
    assert any("the last it printed:\n" in entry["message"] and entry["process"] == "server" for entry in entries)
    (failed,) = (entry for entry in entries if "traceback" in entry)
    assert (failed["request_id"], failed["level"]) == ("deadly", "error")
    assert failed["traceback"].startswith("Traceback (most recent call last):\n")
    requests = {entry["path"]: entry["status"] for entry in entries if "path" in entry}
    assert requests == {
        "/v1/embeddings": 500,
        "/%E4%BD%A0%0A%0D%00forged": 404,
        '/{"ts":"forged"}\\': 404,
        ("/" + "%FF" * 100)[:200]: 404,
        "/a%0Alauncher.access:POST%20/v1/embeddings%20200": 404,
    }
    # Bytes that no path may hold, and what was no request.
    assert [entry["status"] for entry in entries if entry.get("reason") == "malformed"] == [400] * 3
    assert [entry["request_id"] for entry in entries if entry.get("status") == 200 and entry.get("task")] == ["good"]
    # The file lacks nothing but what was said before and after it was open.
    assert objects_in(file.read_text()) == entries


def test_the_reason_of_an_end_is_json_too(tmp_path: Path) -> None:
    server = RunningServer(["--model", str(tmp_path / "nowhere" / "else"), "--set", "log.format=json", *TINY])
    assert server.wait() == 3
    assert objects_in(server.output())[-1]["message"].startswith("sgl-embed: ")
