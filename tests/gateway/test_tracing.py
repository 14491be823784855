"""Traces of real servers, as a real receiver of OTLP reads them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from time import monotonic

import httpx
import pytest

from tests.support import noisy_worker
from tests.support.full_queue import SMALL_QUEUE, full_queue, long_request
from tests.support.otlp import ERROR, INTERNAL, SERVER, UNSET, Received, Receiver, receiver
from tests.support.server import RunningServer, ServerExited, running_server

KEY = "sk-held-by-search"
TEXT = "绝密文件"
OPENVINO = ("--engine", "openvino", "--set", "engine.dtype=float32")
CALLER = "b7ad6b7169203331"
UNUSABLE = (
    "",
    "nonsense",
    f"00-{'0' * 32}-{CALLER}-01",
    f"00-{'ab' * 16}-{'0' * 16}-01",
    f"ff-{'ab' * 16}-{CALLER}-01",
    f"00-{'AB' * 16}-{CALLER}-01",
    f"00-{'ab' * 16}-{CALLER}-01-more",
    f"00-{'ab' * 15}-{CALLER}-01",
)
STAGES = ["tokenize", "queue", "inference", "encode"]


@dataclass
class Traced:
    server: RunningServer
    receiver: Receiver

    def ask(self, *inputs: str, path: str = "/v1/embeddings", **headers: str) -> tuple[httpx.Response, str]:
        """The answer, and the request's id."""
        request_id = token_hex(8)
        sent = {"authorization": f"Bearer {KEY}", "x-request-id": request_id, **headers}
        body = {"model": "tiny-zh", "input": inputs}
        return httpx.post(f"{self.server.base_url}{path}", json=body, headers=sent, timeout=60), request_id

    def trace_of(self, *inputs: str, **more: str) -> list[Received]:
        _, request_id = self.ask(*inputs, **more)
        return self.receiver.trace_of(request_id)


@pytest.fixture(scope="module")
def traces() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def tracing_to(url: str, sample: float = 1) -> tuple[str, ...]:
    return ("--set", f"tracing.endpoint={url}", "--set", f"tracing.sample={sample}")


@pytest.fixture(scope="module", params=["1-openvino", "2-openvino", "1-sglang", "2-sglang"])
def traced(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, traces: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Traced]:
    """In one process or behind two gateways; SGLang's side is a program that speaks as its worker does."""
    folder = tmp_path_factory.mktemp("traced")
    (folder / "keys").write_text(f"search: {KEY}\n")
    processes, _, engine = request.param.partition("-")
    arguments = ["--model", str(tiny_checkpoint), "--engine", engine, "--processes", processes, *tracing_to(traces.url)]
    arguments += ["--set", f"server.api_keys_file={folder / 'keys'}"]
    if engine == "sglang":
        python = noisy_worker.installed_at(folder / "python")
        arguments += ["--set", "engine.sglang.device=cpu", "--set", f"engine.sglang.python={python}"]
    with running_server(*arguments) as server:
        yield Traced(server, traces)


def parent_of(trace: str, sampled: bool = True, span: str = CALLER) -> str:
    return f"00-{trace}-{span}-{'01' if sampled else '00'}"


def test_a_callers_trace_is_continued_down_to_the_worker(traced: Traced) -> None:
    trace = token_hex(16)
    spans = traced.trace_of(TEXT, "世界", traceparent=parent_of(trace), tracestate="vendor=x,other=y")
    request, *rest = spans
    assert {span.trace for span in spans} == {trace}
    assert {span.state for span in spans} == {"vendor=x,other=y"}
    assert (request.name, request.kind, request.status, request.parent) == ("POST /v1/embeddings", SERVER, UNSET, CALLER)
    assert request.remote_parent and not any(span.remote_parent for span in rest)
    assert [span.name for span in rest] == ["tokenize", "queue", "inference", "compute", "encode"]
    tokenize, queue, inference, compute, encode = rest
    assert {span.parent for span in (tokenize, queue, inference, encode)} == {request.id}
    assert compute.parent == inference.id
    assert {span.kind for span in rest} == {INTERNAL}
    assert len({span.id for span in spans}) == len(spans)


def test_times_are_nested_and_in_order(traced: Traced) -> None:
    request, *rest = traced.trace_of(TEXT, traceparent=parent_of(token_hex(16)))
    by_name = {span.name: span for span in rest}
    stages = [by_name[stage] for stage in STAGES]
    for before, after in pairwise(stages):
        assert before.began < before.ended <= after.began < after.ended
    assert request.began < stages[0].began
    assert stages[-1].ended < request.ended
    inference, compute = by_name["inference"], by_name["compute"]
    assert inference.began < compute.began < compute.ended < inference.ended


