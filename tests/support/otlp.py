"""A receiver of OTLP over HTTP, in this process: it reads protobuf, as a collector does, and keeps the spans."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

DEADLINE_S = 20
SERVER, INTERNAL = 2, 1  # Span.SpanKind
UNSET, ERROR = 0, 2  # Status.StatusCode
REMOTE = 0x200  # SpanFlags: the parent's process is another


@dataclass(frozen=True)
class Received:
    """One span; ids in hexadecimal digits, times in nanoseconds."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    began: int
    ended: int
    attributes: Mapping[str, Any]
    links: Sequence[tuple[str, str]]
    status: int
    state: str
    remote_parent: bool
    resource: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        return (self.ended - self.began) / 1e9


class Receiver:
    def __init__(self) -> None:
        receiver = self
        self.spans: list[Received] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        # Until it is set, no message is answered.
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = threading.Event()
        self._arrived = threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.asked.set()
                receiver.may_answer.wait(DEADLINE_S)
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(self.path, dict(self.headers), body)
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *given: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        spans = list(read_spans(body))
        with self._arrived:
            self.paths.append(path)
            self.headers.append(headers)
            self.spans += spans
            self._arrived.notify_all()

    def trace_of(self, request_id: str) -> list[Received]:
        """All spans of the trace of this request, in the order in which they began, once its own has come; it is the first, and
        comes after the others."""
        deadline = monotonic() + DEADLINE_S
        with self._arrived:
            while not (own := [span for span in self.spans if span.attributes.get("sgl_embed.request_id") == request_id]):
                if not self._arrived.wait(deadline - monotonic()):
                    raise TimeoutError(f"no span of the request {request_id}; there are {self.spans}")
            (request,) = own
            others = [span for span in self.spans if span.trace == request.trace and span is not request]
            return [request, *sorted(others, key=lambda span: (span.began, -span.ended))]

    def close(self) -> None:
        self.may_answer.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextmanager
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    try:
        yield running
    finally:
        running.close()


def read_spans(body: bytes) -> Iterator[Received]:
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = plain(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Received(
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    kind=span.kind,
                    began=span.start_time_unix_nano,
                    ended=span.end_time_unix_nano,
                    attributes=plain(span.attributes),
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    status=span.status.code,
                    state=span.trace_state,
                    remote_parent=bool(span.flags & REMOTE),
                    resource=resource,
                )


def plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
