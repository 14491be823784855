"""What ``sgl-embed top`` makes of two scrapes, and how it draws it."""

from __future__ import annotations

import io
import math
import socket
import subprocess
import sys
import threading
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from launcher.telemetry.exposition import Samples, read
from launcher.telemetry.metrics import Metrics
from launcher.telemetry.processes import ProcessMetrics
from launcher.telemetry.registry import Registry
from launcher.top.frame import Frame, Watched, frame
from launcher.top.rates import added, mean, quantile_of, rates, restarted, total
from launcher.top.scrape import NoScrape, Scrape, scrape_all
from launcher.top.screen import Screen

BOUNDS = [0.01, 0.1, 1.0, 10.0]
COUNTS = st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e9), max_size=4)


class Served:
    """A server's metrics, counted by the code that counts them in a server."""

    def __init__(self, fingerprint: str = "aaaa", workers: int = 0) -> None:
        registry = Registry()
        self.is_ready = True
        info = {"name": "bge", "fingerprint": fingerprint, "engine": "sglang", "dtype": "float16"}
        self.hooks = Metrics(registry, info, lambda: self.is_ready)
        self.processes = ProcessMetrics(registry, [f"worker {i}" for i in range(workers)])
        self.hooks.callers(["search"])

    def at(self, seconds: float) -> Scrape:
        return Scrape(seconds, read(self.hooks.render().decode()))


def counters(values: dict[str, float]) -> Samples:
    return {"tokens_total": {frozenset({("of", name)}): value for name, value in values.items()}}


def seen(*scrapes: Scrape | NoScrape, url: str = "http://a:1") -> Watched:
    watched = Watched(url)
    for scrape in scrapes:
        watched = watched.after(scrape)
    return watched


def drawn(console: Console, *frames: Frame) -> str:
    assert isinstance(console.file, io.StringIO)
    console.print(Screen(frames))
    return console.file.getvalue()


def terminal(width: int, height: int) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)


def test_counters_and_gauges_are_told_apart():
    shown = read(
        '# TYPE a_total counter\na_total{x="1"} 3\n# TYPE g gauge\ng 2\n# TYPE h histogram\nh_bucket{le="+Inf"} 4\nh_sum 5\n'
    )
    assert shown.counters == {
        "a_total": {frozenset({("x", "1")}): 3},
        "h_bucket": {frozenset({("le", "+Inf")}): 4},
        "h_sum": {frozenset(): 5},
    }
    assert shown.gauges == {"g": {frozenset(): 2}}


def test_what_a_terminal_would_obey_and_what_is_no_number_is_left_out():
    shown = read('# TYPE g gauge\ng{key="\x1b[2Jname"} 1\nn NaN\n')
    assert shown.gauges == {"g": {frozenset({("key", "?[2Jname")}): 1}}


@given(COUNTS, COUNTS, st.floats(0.01, 100))
def test_no_rate_is_negative(earlier: dict[str, float], later: dict[str, float], seconds: float):
    found = rates(counters(earlier), counters(later), seconds)["tokens_total"]
    assert all(value >= 0 for value in found.values())


