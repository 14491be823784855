"""Spans to an OpenTelemetry collector, by OTLP over HTTP. The only file that imports OpenTelemetry, which is an extra."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from launcher.errors import ConfigError
from launcher.telemetry.tracing import Span, SpanId

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

log = logging.getLogger("launcher.tracing")

# May hold a token, and so is no setting. The second is for traces alone, and goes before the first.
HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
TRACES_HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
# https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2, and what may be sent in a value without being misread.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
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
# Of what OpenTelemetry says, which may hold what somebody sent.
MAX_WORDS = 200


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
    # All of which would be in the log.
    if parts.username is not None or parts.password is not None or parts.query:
        raise ConfigError(
            f"tracing.endpoint: holds a name, a password or a query; set the header that it needs in {HEADERS_VARIABLE}"
        )
    if not is_installed():
        message = "the packages of OpenTelemetry are not installed here: pip install --editable '.[tracing]' in the checkout"
        raise ConfigError(f"tracing.endpoint: {message}")
    return configured if parts.path.strip("/") else parts._replace(path=PATH).geturl()


def take_headers(environment: MutableMapping[str, str]) -> Mapping[str, str]:
    """Out of it, so that other processes do not inherit them. Raises ``ConfigError``, which shows none of them."""
    general, own = (environment.pop(name, "") for name in (HEADERS_VARIABLE, TRACES_HEADERS_VARIABLE))
    variable, text = (TRACES_HEADERS_VARIABLE, own) if own else (HEADERS_VARIABLE, general)
    headers = {}
    for number, pair in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        name, _, value = (unquote(part.strip()) for part in pair.partition("="))
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            raise ConfigError(f"{variable}: its header {number} is not name=value, as in x=Bearer%20token")
        headers[name.lower()] = value
    return headers


def is_installed() -> bool:
    with suppress(ModuleNotFoundError):
        return all(map(importlib.util.find_spec, ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")))
    return False


class OtlpSpans:
    """Implements ``Spans``: a thread sends them, while ``sending`` is entered.

    What cannot be sent, or not fast enough, is lost. That is said once, and how many they were once it is over.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], resource: Mapping[str, str], service: str | None) -> None:
        """``resource`` and ``service`` as ``Readable`` takes them."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._endpoint = endpoint
        self._words = LastWords()
        self._success = SpanExportResult.SUCCESS
        self._exporter = OTLPSpanExporter(endpoint, headers=dict(headers), timeout=SEND_TIMEOUT_S)
        self._readable = Readable(resource, service)
        self._waiting: deque[Span] = deque()
        self._wake = threading.Event()
        self._stopping = False
        # Spans are lost in two threads. 0: none since the collector took them last.
        self._lost = 0
        self._counting = threading.Lock()

    def add(self, span: Span) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._lose(1, "it does not take them as fast as they come")
            return
        self._waiting.append(span)
        if len(self._waiting) >= MAX_PER_MESSAGE:
            self._wake.set()

    @asynccontextmanager
    async def sending(self, hurry: asyncio.Event) -> AsyncIterator[None]:
        """What waits at the end is still sent, but for so long only, and not once there is ``hurry``."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def run() -> None:
            self._run()
            # It may have given up waiting.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=run, name="spans", daemon=True).start()
        try:
            yield
        finally:
            self._stopping = True
            self._wake.set()
            waiting = [asyncio.create_task(event.wait()) for event in (ended, hurry)]
            await asyncio.wait(waiting, timeout=FLUSH_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            if not ended.is_set():
                log.warning("stopping with spans unsent: %s does not take them", self._endpoint)
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(SEND_EVERY_S)
            self._wake.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_PER_MESSAGE))])

    def _send(self, spans: list[Span]) -> None:
        try:
            readable = [self._readable.of(span) for span in spans]
            # What OpenTelemetry says of a client's headers is not why the collector refuses them.
            self._words.forget()
            sent = self._exporter.export(readable) is self._success
        except Exception:
            log.exception("spans could not be sent: a bug")
            sent = False
        if not sent:
            self._lose(len(spans), self._words.first or "it refuses them")
        elif not self._waiting:
            self._recover()

    def _lose(self, count: int, why: str) -> None:
        with self._counting:
            first, self._lost = not self._lost, self._lost + count
        if first:
            log.warning("tracing.endpoint: spans are lost until %s takes them; %s", self._endpoint, why)

    def _recover(self) -> None:
        """All that waited could be sent."""
        with self._counting:
            lost, self._lost = self._lost, 0
        if lost:
            log.warning("tracing.endpoint: %s takes spans again; %d were lost", self._endpoint, lost)


class LastWords(logging.Handler):
    """What OpenTelemetry says of a message that it cannot send: each time, for each try. It goes nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""
        words = logging.getLogger("opentelemetry")
        words.propagate = False
        words.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()[:MAX_WORDS]

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
