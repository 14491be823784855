"""docs/metrics.md says what the code shows."""

from __future__ import annotations

import re

import httpx

from monitoring.reference import PAGE, page, shown
from tests.support.server import RunningServer


def test_the_page_is_what_the_code_would_write() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run make metrics-doc"


def test_a_server_shows_these_metrics_and_no_others(openvino_server: RunningServer) -> None:
    text = httpx.get(f"{openvino_server.base_url}/metrics").text
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert types == {name: kind for name, kind, _, _ in shown()}