def test_times_agree_with_the_answers_headers(traced: Traced) -> None:
    answer, request_id = traced.ask(TEXT, "又一个")
    spans = {span.name: span for span in traced.receiver.trace_of(request_id)}
    for stage, header in (("tokenize", "tokenization"), ("queue", "queue"), ("inference", "inference")):
        assert spans[stage].seconds * 1e3 == pytest.approx(float(answer.headers[f"x-{header}-time-ms"]), abs=5.0)


def test_the_spans_say_what_the_log_says_and_no_text(traced: Traced) -> None:
    answer, request_id = traced.ask(TEXT, "世界")
    request, *rest = traced.receiver.trace_of(request_id)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "url.path": "/v1/embeddings",
        "url.scheme": "http",
        "sgl_embed.request_id": request_id,
        "sgl_embed.key": "search",
        "sgl_embed.task": "embeddings",
        "sgl_embed.inputs": 2,
        "sgl_embed.tokens": answer.json()["usage"]["prompt_tokens"],
        "sgl_embed.truncated": 0,
        "sgl_embed.cache": "miss",
    }
    (compute,) = [span for span in rest if span.name == "compute"]
    engine = request.resource["sgl_embed.engine"]
    assert compute.attributes == {
        "sgl_embed.worker": "worker 0" if engine == "sglang" else "server",
        "sgl_embed.batch.texts": 2,
        "sgl_embed.batch.tokens": answer.json()["usage"]["prompt_tokens"],
    }
    assert TEXT not in repr(traced.receiver.spans) and KEY not in repr(traced.receiver.spans)


def test_the_log_names_the_trace(traced: Traced) -> None:
    trace = token_hex(16)
    traced.ask(TEXT, traceparent=parent_of(trace))
    traced.server.wait_line(re.compile(f"POST /v1/embeddings 200 .* trace={trace}$"), 20)


@pytest.mark.parametrize(
    ("headers", "sampled", "status"),
    [({}, False, 200), ({"authorization": "Bearer sk-wrong"}, True, 401)],
    ids=["its caller does not want it", "its caller has no key"],
)
def test_a_request_is_not_traced_where(traced: Traced, headers: dict[str, str], sampled: bool, status: int) -> None:
    trace = token_hex(16)
    with httpx.Client(base_url=traced.server.base_url, headers={"authorization": f"Bearer {KEY}"}) as client:
        body = {"model": "tiny-zh", "input": TEXT}
        parent = {"traceparent": parent_of(trace, sampled)}
        assert client.post("/v1/embeddings", json=body, headers=headers | parent).status_code == status
        # Over the same connection, and so in the same process.
        client.post("/v1/embeddings", json=body, headers={"x-request-id": trace})
    traced.receiver.trace_of(trace)
    assert [span for span in traced.receiver.spans if span.trace == trace] == []


def test_without_a_usable_traceparent_a_trace_begins_here(traced: Traced) -> None:
    headers: list[dict[str, str]] = [{}, *({"traceparent": unusable} for unusable in UNUSABLE)]
    asked = [traced.ask(TEXT, **header)[1] for header in headers]
    for request_id in asked:
        request, *rest = traced.receiver.trace_of(request_id)
        assert request.parent == ""
        assert request.trace != "ab" * 16
        assert [span.name for span in rest if span.parent == request.id] == STAGES


def test_a_later_version_of_the_header_is_understood(traced: Traced) -> None:
    trace = token_hex(16)
    request, *_ = traced.trace_of(TEXT, traceparent=f"01-{trace}-{CALLER}-09-what-comes")
    assert (request.trace, request.parent) == (trace, CALLER)


def test_tokenize_is_traced_and_nothing_else_is(traced: Traced) -> None:
    request, *rest = traced.trace_of(TEXT, path="/tokenize")
    assert (request.name, request.attributes["sgl_embed.task"]) == ("POST /tokenize", "tokenize")
    assert [span.name for span in rest] == ["tokenize"]
    with httpx.Client(base_url=traced.server.base_url, headers={"authorization": f"Bearer {KEY}"}) as client:
        for path in ("/live", "/metrics", "/v1/models", "/docs", "/nothing"):
            client.get(path)
        client.post("/v1/embeddings", json={"model": "tiny-zh", "input": "x"}, headers={"x-request-id": (last := token_hex(8))})
    traced.receiver.trace_of(last)
    routes = {span.attributes["http.route"] for span in traced.receiver.spans if span.kind == SERVER}
    assert routes == {"/v1/embeddings", "/tokenize"}


