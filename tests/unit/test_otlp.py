"""What becomes of spans that a collector does not take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from launcher.telemetry import otlp
from launcher.telemetry.otlp import OtlpSpans, read_endpoint
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
    return OtlpSpans(f"{collector.url}/v1/traces", None, {}, None)


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
    async with spans_to(collector) as spans:
        spans.add(SPAN)
        assert await asyncio.to_thread(collector.asked.wait, 20)
        for _ in range(100):
            spans.add(SPAN)
        assert said.lines == []
        collector.may_answer.set()
        await received(collector, 31)
        spans.add(SPAN)
        await received(collector, 32)
    assert len(collector.spans) == 32
    lost, found = said.lines
    assert lost.endswith("/v1/traces takes them; it does not take them as fast as they come")
    assert found.endswith("/v1/traces takes spans again; 70 were lost")


async def test_a_bare_address_means_the_standards_path() -> None:
    assert read_endpoint("http://collector:4318") == "http://collector:4318/v1/traces"
    assert read_endpoint("http://collector:4318/") == "http://collector:4318/v1/traces"
    assert read_endpoint("https://[::1]/otlp/v1/traces") == "https://[::1]/otlp/v1/traces"
    assert read_endpoint(None) is None
