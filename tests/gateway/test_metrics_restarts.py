"""What is counted and measured stays right when processes end and others take their place, whichever gateway is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import noisy_worker
from tests.support.metrics import metrics_of
from tests.support.nvml import StandInGpu, StandInNvml
from tests.support.processes import wait_until
from tests.support.server import RunningServer, running_server

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 30.0
GATEWAYS = ("gateway 0", "gateway 1")
MIB = 1 << 20


@contextmanager
def asking(server: RunningServer) -> Iterator[Sequence[httpx.Client]]:
    """With a connection to each of two gateways."""
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=server.base_url, timeout=60)) for _ in GATEWAYS]
        for client in clients:
            client.get("/live").raise_for_status()
        yield clients


class Seen:
    """What clients saw, to be compared with what the server counted."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.answers: dict[int, int] = {}
        self.tokens = self.inputs = 0

    def ask(self, *inputs: object, model: str = "tiny-zh") -> None:
        """Each of both gateways for each of them."""
        with asking(self._server) as clients:
            for client in clients:
                for each in inputs:
                    reply = client.post("/v1/embeddings", json={"model": model, "input": each})
                    self.answers[reply.status_code] = self.answers.get(reply.status_code, 0) + 1
                    if reply.is_success:
                        self.tokens += reply.json()["usage"]["prompt_tokens"]
                        self.inputs += len(reply.json()["data"])

    def check(self) -> None:
        """Both gateways show it; the last answers may have left before they were counted."""
        expected = {
            'embedding_requests_offered_total{task="embeddings"}': sum(self.answers.values()),
            'embedding_request_duration_seconds_count{task="embeddings"}': sum(self.answers.values()),
            'embedding_requests_in_flight{task="embeddings"}': 0,
            "embedding_tokens_total": self.tokens,
            "embedding_inputs_total": self.inputs,
        }
        for status, count in self.answers.items():
            expected[f'embedding_requests_total{{status="{status}",task="embeddings"}}'] = count
        with asking(self._server) as clients:
            for client in clients:

                def counted(client: httpx.Client = client) -> bool:
                    shown = metrics_of(client)
                    return {name: shown[name] for name in expected} == expected

                wait_until(f"{expected}", counted, DEADLINE_S)


def of_process(shown: dict[str, float], name: str, process: str) -> float | None:
    return shown.get(f'embedding_process_{name}{{process="{process}"}}')


def metrics(server: RunningServer) -> dict[str, float]:
    with asking(server) as clients:
        return metrics_of(clients[0])