@given(COUNTS, COUNTS)
def test_growth_of_a_server_that_lived_on_is_found_again(earlier: dict[str, float], growth: dict[str, float]):
    later = {name: earlier.get(name, 0) + growth.get(name, 0) for name in {*earlier, *growth}}
    assert not restarted(counters(earlier), counters(later))
    found = rates(counters(earlier), counters(later), 2.0)
    assert total(found, "tokens_total") == pytest.approx(sum(growth.values()) / 2, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("after", [{"a": 3, "b": 9}, {"b": 9}])
def test_a_counter_that_fell_or_went_has_all_count_from_0(after: dict[str, float]):
    before = {"a": 5, "b": 7}
    assert restarted(counters(before), counters(after))
    assert total(rates(counters(before), counters(after), 1.0), "tokens_total") == sum(after.values())


@given(st.lists(st.floats(0.0001, 20), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_what_it_speaks_of(observed: list[float], q: float):
    buckets = {bound: float(sum(value <= bound for value in observed)) for bound in [*BOUNDS, math.inf]}
    it = sorted(observed)[max(math.ceil(q * len(observed)), 1) - 1]
    bucket = bisect_left(BOUNDS, it)
    found = quantile_of(q, buckets)
    if bucket == len(BOUNDS):
        assert found == BOUNDS[-1]
    else:
        slack = 1e-9
        assert ([0.0, *BOUNDS][bucket]) - slack <= found <= BOUNDS[bucket] + slack


@pytest.mark.parametrize(
    ("q", "buckets", "expected"),
    [
        (0.5, {1.0: 10, 2.0: 20, math.inf: 20}, 1.0),
        (0.75, {1.0: 10, 2.0: 20, math.inf: 20}, 1.5),
        (0.25, {1.0: 10, 2.0: 20, math.inf: 20}, 0.5),
        (0.99, {1.0: 0, 2.0: 0, math.inf: 20}, 2.0),
        # Counted while it was scraped: more at 1 than at 2.
        (0.9, {1.0: 11, 2.0: 10, 4.0: 21, math.inf: 21}, 3.58),
    ],
)
def test_quantiles_are_those_of_prometheus(q: float, buckets: dict[float, float], expected: float):
    assert quantile_of(q, buckets) == pytest.approx(expected)


def test_nothing_observed_has_no_quantile_and_no_mean():
    assert math.isnan(quantile_of(0.5, {1.0: 0.0, math.inf: 0.0}))
    assert math.isnan(quantile_of(0.5, {}))
    assert math.isnan(mean({}, "nothing"))


def test_a_frame_holds_what_was_counted_between_two_scrapes():
    server = Served(workers=2)
    before = server.at(10.0)
    for _ in range(20):
        server.hooks.offered("embeddings")
        server.hooks.called("search")
        server.hooks.inputs(3, 30, 1)
        server.hooks.spared({"memory": 1, "redis": 0}, 1)
        server.hooks.spent("search", 30)
        server.hooks.stage("queue", 0.004)
        server.hooks.answered("embeddings", 200, 0.07)
    server.hooks.offered("embeddings")
    server.hooks.rejected("overloaded")
    server.hooks.answered("embeddings", 429, 0.0001)
    server.hooks.offered("embeddings")
    server.hooks.batch(30, 300, 0.5)
    server.hooks.batch(10, 100, 0.5)
    server.hooks.tokens_in_flight(77)
    server.hooks.queue(50, 0.25)
    server.processes.process_state("worker 0", "ready")
    server.processes.process_state("worker 1", "starting")
    server.processes.process_restart("worker 1")
    now = frame([seen(before, server.at(12.0))])

    task = now.tasks[0]
    assert (task.task, task.offered, task.answered, task.failed, task.in_flight) == ("embeddings", 11, 10, 0.5, 1)
    assert 0.05 < task.p50 < 0.1
    assert now.rejected == [("overloaded", 0.5)]
    assert (now.tokens, now.inputs, now.truncated, now.tokens_in_flight) == (300, 30, 10, 77)
    assert (now.batches.rate, now.batches.inputs, now.batches.tokens, now.batches.seconds) == (1, 20, 200, 0.5)
    assert now.batches.under_way == 0.5
    assert now.queue_oldest_s == 0.25
    assert "oldest waits 250 ms" in drawn(terminal(120, 24), now)
    assert {line.stage: line.mean for line in now.stages}["queue"] == pytest.approx(0.004)
    assert dict(now.cached) == {"memory": pytest.approx(1 / 3), "redis": 0}
    assert now.deduplicated == pytest.approx(1 / 3)
    assert [(line.key, line.tokens, line.requests) for line in now.keys] == [("search", 300, 10)]
    assert [(line.process, line.state, line.restarts) for line in now.processes] == [
        ("worker 0", "ready", 0),
        ("worker 1", "starting", 1),
    ]
    assert now.models == ["bge, sglang, float16"]


def test_servers_are_summed_and_each_has_its_line():
    first, second = Served(), Served()
    before = first.at(0.0), second.at(0.5)
    first.hooks.inputs(1, 100, 0)
    second.hooks.inputs(1, 100, 0)
    now = frame([seen(before[0], first.at(1.0)), seen(before[1], second.at(2.5), url="http://b:1")])
    assert now.tokens == 150
    assert [(line.url, line.tokens) for line in now.servers] == [("http://a:1", 100), ("http://b:1", 50)]
    assert len(now.fingerprints) == 1


def test_different_fingerprints_are_named_loudly():
    now = frame([seen(Served("aaaa").at(0)), seen(Served("bbbb").at(0), url="http://b:1")])
    assert now.fingerprints == {"aaaa": ["http://a:1"], "bbbb": ["http://b:1"]}
    text = drawn(terminal(80, 24), now)
    assert "DIFFERENT FINGERPRINTS" in text and "bbbb at b:1" in text
    assert "DIFFERENT" not in drawn(terminal(80, 24), frame([seen(Served("aaaa").at(0))]))


def test_a_server_goes_and_comes_back():
    first, second = Served(), Served()
    first.hooks.inputs(9, 900, 0)
    second.hooks.inputs(1, 100, 0)
    down = seen(first.at(0), first.at(1), NoScrape("refused"))
    assert (down.state, down.restarts) == ("no answer", 0)
    assert math.isnan(frame([down]).tokens) and math.isnan(frame([down]).tokens_in_flight)
    back = down.after(second.at(5))
    assert (back.state, back.restarts) == ("ready", 1)
    assert frame([back]).tokens == 25
    second.is_ready = False
    assert back.after(second.at(6)).state == "not ready"


def test_nothing_is_known_before_the_second_scrape():
    assert seen().state == "asking"
    now = frame([seen(Served().at(0))])
    assert now.servers[0].state == "ready"
    assert math.isnan(now.tokens) and math.isnan(now.tasks[0].offered) and math.isnan(now.servers[0].offered)
    assert now.tokens_in_flight == 0
    for watched in ([Watched("http://a:1")], [seen(NoScrape("refused"))]):
        assert "of 1 ready" in drawn(terminal(80, 24), frame(watched))


def crowd(count: int) -> Frame:
    """All that may be shown: several fingerprints, keys, processes, a server that is down."""
    watched = [seen(NoScrape("no route to host " * 9), url="http://gone:1")]
    for i in range(count):
        server = Served(fingerprint=f"{i % 2:016x}", workers=3)
        before = server.at(0)
        server.hooks.rejected("overloaded")
        server.hooks.called("search")
        server.hooks.inputs(10**7, 10**9, 5)
        server.processes.process_state("worker 1", "dead")
        watched.append(seen(before, server.at(1), url=f"http://sgl-embed-{i}.sgl-embed.default.svc.cluster.local:30000"))
    return frame(watched)


@pytest.mark.parametrize("height", [24, 50])
@pytest.mark.parametrize("width", [40, 80, 132])
def test_the_picture_fits_the_terminal(width: int, height: int):
    lines = drawn(terminal(width, height), *[crowd(40)] * 60).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    assert any(line.startswith("gone:1") for line in lines)
    assert any("more" in line for line in lines)


def test_figures_are_whole_where_a_terminal_is_narrow():
    busy = replace(crowd(1).tasks[0], offered=12345, answered=12345, p50=0.1234, p95=0.1234, p99=0.1234)
    lines = drawn(terminal(44, 24), replace(crowd(1), tasks=[busy])).splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("requests/s"))
    assert lines[at].split() == ["requests/s", "offered", "failed", "P95"]
    assert lines[at + 1].split() == ["embeddings", "12,345", "0.0", "123", "ms"]


def test_all_servers_are_listed_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), width=100)
    text = drawn(console, crowd(40))
    assert sum(line.startswith("sgl-embed-") for line in text.splitlines()) == 40
    assert "\x1b" not in text and "more" not in text


