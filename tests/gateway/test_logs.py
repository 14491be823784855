"""What requests leave in the log, and what a log that cannot be written does to them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

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
        self.server.wait_line(re.compile("id=the-last"), DEADLINE_S)
        return self.log.read_text() + self.server.output()


@pytest.fixture(scope="module", params=["1", "2"], ids=["one-process", "two-processes"])
def talkative(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Talkative]:
    folder = tmp_path_factory.mktemp("talkative")
    (folder / "keys").write_text(f"search: {KEY}\n")
    arguments = ["--model", str(tiny_checkpoint), *TINY, "--processes", request.param, "--log-file", str(folder / "log")]
    arguments += ["--set", "log.level=debug", "--set", f"server.api_keys_file={folder / 'keys'}"]
    with running_server(*arguments, environment={"SGL_EMBED_API_KEYS": f"env:{OTHER_KEY}"}) as server:
        yield Talkative(server, folder / "log")


@pytest.fixture
def client(talkative: Talkative) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=talkative.server.base_url, timeout=30) as client:
        yield client


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
    address = urlsplit(talkative.server.base_url)
    assert address.hostname and address.port
    with socket.create_connection((address.hostname, address.port), timeout=DEADLINE_S) as connection:
        connection.sendall(NOT_HTTP.encode())
        assert b" 400 " in connection.recv(4096)
    assert_kept_secret(talkative.said(client))


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