def test_a_callers_mistake_is_no_error_of_the_server(traced: Traced) -> None:
    answer, request_id = traced.ask(TEXT, path="/tokenize", **{"content-type": "text/plain"})
    request, *rest = traced.receiver.trace_of(request_id)
    assert answer.status_code == request.attributes["http.response.status_code"] == 415
    assert (request.status, request.attributes["sgl_embed.reason"], rest) == (UNSET, "unsupported_body", [])
    assert "error.type" not in request.attributes


def test_a_request_whose_time_ran_out_shows_where(traced: Traced) -> None:
    long = TEXT * 200
    answer, request_id = traced.ask(*[f"{number}{long}" for number in range(400)], **{"x-request-timeout-ms": "100"})
    request, *rest = traced.receiver.trace_of(request_id)
    assert answer.status_code == 504
    assert (request.status, request.attributes["error.type"]) == (ERROR, "deadline_exceeded")
    assert 0.09 < request.seconds < 5
    for span in rest:
        assert span.name == "compute" or request.began <= span.began <= span.ended <= request.ended


@pytest.mark.parametrize("traced", ["1-openvino"], indirect=True)
def test_requests_of_one_batch_are_linked(traced: Traced) -> None:
    """While a long one keeps the engine busy, short ones wait, and share a batch."""
    trace = token_hex(16)
    with long_request(traced.server, KEY), ThreadPoolExecutor(12) as threads:
        asked = list(threads.map(lambda n: traced.ask(f"并行{n}", traceparent=parent_of(trace))[1], range(12)))
    for request_id in asked:
        spans = traced.receiver.trace_of(request_id)
    inferences = {span.id for span in spans if span.name == "inference"}
    computes = [span for span in spans if span.name == "compute"]
    served = [span_id for compute in computes for span_id in (compute.parent, *(linked for _, linked in compute.links))]
    assert len(inferences) == 12
    assert any(compute.links for compute in computes)
    assert sorted(served) == sorted(inferences)
    assert {linked for compute in computes for linked, _ in compute.links} <= {trace}
    assert sum(compute.attributes["sgl_embed.batch.texts"] for compute in computes) == 12


def test_what_the_cache_has_needs_no_engine(tiny_checkpoint: Path, traces: Receiver) -> None:
    with running_server(
        "--model", str(tiny_checkpoint), *OPENVINO, *tracing_to(traces.url), "--set", "cache.memory_mb=8"
    ) as server:
        traced = Traced(server, traces)
        _, *first = traced.trace_of(TEXT)
        request, *second = traced.trace_of(TEXT)
    assert [span.name for span in first] == ["tokenize", "cache", "queue", "inference", "compute", "encode"]
    assert [span.name for span in second] == ["tokenize", "cache", "encode"]
    assert request.attributes["sgl_embed.cache"] == "hit"


def test_a_refusal_at_the_door_is_traced(tiny_checkpoint: Path, traces: Receiver) -> None:
    with running_server("--model", str(tiny_checkpoint), *SMALL_QUEUE, *tracing_to(traces.url)) as server:
        with full_queue(server):
            answer, request_id = Traced(server, traces).ask(TEXT)
        request, *rest = traces.trace_of(request_id)
    assert answer.status_code == request.attributes["http.response.status_code"] == 429
    assert (request.status, request.attributes["sgl_embed.reason"], rest) == (UNSET, "overloaded", [])


def test_the_share_of_requests_without_a_caller_is_drawn(tiny_checkpoint: Path, traces: Receiver) -> None:
    with running_server("--model", str(tiny_checkpoint), *OPENVINO, *tracing_to(traces.url, sample=0)) as server:
        traced = Traced(server, traces)
        _, untraced = traced.ask(TEXT)
        assert traced.trace_of(TEXT, traceparent=parent_of(token_hex(16)))
    assert untraced not in [span.attributes.get("sgl_embed.request_id") for span in traces.spans]
    assert f"id={untraced}\n" in server.output()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_that_stops_sends_what_it_has(tiny_checkpoint: Path, processes: str) -> None:
    with receiver() as last:
        arguments = ("--model", str(tiny_checkpoint), *OPENVINO, *tracing_to(last.url), "--processes", processes)
        with running_server(*arguments) as server:
            asked = [Traced(server, last).ask(TEXT)[1] for _ in range(3)]
        spans = [span for span in last.spans if span.kind == SERVER]
    assert [span.attributes["sgl_embed.request_id"] for span in sorted(spans, key=lambda span: span.began)] == asked
    assert len({span.resource["service.instance.id"] for span in spans}) == int(processes)


