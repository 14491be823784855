"""The command line as users and scripts meet it: mistakes, signals, log files."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml

from tests.support.server import RunningServer, running_server
from tests.support.texts import all_different

TINY = ["--engine", "openvino", "--set", "engine.dtype=float32"]


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launcher", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(environment or {})},
    )


def test_help_and_version():
    assert "serve" in run("--help").stdout
    assert "--num-gpus" in run("serve", "--help").stdout
    assert re.fullmatch(r"sgl-embed|\d+\.\d+\.\d+\n", run("--version").stdout)
    assert run().returncode == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["serve", "--config", "nowhere.yaml"], 2, "nowhere.yaml: cannot be read"),
        (["serve", "--set", "server.prot=1"], 2, "server.prot: unknown key, did you mean port?"),
        (["serve", "--port", "70000"], 2, "server.port: expected `int` <= 65535"),
        (["serve", "--host", "192.0.2.1", "--port", "0"], 2, "cannot listen on 192.0.2.1:0"),
        (["serve", "--log-file", "/nowhere/server.log"], 2, "log.file: /nowhere/server.log cannot be written"),
        (["serve", "--port", "0", "--model", "./nowhere"], 3, "nowhere"),
        (["plan", "--model", "./nowhere"], 3, "nowhere"),
    ],
)
def test_mistakes_are_named_in_one_line(arguments, status, message):
    ended = run(*arguments)
    assert ended.returncode == status, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_named_before_anything_is_loaded(tiny_checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("serve", "--model", str(tiny_checkpoint), "--port", str(port), *TINY)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in ended.stderr


def test_plan_prints_what_would_start(tiny_checkpoint):
    ended = run("plan", "--model", str(tiny_checkpoint), "--engine", "sglang", "--set", "engine.sglang.device=cpu")
    plan = yaml.safe_load(ended.stdout)
    assert (plan["model"]["dimensions"], plan["model"]["pooling"], plan["model"]["max_tokens"]) == (128, "cls", 512)
    argv = plan["engine"]["workers"][0]["argv"]
    assert "--disable-radix-cache" in argv
    assert plan["engine"]["workers"][0]["environment"]["SGLANG_EXTERNAL_MODEL_PACKAGE"]
    assert plan["limits"]["inputs_per_request"] == 2048


def test_plan_may_be_read_in_part(tiny_checkpoint):
    command = [sys.executable, "-m", "launcher", "plan", "--model", str(tiny_checkpoint), "--engine", "openvino"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as plan:
        plan.stdout.close()
        assert plan.stderr.read() == ""
    assert plan.returncode == 141


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_an_idle_server_at_once(tiny_checkpoint, number):
    server = RunningServer(["--model", str(tiny_checkpoint), *TINY]).wait_ready()
    assert server.stop(number) == 0
    assert "Traceback" not in server.output()


def test_a_signal_during_the_start_ends_it(tiny_checkpoint):
    server = RunningServer(["--model", str(tiny_checkpoint), "--engine", "sglang", "--set", "engine.sglang.device=cpu"])
    server.wait_line(re.compile("worker 0"), timeout_s=60)
    server.stop(signal.SIGINT)
    assert "Traceback" not in server.output()


def test_accepted_requests_are_answered_before_the_end(tiny_checkpoint):
    server = RunningServer(["--model", str(tiny_checkpoint), *TINY]).wait_ready()
    body = {"model": "tiny-zh", "input": all_different(400, 500)}
    with httpx.Client(base_url=server.base_url, timeout=60) as client:

        def in_flight() -> bool:
            return "embedding_tokens_in_flight 0.0" not in httpx.get(f"{server.base_url}/metrics").text

        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(client.post, "/v1/embeddings", json=body)
            while not in_flight():
                assert not reply.done(), "the request ended before it was seen in flight"
            server.process.send_signal(signal.SIGTERM)
            assert reply.result().status_code == 200
    assert server.wait() == 0


def test_log_file_holds_the_log(tiny_checkpoint, tmp_path):
    log_file = tmp_path / "server.log"
    with running_server("--model", str(tiny_checkpoint), *TINY, "--log-file", str(log_file)) as server:
        httpx.get(f"{server.base_url}/v1/models", headers={"x-request-id": "find-me"})
    assert "GET /v1/models 200" in log_file.read_text()
    assert "id=find-me" in log_file.read_text()


def test_listening_on_all_addresses_without_keys_is_warned_of(tiny_checkpoint):
    with running_server("--model", str(tiny_checkpoint), *TINY, "--host", "0.0.0.0") as server:
        assert "without API keys" in server.output()
        assert server.base_url.startswith("http://127.0.0.1:")


def test_counting_gpus_where_there_are_none_is_refused(tiny_checkpoint):
    ended = run(
        "plan",
        "--model",
        str(tiny_checkpoint),
        "--engine",
        "sglang",
        "--num-gpus",
        "4",
        environment={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert ended.returncode == 4
    assert "no NVIDIA GPU is visible" in ended.stderr


def test_a_short_limit_serves(tiny_checkpoint):
    with running_server("--model", str(tiny_checkpoint), *TINY, "--set", "model.max_tokens=3") as server:
        body = {"model": "tiny-zh", "input": "很长的文字"}
        reply = httpx.post(f"{server.base_url}/v1/embeddings", json=body)
        assert reply.json()["usage"]["prompt_tokens"] == 3
