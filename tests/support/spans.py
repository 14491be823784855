"""Where a test looks at spans before they are sent."""

from __future__ import annotations

from launcher.telemetry.tracing import Span

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{CALLER}-01".encode()


class Kept:
    """Implements ``Spans``."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        self.spans.append(span)

    def named(self, name: str) -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found
