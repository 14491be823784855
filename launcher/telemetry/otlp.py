"""Spans to an OpenTelemetry collector, by OTLP over HTTP. The only file that imports OpenTelemetry, which is an extra."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from launcher.errors import ConfigError
from launcher.telemetry.tracing import Span, SpanId

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

log = logging.getLogger("launcher.tracing")

# May hold a token, and so is no setting.
HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
# What a URL without a path stands for.
PATH = "/v1/traces"
SERVICE = "sgl-embed"
# Waiting to be sent; those that come then are lost.
MAX_WAITING = 8192
MAX_PER_MESSAGE = 512
SEND_EVERY_S = 1.0
# For one message, with what is tried again.
SEND_TIMEOUT_S = 5.0
# For all that waits when the server stops.
FLUSH_TIMEOUT_S = 3.0


def read_endpoint(configured: str | None) -> str | None:
    """The URL that spans are posted to; None: nowhere. Raises ``ConfigError``."""
    if not configured:
        return None
    try:
        parts = urlsplit(configured)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("tracing.endpoint: not a URL such as http://collector:4318 or https://host/otlp/v1/traces")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"tracing.endpoint: holds a name or a password; set the header that it needs in {HEADERS_VARIABLE}")
    if not is_installed():
        message = "the packages of OpenTelemetry are not installed here: pip install --editable '.[tracing]' in the checkout"
        raise ConfigError(f"tracing.endpoint: {message}")
    return configured if parts.path.strip("/") else parts._replace(path=PATH).geturl()


def is_installed() -> bool:
    with suppress(ModuleNotFoundError):
        return all(map(importlib.util.find_spec, ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")))
    return False


class OtlpSpans:
    """Implements ``Spans``: a thread sends them, from when this is entered until it is left.

    What cannot be sent, or not fast enough, is lost. That is said once, and how many they were once it is over.
    """

    def __init__(self, endpoint: str, headers: str | None, resource: Mapping[str, str], service: str | None) -> None:
        """``headers`` as in ``HEADERS_VARIABLE``; ``resource`` and ``service`` as ``Readable`` takes them."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.util.re import parse_env_headers

        self._endpoint = endpoint
        self._success = SpanExportResult.SUCCESS
        given = dict(parse_env_headers(headers or "", liberal=True))
        self._exporter = OTLPSpanExporter(endpoint, headers=given, timeout=SEND_TIMEOUT_S)
        self._readable = Readable(resource, service)
        self._words = LastWords()
        self._waiting: deque[Span] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._lost = 0
        # Of those, how many were lost before what was said last.
        self._lost_before = 0
        self._losing = False

    def add(self, span: Span) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
            return
        self._waiting.append(span)
        if len(self._waiting) >= MAX_PER_MESSAGE:
            self._wake.set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        threading.Thread(target=self._run, name="spans", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """What waits is still sent, but for so long only."""
        self._stopping = True
        self._wake.set()
        try:
            await asyncio.wait_for(self._ended.wait(), FLUSH_TIMEOUT_S)
        except TimeoutError:
            log.warning("stopping with spans unsent: %s does not take them", self._endpoint)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(SEND_EVERY_S)
            self._wake.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_PER_MESSAGE))])
        # It may have given up waiting.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)

    def _send(self, spans: list[Span]) -> None:
        self._words.forget()
        lost = self._lost
        try:
            sent = self._exporter.export([self._readable.of(span) for span in spans]) is self._success
        except Exception:
            log.exception("spans could not be sent: a bug")
            sent = False
        if not sent:
            self._lost += len(spans)
        self._tell(more=self._lost > lost)

    def _tell(self, *, more: bool) -> None:
        """Once when spans begin to be lost, and once when all that waited could be sent."""
        if more and not self._losing:
            self._losing = True
            why = self._words.first or "it does not take them as fast as they come"
            log.warning("tracing.endpoint: spans are lost until %s takes them; %s", self._endpoint, why)
        elif self._losing and not more and not self._waiting:
            self._losing = False
            log.warning("tracing.endpoint: %s takes spans again; %d were lost", self._endpoint, self._lost - self._lost_before)
            self._lost_before = self._lost


class LastWords(logging.Handler):
    """What OpenTelemetry says of a message that it cannot send: each time, for each try. It goes nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""
        words = logging.getLogger("opentelemetry")
        words.propagate = False
        words.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()

    def forget(self) -> None:
        self.first = ""


class Readable:
    """Spans as OpenTelemetry's exporter takes them."""

    def __init__(self, resource: Mapping[str, str], service: str | None) -> None:
        """``resource`` describes this process, besides what OTEL_RESOURCE_ATTRIBUTES says of its place. ``service`` None:
        OTEL_SERVICE_NAME, or this project's."""
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

        instance = f"{socket.gethostname()}:{os.getpid()}"
        own = {"service.name": SERVICE, "service.version": version("sgl-embed"), "service.instance.id": instance, **resource}
        name = {"service.name": service} if service else {}
        self._resource = Resource.create({**own, **OTELResourceDetector().detect().attributes, **name})
        self._scope = InstrumentationScope("sgl-embed", own["service.version"])
        self._span, self._context, self._link = ReadableSpan, SpanContext, Link
        self._kinds = {True: SpanKind.SERVER, False: SpanKind.INTERNAL}
        self._sampled = TraceFlags(TraceFlags.SAMPLED)
        self._state = TraceState.from_header
        self._well = Status(StatusCode.UNSET)
        self._wrong = partial(Status, StatusCode.ERROR)

    def of(self, span: Span) -> ReadableSpan:
        return self._span(
            span.name,
            self._context_of(span.id),
            self._context_of(span.parent, remote=span.of_request) if span.parent else None,
            self._resource,
            {**span.attributes, "error.type": span.error} if span.error else span.attributes,
            (),
            [self._link(self._context_of(other)) for other in span.links],
            self._kinds[span.of_request],
            status=self._wrong(span.error) if span.error else self._well,
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=self._scope,
        )

    def _context_of(self, id: SpanId, *, remote: bool = False) -> SpanContext:
        return self._context(id.trace, id.span, remote, self._sampled, self._state([id.state]) if id.state else None)
