"""The benchmark's load: what is sent, on whom, and how requests become figures."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.bodies import distinct_bodies, repeated_bodies
from benchmarks.cases import ALL_CASES, CASES, LOOP, SUITES, Case, needs_gpu, selected
from benchmarks.contenders import Place, command_of, shown
from benchmarks.load import rate, run_wrk, timed_figures
from benchmarks.models import MODELS
from benchmarks.target import ContenderFailed
from launcher.embedding.tokens import Tokenizer


def test_no_text_comes_twice() -> None:
    texts = [text for body in distinct_bodies(64, 32, (16, 16), seed=1).texts for text in body]
    assert len(set(texts)) == len(texts) == 64 * 32


def test_a_character_is_a_token(tiny_checkpoint: Path) -> None:
    bodies = distinct_bodies(16, 4, (8, 500), seed=1)
    tokenizer = Tokenizer(tiny_checkpoint, 512, 21128)
    tokens = [sum(len(item.ids) for item in tokenizer.encode(texts, "none")) for texts in bodies.texts]
    assert sum(tokens) / 16 == bodies.tokens_per_request
    assert bodies.texts_per_request == 4


def test_lengths_reach_from_end_to_end() -> None:
    lengths = [len(text) for body in distinct_bodies(512, 4, (8, 500), seed=1).texts for text in body]
    assert (min(lengths), max(lengths)) == (8, 500)
    assert 50 < sorted(lengths)[len(lengths) // 2] < 80


def test_repeated_texts_follow_zipf() -> None:
    drawn = Counter(text for (text,) in repeated_bodies(20_000, 1000, 16, seed=1).texts)
    (_, first), (_, second), *_ = drawn.most_common()
    assert len(drawn) > 900
    assert first / second == pytest.approx(2, rel=0.15)


def test_body_file_holds_one_request_a_line(tmp_path: Path) -> None:
    bodies = distinct_bodies(3, 2, (4, 4), seed=1)
    lines = bodies.write(tmp_path / "new" / "bodies").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"model": "bench", "input": list(texts)} for texts in bodies.texts]


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: f"{case.model}-{case.name}")
def test_more_bodies_than_are_under_way_at_once(case: Case) -> None:
    assert len(case.bodies().texts) >= 2 * case.clients


def test_selection_narrows() -> None:
    assert len(selected([])) == sum(len(case.contenders) for case in CASES)
    assert {case.model for case, _ in selected(["tiny"])} == {"tiny"}
    pairs = [(case.name, contender) for case, contender in selected(["large", "1x1,4x8-64", "ours-*"])]
    assert pairs == [(name, f"ours-{engine}") for name in ("1x1", "4x8-64") for engine in ("openvino", "sglang")]
    assert [contender for _, contender in selected(["tiny/32x1/naive"])] == ["naive"]
    assert selected(["nonsense"]) == []


@pytest.mark.parametrize("contender", sorted({name for case in CASES for name in case.contenders} - {LOOP}))
def test_every_contender_has_a_command_and_its_record_names_no_folder_of_programs(contender: str) -> None:
    place = Place(MODELS["large"], Path("model"), 1234, Path("/somewhere/bin/infinity_emb"))
    command = command_of(contender, place)
    assert {"model", "1234"} <= set(command)
    assert ("bfloat16" in " ".join(command)) is (contender != "sglang-stock")
    assert shown(command).startswith(("python -m ", "infinity_emb v2 "))
    assert "/bin/" not in shown(command)


@pytest.mark.parametrize("model", ["gpu-float16", "gpu-bfloat16"])
def test_on_a_gpu_both_get_one_and_the_same_precision(model: str) -> None:
    place = Place(MODELS[model], Path("model"), 1234, Path("infinity_emb"))
    ours, stock = (" ".join(command_of(name, place)) for name in ("ours-sglang", "sglang-stock"))
    dtype = model.removeprefix("gpu-")
    assert f"--set engine.dtype={dtype}" in ours
    assert "--num-gpus 1" in ours
    assert "device=cpu" not in ours
    for part in (f"--dtype {dtype}", "--device cuda", "--disable-radix-cache", "--chunked-prefill-size -1"):
        assert part in stock


def test_only_the_suite_of_a_gpu_needs_one_and_the_rehearsal_has_the_same_cases() -> None:
    assert [name for name, cases in SUITES.items() if needs_gpu(cases)] == ["gpu"]
    assert [case.clients for case in SUITES["gpu"]] == 2 * [case.clients for case in SUITES["gpu-rehearsal"]]


def test_rate_of_requests_in_step() -> None:
    """Four clients, each answered at 1, 2 and 3 s: a plain count of the 12 over any other window would be wrong."""
    assert rate([[(0, 1), (1, 2), (2, 3)]] * 4) == pytest.approx(4)


def test_rate_counts_only_while_all_are_busy() -> None:
    first = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    second = [(0.5, 1.5), (1.5, 2.5)]
    # From 0.5 to 2.5 s: half, one and half of the first client's, two of the second's.
    assert rate([first, second]) == pytest.approx((0.5 + 1 + 0.5 + 2) / 2)


def test_rate_needs_a_time_when_all_are_busy() -> None:
    with pytest.raises(ContenderFailed, match="never all busy"):
        rate([[(0, 1)], [(2, 3)]])


def test_timed_figures() -> None:
    figures = timed_figures([[0.0, 1.0, 1.0, 3.0]])
    assert figures["requests_per_s"] == pytest.approx(2 / 3)
    assert figures["p50_ms"] == pytest.approx(1500)
    with pytest.raises(ContenderFailed, match="no answer"):
        timed_figures([[0.0, 1.0], []])


class Recorder(BaseHTTPRequestHandler):
    """Answers 200, and 503 to what holds the text "refuse"; keeps the bodies and the connections they came by."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[tuple[str, int], str]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.seen.append((self.client_address, body))
        self.send_response(503 if "refuse" in body else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[tuple[tuple[str, int], str]]]]:
    handler = type("Fresh", (Recorder,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", handler.seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize("timed", [True, False])
def test_wrk_sends_the_bodies_in_turn_and_keeps_connections(
    recorder: tuple[str, list[tuple[tuple[str, int], str]]], tmp_path: Path, timed: bool
) -> None:
    url, seen = recorder
    bodies = distinct_bodies(8, 1, (4, 4), seed=1)
    counted = run_wrk(url, bodies.write(tmp_path / "bodies"), 2, 1, timed=timed)
    assert counted.failed == 0
    assert len(seen) >= counted.requests > 16
    assert {body for _, body in seen} == {bodies.body(i).decode() for i in range(8)}
    assert len({client for client, _ in seen}) == 2
    if timed:
        assert [times == sorted(times) for times in counted.spans] == [True, True]
        assert sum(map(len, counted.spans)) // 2 == pytest.approx(counted.requests, abs=2)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_refused_requests_are_seen(recorder: tuple[str, list[object]], tmp_path: Path) -> None:
    (tmp_path / "bodies").write_text("one\nrefuse\n")
    counted = run_wrk(recorder[0], tmp_path / "bodies", 1, 1, timed=False)
    assert counted.failed == pytest.approx(counted.requests / 2, rel=0.1)
