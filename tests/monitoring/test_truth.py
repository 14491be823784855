"""What the boards say is what clients saw: their queries, put to a real Prometheus that scrapes a live server under ``wrk``.

Compared is between two scrapes: what Prometheus reckons from the first and the last of a window with what wrk counted between
those two moments. So neither a busy machine nor the load's beginning and end have a part in it.
"""

from __future__ import annotations

import bisect
import math
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from launcher.telemetry.metrics import SECONDS
from monitoring.expressions import DEFAULTS, filled, panels_of, read_board
from tests.monitoring.proof.shorter import shorter
from tests.support.load import MODEL
from tests.support.processes import metric, restarts, wait_until
from tests.support.prometheus import RunningPrometheus, running_prometheus
from tests.support.server import RunningServer, running_server
from tests.support.tally import Request, Tally, tally, write_requests
from tests.support.texts import all_different, of_tokens
from tests.support.troubled_worker import Orders, Trouble

NEAR = 0.05
CLIENTS = 16
SCRAPE_S = 1
WINDOW_S = 10
# Longer than the window, since it begins before the first scrape and ends after the last.
LOAD_S = WINDOW_S + 4
TOKENS = 62
REFUSED_TOKENS = 33

TOTAL = "embedding_requests_total"

MONITORING = Path(__file__).parents[2] / "monitoring"
BOARD = read_board(MONITORING / "grafana/dashboards/service.json")
RULES = sorted((MONITORING / "prometheus/rules").glob("*.yml"))
# What the rules record over 5 minutes is recorded over the window here.
FACTOR = 300 / WINDOW_S
RECORDED = re.compile(r"namespace_job:[\w:]+")
# Panels, and in each the query with this legend: what goes on in time, and the number of the last 5 minutes.
REQUESTS = (("Requests offered, taken on, and not", "{{task}} offered"), ("Offered", ""))
ERRORS = (("Answers that are errors", "5xx"), ("Failed", ""))
TOKEN_RATES = (("Tokens a second", "tokens/s"), ("Tokens", ""))
P95S = (("Duration of requests for embeddings", "P95"), ("P95", ""))
Panel = tuple[str, str]


def board(panel: Panel) -> str:
    """As Grafana would send it."""
    title, legend = panel
    (found,) = (each for each in panels_of(BOARD) if each["title"] == title)
    (expression,) = (target["expr"] for target in found["targets"] if target["legendFormat"] == legend)
    return filled(expression, {**DEFAULTS, "__rate_interval": f"{WINDOW_S}s"})


@dataclass(frozen=True)
class Watched:
    """A server under load until a moment ago. ``at``: when the window ended; the load went on throughout."""

    prometheus: RunningPrometheus
    server: RunningServer
    tally: Tally
    at: float

    def shown(self, panel: Panel) -> float:
        """Of all tasks together."""
        return sum(self.prometheus.values(board(panel), self.at))

    def seen(self, panel: Panel, wanted: Callable[[int], bool]) -> float:
        """Replies a second whose status is ``wanted``, as wrk counted them from the first to the last scrape of the panel's
        window."""
        (samples,) = self.prometheus.samples(f"up[{WINDOW_S}s]", self._end(panel))
        since, until = samples[0][0], samples[-1][0]
        replies = self.tally.replies(since, until)
        return sum(count for status, count in replies.items() if wanted(status)) / (until - since)

    def _end(self, panel: Panel) -> float:
        """A rule looked back from when it was evaluated."""
        recorded = RECORDED.search(board(panel))
        return self.prometheus.value(f"max(timestamp({recorded[0]}))", self.at) if recorded else self.at


@contextmanager
def openvino(folder: Path, model: Path) -> Iterator[RunningServer]:
    """One process, and what it answers with an error is wrong or has no time."""
    with running_server("--model", str(model), "--engine", "openvino", "--set", "engine.dtype=float32") as server:
        yield server


@contextmanager
def two_gateways(folder: Path, model: Path) -> Iterator[RunningServer]:
    """And a worker that refuses some texts."""
    trouble = Trouble(folder)
    arguments = ("--processes", "2", *trouble.arguments)
    with running_server("--model", str(model), *arguments) as server:
        trouble.order(Orders(refused_tokens=REFUSED_TOKENS))
        yield server


SERVERS = {"openvino": openvino, "two gateways": two_gateways}


def requests(kind: str) -> list[Request]:
    """Of 20, two are wrong and one cannot be answered. Of the texts none comes twice."""
    texts = all_different(4000, TOKENS - 2)
    made = [Request({"model": MODEL, "input": texts[i : i + 2]}) for i in range(0, len(texts), 2)]
    made[5::10] = [Request({"model": MODEL, "input": []})] * len(made[5::10])
    hopeless = Request({"model": MODEL, "input": of_tokens(REFUSED_TOKENS)})
    if kind == "openvino":
        hopeless = Request({"model": MODEL, "input": all_different(20, 400)}, timeout_ms=1)
    made[7::20] = [hopeless] * len(made[7::20])
    return made