def test_no_color_and_ascii_are_obeyed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    Console(file=file, width=80, height=24, force_terminal=True).print(Screen([crowd(3)] * 5))
    file.seek(0)
    text = file.read()
    assert "tokens/s" in text
    assert "\x1b[31m" not in text and "\x1b[1;31m" not in text


class Odd(BaseHTTPRequestHandler):
    """Answers that no server of ours gives."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        if kind == "missing":
            self.send_error(404)
            return
        if kind == "silent":
            self.server.finished.wait(30)  # type: ignore[attr-defined]
            return
        self.send_response(200)
        if kind == "drip":
            self.end_headers()
            while not self.server.finished.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"#")
            return
        body = {"page": b"<html>{{</html>", "bytes": b"\xff\xfe\x00", "other": b"# TYPE up gauge\nup 1\n", "half": b"up 1"}[
            kind
        ]
        self.send_header("Content-Length", str(len(body) + (10 if kind == "half" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def odd_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        server.finished = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.finished.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def test_whatever_a_port_answers_is_a_reason(odd_url: str):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        kinds = ("missing", "page", "bytes", "other", "half")
        replies = scrape_all([*(f"{odd_url}/{kind}" for kind in kinds), nobody], timeout_s=10)
    reasons = [reply.reason for reply in replies if isinstance(reply, NoScrape)]
    assert len(reasons) == 6
    assert "Not Found" in reasons[0]
    assert all(reason.startswith("no metrics: ") for reason in reasons[1:5])
    assert "refused" in reasons[5]


@pytest.mark.parametrize("kind", ["silent", "drip"])
def test_one_that_does_not_finish_holds_nobody_up(odd_url: str, kind: str):
    began = monotonic()
    slow, other = scrape_all([f"{odd_url}/{kind}", f"{odd_url}/other"], timeout_s=0.5)
    assert monotonic() - began < 5
    assert isinstance(slow, NoScrape) and ("within 0.5 s" in slow.reason or "timed out" in slow.reason)
    assert isinstance(other, NoScrape) and "embedding_ready" in other.reason


def test_added_series_of_different_servers_keep_their_labels():
    assert added([counters({"a": 1}), counters({"a": 2, "b": 3})]) == counters({"a": 3, "b": 3})


def test_without_rich_the_command_says_what_to_install():
    program = "import sys; sys.modules['rich'] = None; from launcher.cli import main; sys.exit(main(['top']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "pip install rich" in done.stderr and "Traceback" not in done.stderr