def wait_for(server: RunningServer, what: str, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    shown: dict[str, float] = {}

    def holds() -> bool:
        nonlocal shown
        shown = metrics(server)
        return condition(shown)

    wait_until(what, holds, DEADLINE_S)
    return shown


def test_a_gateway_that_is_killed_takes_no_figure_with_it(tiny_checkpoint: Path) -> None:
    arguments = ("--model", str(tiny_checkpoint), "--engine", "openvino", "--processes", "2")
    with running_server(*arguments) as server:
        names = ("server", *GATEWAYS)
        before = wait_for(server, "all measured", lambda shown: all(of_process(shown, "open_fds", name) for name in names))
        seen = Seen(server)
        seen.ask("一", ["二", "三"], "", ["四"] * 3)
        seen.check()
        starts = {of_process(before, "start_time_seconds", name): name for name in names}
        killed = min(psutil.Process(server.process.pid).children(), key=psutil.Process.create_time)
        name = min((start, name) for start, name in starts.items() if name != "server" and start)[1]
        killed.kill()
        server.wait_line(re.compile(f"{name} ended .killed by signal 9.; it is started again"), DEADLINE_S)

        def is_back(shown: dict[str, float]) -> bool:
            start = of_process(shown, "start_time_seconds", name)
            return bool(start and start not in starts and shown[f'embedding_process_state{{process="{name}",state="ready"}}'])

        after = wait_for(server, "another in its place", is_back)
        assert after["embedding_ready"] == 1
        for each in names:
            earlier, later = (of_process(shown, "cpu_seconds_total", each) for shown in (before, after))
            assert later and earlier and later > 0 and later >= earlier
            assert after[collections_of(each)] >= before[collections_of(each)] > 0
        seen.ask("五", ["一", "六"], {"no": "input"})
        seen.check()
        # What is measured is told of all by each of them.
        with asking(server) as clients:
            for client in clients:
                shown = metrics_of(client)
                assert all((of_process(shown, "resident_memory_bytes", each) or 0) > 10 * MIB for each in names)
                assert shown["embedding_ready"] == 1


def collections_of(process: str) -> str:
    return f'embedding_python_gc_collections_total{{generation="0",process="{process}"}}'


@pytest.fixture
def worker_arguments(tiny_checkpoint: Path, tmp_path: Path) -> Sequence[str]:
    """Two gateways before one worker that is none of SGLang's."""
    config = tmp_path / "config.yaml"
    python = noisy_worker.installed_at(tmp_path / "python")
    config.write_text(json.dumps({"engine": {"sglang": {"python": str(python)}}}))
    return ["--config", str(config), "--model", str(tiny_checkpoint), "--engine", "sglang", "--processes", "2"]


def test_a_worker_that_ends_takes_no_figure_with_it(worker_arguments: Sequence[str]) -> None:
    with running_server(*worker_arguments, "--set", "engine.sglang.device=cpu") as server:

        def results(shown: dict[str, float], name: str) -> tuple[float, float]:
            passed, failed = (shown[f'embedding_{name}_total{{process="worker 0",result="{each}"}}'] for each in RESULTS)
            return passed, failed

        before = wait_for(server, "its use", lambda shown: bool(of_process(shown, "open_fds", "worker 0")))
        assert results(before, "self_tests") == (1, 0)
        wait_for(server, "a first check", lambda shown: results(shown, "watchdog_checks") == (1, 0))
        seen = Seen(server)
        seen.ask("一", ["二", "三"])
        # It ends of this, as the next one does of the second try.
        with asking(server) as (client, _):
            deadly = {"model": "tiny-zh", "input": [5] * noisy_worker.DEADLY_TOKENS}
            seen.answers[client.post("/v1/embeddings", json=deadly).status_code] = 1

        def is_back(shown: dict[str, float]) -> bool:
            start = of_process(shown, "start_time_seconds", "worker 0")
            was = of_process(before, "start_time_seconds", "worker 0")
            return bool(start and start != was and shown['embedding_process_state{process="worker 0",state="ready"}'])

        after = wait_for(server, "another in its place", is_back)
        assert seen.answers == {200: 4, 500: 1}
        seen.ask("四", ["一", "五"])
        seen.check()
        assert after['embedding_process_restarts_total{process="worker 0"}'] == 2
        assert results(after, "self_tests") == (3, 0)
        assert results(after, "watchdog_checks")[1] == 0
        earlier, later = (of_process(shown, "cpu_seconds_total", "worker 0") for shown in (before, after))
        assert later and earlier and later > earlier > 0
        # A worker lays texts end to end, and has no GPU here.
        assert after["embedding_padding_tokens_total"] == 0
        assert not [name for name in after if "gpu" in name]


RESULTS = ("passed", "failed")


def test_gpus_are_shown_by_every_gateway_and_vanish_with_the_driver(worker_arguments: Sequence[str], tmp_path: Path) -> None:
    folder = tmp_path / "nvml"
    folder.mkdir()
    nvml = StandInNvml(folder, StandInGpu(used=3 * MIB, total=8 * MIB, percent=75))
    with running_server(*worker_arguments, environment=nvml.environment(REPOSITORY)) as server:
        series = {
            'embedding_gpu_memory_used_bytes{gpu="0"}': 3 * MIB,
            'embedding_gpu_memory_total_bytes{gpu="0"}': 8 * MIB,
            'embedding_gpu_utilization_ratio{gpu="0"}': 0.75,
        }
        wait_for(server, "the GPU", lambda shown: series.items() <= shown.items())
        with asking(server) as clients:
            assert all(series.items() <= metrics_of(client).items() for client in clients)
        nvml.driver = False
        nvml.tell()
        wait_for(server, "no GPU", lambda shown: not series.keys() & shown.keys())
        seen = Seen(server)
        seen.ask("一")
        seen.check()
        nvml.driver = True
        nvml.tell()
        wait_for(server, "the GPU again", lambda shown: series.items() <= shown.items())
