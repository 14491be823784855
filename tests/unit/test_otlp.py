"""What becomes of spans that a collector does not take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from launcher.errors import ConfigError
from launcher.telemetry import otlp
from launcher.telemetry.otlp import HEADERS_VARIABLE, TRACES_HEADERS_VARIABLE, OtlpSpans, read_endpoint, take_headers
from launcher.telemetry.tracing import Span, SpanId
from tests.support.log import Said, listening_to
from tests.support.otlp import Receiver, receiver

SPAN = Span(name="POST /v1/embeddings", id=SpanId(1, 2), parent=None, began_ns=1, ended_ns=2)


@pytest.fixture
def said() -> Iterator[Said]:
    with listening_to("launcher.tracing") as said:
        yield said


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def spans_to(collector: Receiver) -> OtlpSpans:
    return OtlpSpans(f"{collector.url}/v1/traces", {}, {}, None)


async def received(collector: Receiver, count: int) -> None:
    async with asyncio.timeout(20):
        while len(collector.spans) < count:  # noqa: ASYNC110 - it lives in another thread
            await asyncio.sleep(0.01)


async def test_what_is_too_much_is_lost_and_that_is_said_once(
    said: Said, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "MAX_WAITING", 30)
    monkeypatch.setattr(otlp, "MAX_PER_MESSAGE", 10)
    monkeypatch.setattr(otlp, "SEND_EVERY_S", 0.01)
    collector.may_answer.clear()
    spans = spans_to(collector)
    async with spans.sending(asyncio.Event()):
        spans.add(SPAN)
        assert await asyncio.to_thread(collector.asked.wait, 20)
        for _ in range(100):
            spans.add(SPAN)
        (lost,) = said.lines
        collector.may_answer.set()
        await received(collector, 31)
        spans.add(SPAN)
        await received(collector, 32)
    assert len(collector.spans) == 32
    _, found = said.lines
    assert lost.endswith("/v1/traces takes them; it does not take them as fast as they come")
    assert found.endswith("/v1/traces takes spans again; 70 were lost")


async def test_a_second_signal_ends_the_wait_for_a_collector(said: Said, collector: Receiver) -> None:
    collector.may_answer.clear()
    hurry, spans = asyncio.Event(), spans_to(collector)
    async with asyncio.timeout(otlp.FLUSH_TIMEOUT_S / 2):
        async with spans.sending(hurry):
            spans.add(SPAN)
            hurry.set()
    assert said.lines[0].startswith("stopping with spans unsent")
    collector.may_answer.set()


async def test_what_a_client_sent_is_not_the_reason(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "SEND_TIMEOUT_S", 0.1)
    monkeypatch.setattr(otlp, "SEND_EVERY_S", 0.01)
    with receiver() as gone:
        pass
    spans = spans_to(gone)
    async with spans.sending(asyncio.Event()):
        spans.add(msgspec.structs.replace(SPAN, id=SpanId(1, 2, "NOT A MEMBER é")))
        async with asyncio.timeout(20):
            while not said.lines:  # noqa: ASYNC110 - it lives in another thread
                await asyncio.sleep(0.01)
    (lost,) = said.lines
    assert "spans are lost until" in lost
    assert "NOT A MEMBER" not in lost
    assert len(lost) < 400


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        ("authorization=Bearer%20token,x-tenant=a", {"authorization": "Bearer token", "x-tenant": "a"}),
        (" Authorization = Basic%20dTpw== , ", {"authorization": "Basic dTpw=="}),
    ],
)
def test_headers_are_taken_out_of_the_environment(text: str, headers: dict[str, str]) -> None:
    environment = {HEADERS_VARIABLE: text, "HOME": "/"}
    assert take_headers(environment) == headers
    assert environment == {"HOME": "/"}


def test_headers_for_traces_alone_go_first() -> None:
    environment = {HEADERS_VARIABLE: "a=1", TRACES_HEADERS_VARIABLE: "b=2"}
    assert take_headers(environment) == {"b": "2"}
    assert environment == {}


@pytest.mark.parametrize("text", ["Bearer SECRET", "a=1,authorization=SECRET%0a%20more", "a=SECRET%E4", "na me=SECRET", "a="])
def test_wrong_headers_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_HEADERS: its header [12] is not name=value") as refused:
        take_headers({HEADERS_VARIABLE: text})
    assert "SECRET" not in str(refused.value)


async def test_a_bare_address_means_the_standards_path() -> None:
    assert read_endpoint("http://collector:4318") == "http://collector:4318/v1/traces"
    assert read_endpoint("http://collector:4318/") == "http://collector:4318/v1/traces"
    assert read_endpoint("https://[::1]/otlp/v1/traces") == "https://[::1]/otlp/v1/traces"
    assert read_endpoint(None) is None
