"""What a server counts of what it turned away, and of itself."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import time

import httpx
import psutil
import pytest

from launcher.embedding.tokens import Tokenizer
from launcher.engines.openvino.rows import arrange, run_cost
from tests.support.checkpoints import TINY
from tests.support.full_queue import full_queue
from tests.support.metrics import metrics_of
from tests.support.processes import wait_until
from tests.support.raw import connect, read_reply, read_to_end
from tests.support.server import RunningServer, running_server

HELLO = {"model": "tiny-zh", "input": "你好"}
CONNECTIONS = 8
DEADLINE_S = 20.0
FUZZED_REQUESTS = 300


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text("free: free-key\nslow: {key: slow-key, requests_per_minute: 1}\n")
    settings = (f"api_keys_file={keys}", "max_body_mb=1", "head_timeout_s=0.5", f"max_connections={CONNECTIONS}")
    arguments = [argument for setting in settings for argument in ("--set", f"server.{setting}")]
    with running_server("--model", str(tiny_checkpoint), "--engine", "openvino", *arguments) as server:
        yield server


def client_of(server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=server.base_url, headers={"Authorization": "Bearer free-key"})


def rejected(client: httpx.Client) -> dict[str, float]:
    shown = metrics_of(client)
    name = 'embedding_requests_rejected_total{reason="'
    return {series.removeprefix(name).removesuffix('"}'): value for series, value in shown.items() if series.startswith(name)}


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    assert before.keys() == after.keys(), "a series came or went"
    return {reason: value - before[reason] for reason, value in after.items() if value != before[reason]}


def use_up(client: httpx.Client) -> None:
    client.headers["Authorization"] = "Bearer slow-key"
    while client.get("/v1/models").status_code != 429:
        pass


REQUESTS = {
    "invalid": lambda client: client.post("/v1/embeddings", json={**HELLO, "dimensions": 3}),
    "model_not_found": lambda client: client.post("/v1/embeddings", json={**HELLO, "model": "other"}),
    "not_found": lambda client: client.get("/v1/nothing"),
    "body_too_large": lambda client: client.post("/v1/embeddings", content=b" " * (2 << 20), headers=JSON),
    "unsupported_body": lambda client: client.post("/v1/embeddings", content=b"{}", headers={"content-type": "text/plain"}),
    "unauthorized": lambda client: client.get("/v1/models", headers={"Authorization": "Bearer wrong"}),
    "rate_limited": use_up,
}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("reason", REQUESTS)
def test_a_refused_request_is_counted_once_under_its_reason(server: RunningServer, reason: str) -> None:
    with client_of(server) as client:
        before = rejected(client)
        REQUESTS[reason](client)
        assert grown(before, rejected(client)) == {reason: 1}


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("malformed", b"NOT HTTP\r\n\r\n"),
        ("head_too_large", b"GET /live HTTP/1.1\r\nx: " + b"a" * (40 << 10) + b"\r\n\r\n"),
        ("head_timeout", b"GET /live HTTP/1.1\r\nhost: "),
    ],
)
def test_what_never_became_a_request_is_counted_too(server: RunningServer, reason: str, sent: bytes) -> None:
    with client_of(server) as client, connect(server) as connection:
        before = rejected(client)
        connection.sendall(sent)
        assert read_to_end(connection)
        assert grown(before, rejected(client)) == {reason: 1}


def test_a_connection_too_many_is_counted(server: RunningServer) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(client_of(server))
        before = rejected(client)
        for _ in range(CONNECTIONS - 1):
            connection = stack.enter_context(connect(server))
            # Its answer says that the connection is taken, not only that the kernel has it.
            connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert read_reply(connection).status == 200
        extra = stack.enter_context(connect(server))
        assert b"503" in read_to_end(extra)
        assert grown(before, rejected(client)) == {"too_many_connections": 1}


def test_answered_requests_and_probes_are_not_counted_as_rejected(server: RunningServer) -> None:
    with client_of(server) as client:
        before = rejected(client)
        for path in ("/health", "/ready", "/live", "/v1/models"):
            assert client.get(path).status_code == 200
        assert client.post("/v1/embeddings", json=HELLO).status_code == 200
        assert grown(before, rejected(client)) == {}


def test_nothing_is_in_flight_once_all_is_answered(server: RunningServer) -> None:
    with client_of(server) as client:
        client.post("/v1/embeddings", json=HELLO)
        client.post("/v1/embeddings", json={**HELLO, "input": ""})
        shown = metrics_of(client)
    assert {shown[f'embedding_requests_in_flight{{task="{task}"}}'] for task in ("embeddings", "tokenize")} == {0}


def test_the_time_that_loading_took_is_told(server: RunningServer) -> None:
    with client_of(server) as client:
        assert 0 < metrics_of(client)["embedding_model_load_seconds"] < 60


def flow(client: httpx.Client, task: str = "embeddings") -> dict[str, float]:
    shown = metrics_of(client)
    counted = {name: shown[f'embedding_requests_{name}_total{{task="{task}"}}'] for name in ("offered", "accepted")}
    answered = {name: value for name, value in shown.items() if name.startswith("embedding_requests_total{") and task in name}
    return {**counted, "answered": sum(answered.values())}


@pytest.mark.parametrize(
    ("path", "body", "accepted"),
    [
        ("/v1/embeddings", HELLO, True),
        ("/v1/embeddings", {**HELLO, "input": ["一", "一", "二"]}, True),
        ("/v1/embeddings", {**HELLO, "input": ""}, False),
        ("/v1/embeddings", {**HELLO, "input": [[99999999]]}, False),
        ("/v1/embeddings", {**HELLO, "input": "你" * 600, "truncate": "none"}, False),
        ("/tokenize", {"input": "你好"}, True),
        ("/tokenize", {"input": "你" * 600, "truncate": "none"}, False),
    ],
)
def test_what_is_taken_on_is_accepted(server: RunningServer, path: str, body: dict[str, object], accepted: bool) -> None:
    task = "tokenize" if path == "/tokenize" else "embeddings"
    with client_of(server) as client:
        # The second time a cache has it.
        for _ in range(2):
            before = flow(client, task)
            reply = client.post(path, json=body)
            assert reply.status_code == (200 if accepted else 400)
            after = flow(client, task)
            assert {name: after[name] - before[name] for name in after} == {"offered": 1, "accepted": accepted, "answered": 1}


@pytest.fixture(scope="module")
def slow_server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """With one thread and without a cache, so that a test can have requests wait."""
    settings = ("engine.dtype=float32", "engine.openvino.threads=1", "cache.memory_mb=0")
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    with running_server("--model", str(tiny_checkpoint), "--engine", "openvino", *arguments) as server:
        yield server


def test_positions_without_a_token_are_counted(slow_server: RunningServer, tiny_checkpoint: Path) -> None:
    texts = ["你" * length for length in (3, 300, 90, 120, 5)]
    lengths = [len(item.ids) for item in Tokenizer(tiny_checkpoint, 512, TINY.vocab_size).encode(texts, "end")]
    runs = arrange(lengths, run_cost(TINY.hidden_size))
    expected = sum(run.rows * run.width for run in runs) - sum(lengths)
    assert expected
    with client_of(slow_server) as client:
        before = metrics_of(client)
        # Its self-test is no work that anyone asked for.
        assert before["embedding_padding_tokens_total"] == before["embedding_batch_tokens_sum"] == 0
        client.post("/v1/embeddings", json={**HELLO, "input": texts}).raise_for_status()
        after = metrics_of(client)
    assert after["embedding_padding_tokens_total"] == expected
    assert after["embedding_batch_tokens_sum"] == sum(lengths)


def test_what_waits_and_for_how_long_is_told(slow_server: RunningServer) -> None:
    names = ("embedding_queue_tokens", "embedding_queue_oldest_seconds")
    with client_of(slow_server) as client:
        idle = metrics_of(client)
        assert [idle[name] for name in names] == [0, 0]
        with full_queue(slow_server):
            first = metrics_of(client)
            assert 0 < first["embedding_queue_tokens"] < first["embedding_tokens_in_flight"]
            later = metrics_of(client)
            assert later["embedding_queue_oldest_seconds"] > first["embedding_queue_oldest_seconds"] > 0
        wait_until("an empty queue", lambda: not any(metrics_of(client)[name] for name in names), DEADLINE_S)


def test_what_the_process_uses_is_told(server: RunningServer) -> None:
    process = psutil.Process(server.process.pid)
    with client_of(server) as client:
        wait_until("a reading", lambda: 'embedding_process_open_fds{process="server"}' in metrics_of(client), DEADLINE_S)
        shown = metrics_of(client)
        use = {name: shown[f'embedding_process_{name}{{process="server"}}'] for name in PROCESS_METRICS}
        assert use["start_time_seconds"] == pytest.approx(process.create_time(), abs=2)
        assert use["start_time_seconds"] < time()
        assert use["resident_memory_bytes"] == pytest.approx(process.memory_info().rss, rel=0.5)
        assert 5 < use["open_fds"] < use["max_fds"] == process.rlimit(psutil.RLIMIT_NOFILE)[0]
        times = process.cpu_times()
        assert 0 < use["cpu_seconds_total"] <= times.user + times.system
        # What it used until now is shown before long.
        until_now = times.user + times.system
        wait_until(
            "its CPU time", lambda: metrics_of(client)['embedding_process_cpu_seconds_total{process="server"}'] >= until_now, 20
        )
    assert shown['embedding_python_gc_collections_total{generation="2",process="server"}'] >= 1
    assert shown['embedding_self_tests_total{process="server",result="passed"}'] == 1


PROCESS_METRICS = ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds")


def test_nothing_that_clients_send_adds_a_series(server: RunningServer) -> None:
    chance = random.Random(6)
    statuses = set()
    with client_of(server) as client:
        wait_until("a reading", lambda: 'embedding_process_open_fds{process="server"}' in metrics_of(client), DEADLINE_S)
        before = metrics_of(client)
        for _ in range(FUZZED_REQUESTS):
            method, path, headers, body = anything(chance)
            statuses.add(client.request(method, path, headers=headers, content=body).status_code)
        after = metrics_of(client)
    assert len(statuses) >= 7, statuses
    assert after.keys() == before.keys()


def anything(chance: random.Random) -> tuple[str, str, dict[str, bytes], bytes]:
    """A request of which each part is right or made up."""

    def word() -> str:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz0123456789-_.", k=chance.randint(1, 24)))

    def maybe(right: str) -> str:
        return right if chance.random() < 0.7 else chance.choice([word(), "", right + word(), "你好", "a" * 500])

    inputs: list[object] = ["你好", ["a", "b"], [[101, 102]], [1, 2], "", None, [], word(), ["x"] * 3000, {"a": 1}, 7]
    body = {"model": maybe("tiny-zh"), "input": chance.choice(inputs), word(): word(), "user": word()}
    body |= {name: chance.choice(["end", "none", "float", "base64", 3, 128, word()]) for name in chance.sample(FIELDS, 2)}
    headers = {
        "content-type": maybe("application/json"),
        "authorization": f"Bearer {maybe('free-key')}".rstrip(),
        "x-request-id": word(),
        word().strip("-_.") or "x": word(),
    }
    if chance.random() < 0.2:
        headers["x-request-timeout-ms"] = chance.choice(["1", "0", word(), "9" * 30])
    method = "POST" if chance.random() < 0.7 else chance.choice([*METHODS, word().upper()])
    paths = ["/v1/embeddings", "/tokenize", f"/v1/models/{word()}", f"/{word()}", f"/{word()}/{word()}?{word()}={word()}"]
    path = chance.choice(paths)
    content = json.dumps(body).encode()
    if chance.random() < 0.1:
        content = chance.choice([content[: len(content) // 2], b"", b"\xff", b" " * (2 << 20)])
    return method, path, {name: value.encode() for name, value in headers.items()}, content


METHODS = ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
FIELDS = ("truncate", "encoding_format", "dimensions", "input_type")