@pytest.fixture(scope="module", params=SERVERS)
def watched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    file = write_requests(folder / "requests", requests(request.param))
    with ExitStack() as stack:
        server = stack.enter_context(SERVERS[request.param](folder, tiny_checkpoint))
        rules = [shorter_rules(file, folder) for file in RULES]
        prometheus = stack.enter_context(running_prometheus(folder, [server.base_url], SCRAPE_S, rules))
        began = time.time()
        seen = tally(server.base_url, file, CLIENTS, LOAD_S)
        yield Watched(prometheus, server, seen, at=began + LOAD_S - 1)


def shorter_rules(file: Path, folder: Path) -> Path:
    written = folder / file.name
    written.write_text(shorter(file.read_text(encoding="utf-8"), FACTOR), encoding="utf-8")
    return written


@pytest.mark.parametrize("panel", REQUESTS)
def test_requests_a_second(watched: Watched, panel: Panel) -> None:
    assert watched.shown(panel) == pytest.approx(watched.seen(panel, lambda status: True), rel=NEAR)


@pytest.mark.parametrize("panel", TOKEN_RATES)
def test_tokens_a_second(watched: Watched, panel: Panel) -> None:
    tokens = 2 * TOKENS * watched.seen(panel, lambda status: status == 200)
    assert watched.shown(panel) == pytest.approx(tokens, rel=NEAR)


@pytest.mark.parametrize("panel", ERRORS)
def test_share_of_errors(watched: Watched, panel: Panel) -> None:
    """Those that are the server's own; what was wrong with a request is none."""
    errors, all_replies = watched.seen(panel, lambda status: status >= 500), watched.seen(panel, lambda status: True)
    assert watched.seen(panel, lambda status: status == 400) / all_replies == pytest.approx(0.1, rel=NEAR)
    assert 0.03 < errors / all_replies < 0.07
    assert watched.shown(panel) == pytest.approx(errors / all_replies, rel=NEAR)


@pytest.mark.parametrize("panel", P95S)
def test_p95_is_at_most_a_bucket_away(watched: Watched, panel: Panel) -> None:
    shown, seen = (bisect.bisect_left(SECONDS, p95_s) for p95_s in (watched.shown(panel), watched.tally.p95_s))
    assert abs(shown - seen) <= 1


def test_each_reply_was_counted_once(watched: Watched) -> None:
    """From the first to the last. Those under way when wrk left had a reply that it did not see."""
    assert watched.tally.lost == 0
    assert_counted(watched.server, watched.tally, unseen=CLIENTS)


@pytest.mark.parametrize("watched", ["two gateways"], indirect=True)
def test_the_end_of_a_gateway_and_of_a_worker_loses_no_count(watched: Watched, tmp_path: Path) -> None:
    server, before = watched.server, counted(watched.server)
    file = write_requests(tmp_path / "requests", requests("two gateways"))
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(tally, server.base_url, file, CLIENTS, WINDOW_S)
        for name in ("launcher.serve.child", "troubled_worker"):
            wait_for_replies(server, 500)
            child_of(server, name).send_signal(signal.SIGKILL)
        seen = loading.result()
    wait_until("both are back", lambda: restarts(server) == 2, 30)
    # Of the gateway that was killed each client may have lost one request, and again when wrk left.
    assert seen.lost > 0
    assert_counted(server, seen, unseen=2 * CLIENTS, before=before)
    # No series began anew, also not in what Prometheus keeps.
    counters = '{__name__=~"embedding_.*_(total|count|sum|bucket)",process=""}'
    wait_until("all is scraped", lambda: watched.prometheus.value(f"sum({TOTAL})") == metric(server, TOTAL), 10)
    series = watched.prometheus.samples(f"{counters}[5m]", time.time())
    assert len(series) > 100
    assert [samples for samples in series if [value for _, value in samples] != sorted(value for _, value in samples)] == []
    assert watched.prometheus.value("sum(embedding_requests_in_flight)") == 0


def wait_for_replies(server: RunningServer, more: int) -> None:
    goal = math.inf

    def reached() -> bool:
        nonlocal goal
        # A gateway that was killed may have been given this connection.
        with suppress(httpx.TransportError):
            replies = metric(server, TOTAL)
            goal = min(goal, replies + more)
            return replies >= goal
        return False

    wait_until("the load goes on", reached, 30)


def assert_counted(server: RunningServer, seen: Tally, unseen: int, before: Mapping[str, float] | None = None) -> None:
    """As many replies of each status as wrk saw, and some that it did not see any more."""
    wait_until("nothing is under way", lambda: metric(server, "embedding_requests_in_flight") == 0, 30)
    shown, replies = counted(server), seen.replies()
    more = {status: shown[status] - (before or {}).get(status, 0) - replies.get(int(status), 0) for status in shown}
    assert min(more.values()) >= 0, more
    assert sum(more.values()) <= unseen, more
    assert {int(status) for status in shown} >= replies.keys()


def counted(server: RunningServer) -> dict[str, float]:
    """Replies by status."""
    text = httpx.get(f"{server.base_url}/metrics").text
    return {
        status: float(value)
        for status, value in re.findall(rf'^{TOTAL}{{status="(\d+)",task="embeddings"}} (\S+)$', text, re.M)
    }


def child_of(server: RunningServer, name: str) -> psutil.Process:
    """The first whose command line holds ``name``."""
    children = psutil.Process(server.process.pid).children()
    return next(child for child in children if any(name in part for part in child.cmdline()))