def test_the_environment_adds_headers_and_what_is_known_of_the_place(tiny_checkpoint: Path) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20of-the-collector,x-tenant=a",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=embed-0,service.namespace=search",
        "OTEL_SERVICE_NAME": "from-the-environment",
    }
    with receiver() as other:
        for extra, service in (((), "from-the-environment"), (("--set", "tracing.service_name=mine"), "mine")):
            arguments = ("--model", str(tiny_checkpoint), *OPENVINO, *tracing_to(f"{other.url}/otlp/v1/traces"), *extra)
            with running_server(*arguments, environment=environment) as server:
                request, *_ = Traced(server, other).trace_of(TEXT)
            assert request.resource.items() >= {"k8s.pod.name": "embed-0", "service.namespace": "search"}.items()
            assert request.resource["service.name"] == service
    assert {headers["authorization"] for headers in other.headers} == {"Bearer of-the-collector"}
    assert set(other.paths) == {"/otlp/v1/traces"}


def test_a_collector_that_is_not_there_is_said_once_and_harms_nobody(tiny_checkpoint: Path) -> None:
    with receiver() as gone:
        url = gone.url
    with running_server("--model", str(tiny_checkpoint), *OPENVINO, *tracing_to(url)) as server:
        traced = Traced(server, gone)
        assert traced.ask(TEXT)[0].status_code == 200
        server.wait_line(re.compile(f"WARNING launcher.tracing: tracing.endpoint: spans are lost until {url}/v1/traces"), 30)
        for _ in range(20):
            assert traced.ask(TEXT)[0].status_code == 200
        began = monotonic()
        assert server.stop() == 0
        assert monotonic() - began < 10
    assert server.output().count("spans are lost") == 1
    assert "opentelemetry" not in server.output()


def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_end(tiny_checkpoint: Path) -> None:
    with receiver() as slow:
        slow.may_answer.clear()
        with running_server("--model", str(tiny_checkpoint), *OPENVINO, *tracing_to(slow.url)) as server:
            traced = Traced(server, slow)
            traced.ask(TEXT)
            assert slow.asked.wait(20)
            began = monotonic()
            for _ in range(20):
                assert traced.ask(TEXT)[0].status_code == 200
            assert monotonic() - began < 5
            began = monotonic()
            assert server.stop(signal.SIGTERM) == 0
            assert monotonic() - began < 10
    assert "stopping with spans unsent" in server.output()


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("collector:4318", "not a URL such as http://collector:4318"),
        ("grpc://collector:4317", "not a URL"),
        ("http://", "not a URL"),
        ("http://collector:port", "not a URL"),
        (
            "https://user:secret@collector",
            "holds a name, a password or a query; set the header that it needs in OTEL_EXPORTER_OTLP_HEADERS",
        ),
        ("https://collector/v1/traces?token=secret", "holds a name, a password or a query"),
    ],
)
def test_a_wrong_address_ends_the_start(tiny_checkpoint: Path, endpoint: str, reason: str) -> None:
    refusal = refused_start("--model", str(tiny_checkpoint), *OPENVINO, "--set", f"tracing.endpoint={endpoint}")
    assert (refusal.status, f"tracing.endpoint: {reason}" in refusal.output) == (2, True)
    assert "secret" not in refusal.output


def test_without_the_extra_the_start_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    arguments = ("--model", str(tiny_checkpoint), *OPENVINO, "--set", "tracing.endpoint=http://localhost")
    refusal = refused_start(*arguments, python_path=tmp_path)
    assert refusal.status == 2
    assert "OpenTelemetry are not installed here: pip install --editable '.[tracing]'" in refusal.output


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_that_does_not_trace_never_imports_opentelemetry(
    tiny_checkpoint: Path, tmp_path: Path, processes: str
) -> None:
    imported = tmp_path / "imported"
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text(f"open({str(imported)!r}, 'w').close()\n")
    environment = {"PYTHONPATH": searched_first(tmp_path)}
    arguments = ("--model", str(tiny_checkpoint), *OPENVINO, "--processes", processes)
    with running_server(*arguments, environment=environment) as server, receiver() as unused:
        answer, request_id = Traced(server, unused).ask(TEXT, traceparent=parent_of(token_hex(16)))
    assert answer.status_code == 200
    assert f"id={request_id}\n" in server.output()
    assert not imported.exists()
    # It would have been seen.
    subprocess.run([sys.executable, "-c", "import opentelemetry"], env={**os.environ, **environment}, check=True)
    assert imported.exists()


def refused_start(*arguments: str, python_path: Path | None = None) -> ServerExited:
    environment = {"PYTHONPATH": searched_first(python_path)} if python_path else {}
    server = RunningServer(arguments, environment)
    with pytest.raises(ServerExited) as refused:
        server.wait_ready(60)
    return refused.value


def searched_first(folder: Path) -> str:
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
