"""The same promises with OpenVINO, where the engine is in the server's own process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import openai
import psutil
import pytest

from tests.support.load import Load, Vectors, reference_of
from tests.support.processes import alive, everything, metric, restarts, wait_until
from tests.support.server import RunningServer, running_server
from tests.support.texts import SENTENCES

pytestmark = pytest.mark.timeout(120)

DEADLINE_S = 30.0
GONE_TIMEOUT_S = 10.0
THIS_YEAR = datetime.now(UTC).year


def arguments(checkpoint: Path, *more: str) -> tuple[str, ...]:
    return ("--model", str(checkpoint), "--engine", "openvino", "--set", "engine.dtype=float32", *more)


@pytest.fixture(scope="module")
def reference(openvino_server: RunningServer) -> dict[str, Vectors]:
    return reference_of(openvino_server.base_url, SENTENCES)


@pytest.fixture
def two_gateways(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    with running_server(*arguments(tiny_checkpoint, "--processes", "2")) as server:
        yield server


def gateways(server: RunningServer) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if alive(child) and "launcher.serve.child" in child.cmdline()]


def test_an_openai_client_does_not_notice_that_a_gateway_was_killed(two_gateways: RunningServer) -> None:
    """Its connection is lost; it tries again by itself, and lands on the other."""
    client = openai.OpenAI(base_url=f"{two_gateways.base_url}/v1", api_key="EMPTY")
    texts = list(SENTENCES)
    expected = len(client.embeddings.create(model="tiny-zh", input=texts).data)
    for process in gateways(two_gateways):
        before = restarts(two_gateways)
        process.kill()
        assert len(client.embeddings.create(model="tiny-zh", input=texts).data) == expected
        wait_until("it is started again", lambda before=before: restarts(two_gateways) == before + 1, DEADLINE_S)
        wait_until("there are two again", lambda: len(gateways(two_gateways)) == 2, DEADLINE_S)


def test_the_other_gateway_answers_all_that_reaches_it(two_gateways: RunningServer, reference: dict[str, Vectors]) -> None:
    with Load(two_gateways.base_url, reference, clients=6) as load:
        load.wait_for(300)
        gateways(two_gateways)[0].kill()
        wait_until("it is started again", lambda: restarts(two_gateways) == 1, DEADLINE_S)
        load.wait_for(300)
    # Three of the six clients had a request on the connection that was lost, and may have lost one more: what is handed to a
    # process while the kernel takes it down is lost with it.
    assert set(load.outcomes) <= {200, "RemoteProtocolError", "ReadError"}, load.outcomes
    assert load.outcomes[200] >= 600
    assert sum(load.outcomes.values()) - load.outcomes[200] <= 6
    assert load.wrong == 0


def test_a_gateway_that_hangs_is_replaced(two_gateways: RunningServer, reference: dict[str, Vectors]) -> None:
    hanging, other = gateways(two_gateways)
    hanging.send_signal(signal.SIGSTOP)
    two_gateways.wait_line(re.compile("gateway 0 has given no sign of life for 20 s; it is started again in 0 s"), 60)
    wait_until("it is gone", lambda: not alive(hanging), DEADLINE_S)
    wait_until("there are two again", lambda: len(gateways(two_gateways)) == 2, DEADLINE_S)
    with Load(two_gateways.base_url, reference, clients=6) as load:
        load.wait_for(100)
    assert set(load.outcomes) == {200}, load.outcomes
    assert alive(other)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_that_is_killed_leaves_no_process(
    tiny_checkpoint: Path, reference: dict[str, Vectors], processes: str
) -> None:
    server = RunningServer(arguments(tiny_checkpoint, "--processes", processes)).wait_ready()
    started = everything(server)
    assert len(started) == {"1": 1, "2": 3}[processes]
    with Load(server.base_url, reference, clients=2) as load:
        load.wait_for(20)
        server.process.kill()
        wait_until("none of its processes lives", lambda: not any(map(alive, started)), GONE_TIMEOUT_S)
    assert server.wait() == -signal.SIGKILL


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_under_load_loses_nothing(tiny_checkpoint: Path, reference: dict[str, Vectors], processes: str) -> None:
    server = RunningServer(arguments(tiny_checkpoint, "--processes", processes)).wait_ready()
    clients = 8
    with Load(server.base_url, reference, clients) as load:
        load.wait_for(200)
        load.end_count()
        # 0: whatever was accepted was answered.
        assert server.stop() == 0, server.output()
    # What was on its way when the signal came, and not yet accepted, may be told to go elsewhere: one request of each client,
    # since those whose answers came with one batch ask again at the same moment.
    assert set(load.outcomes) <= {200, 503}, load.outcomes
    assert load.outcomes[503] <= clients, load.outcomes
    assert load.wrong == 0


def test_clocks_that_jump_hurt_nobody(tiny_checkpoint: Path, reference: dict[str, Vectors], tmp_path: Path) -> None:
    library = faketime_library()
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        # Seconds until it looks at the file again.
        "FAKETIME_CACHE_DURATION": "1",
        # The kernel never lets this one jump.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with running_server(*arguments(tiny_checkpoint), environment=faked) as server:
        with Load(server.base_url, reference, clients=4) as load:
            load.wait_for(50)
            for jump, year in (("+40y", THIS_YEAR + 40), ("-20y", THIS_YEAR - 20), ("+0", THIS_YEAR)):
                clock.write_text(jump)
                wait_until("the clock jumps", lambda year=year: abs(logged_year(server) - year) <= 1, DEADLINE_S)
                load.wait_for(50)
        assert set(load.outcomes) == {200}, load.outcomes
        assert load.wrong == 0
        assert metric(server, "embedding_tokens_in_flight") == 0


def logged_year(server: RunningServer) -> int:
    return int(next(line for line in reversed(server.lines) if "POST" in line)[:4])


def faketime_library() -> str:
    program = shutil.which("faketime")
    assert program, "libfaketime is missing. On Debian and Ubuntu: apt install faketime"
    told = subprocess.run([program, "now", "env"], capture_output=True, text=True, check=True, env={**os.environ})
    return next(line.partition("=")[2] for line in told.stdout.splitlines() if line.startswith("LD_PRELOAD="))
