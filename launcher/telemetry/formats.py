"""The forms that metrics are shown in."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import ALLOWUTF8, CONTENT_TYPE_LATEST, generate_latest

Encode = Callable[[CollectorRegistry], bytes]

OPENMETRICS = "application/openmetrics-text"
# The one that was read and checked; prometheus_client would take any version at its word.
OPENMETRICS_VERSION = "version=1.0.0"


def plain(registry: CollectorRegistry) -> bytes:
    return prometheus_client.generate_latest(registry)


def open_metrics(registry: CollectorRegistry) -> bytes:
    """With exemplars, which the plain form has no place for."""
    # By default SGLang's own, such as sglang:prompt_tokens_total, would have other names here than in the plain form.
    encoded: bytes = generate_latest(registry, escaping=ALLOWUTF8)  # type: ignore[no-untyped-call]
    return encoded


def format_for(accept: str) -> tuple[Encode, str]:
    """What makes the form that an Accept header asks for, and its content type: OpenMetrics only for who asks for that."""
    for asked in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in asked.split(";"))
        versions = [parameter for parameter in parameters if parameter.startswith("version=")]
        if kind == OPENMETRICS and versions in ([], [OPENMETRICS_VERSION]):
            return open_metrics, CONTENT_TYPE_LATEST
    return plain, CONTENT_TYPE_PLAIN_0_0_4
