"""Which requests have a line in the log."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from launcher.gateway import access
from launcher.gateway.access import AccessLog, Entry
from launcher.telemetry.metrics import Metrics
from launcher.telemetry.registry import Registry
from tests.support.log import Said, listening_to


@pytest.fixture
def said() -> Iterator[Said]:
    with listening_to("launcher.access") as said:
        yield said


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def log(registry: Registry) -> AccessLog:
    return AccessLog(Metrics(registry, {"name": "m"}, ready=lambda: True))


def entry(status: int, seconds: float = 0.01) -> Entry:
    made = Entry("POST", b"/v1/embeddings", f"{status}")
    made.status, made.seconds = status, seconds
    if status >= 400:
        made.reason = "invalid"
    return made


def test_all_have_one_unless_told_otherwise(said: Said, log: AccessLog) -> None:
    for status in (200, 404, 499, 500):
        log.note(entry(status))
    assert len(said.lines) == 4


def test_failed_and_slow_ones_always_have_one(said: Said, log: AccessLog, registry: Registry) -> None:
    log.sample(0.0, slow_s=1.0)
    for status, seconds in ((200, 0.99), (204, 0.0), (400, 0.0), (499, 0.0), (503, 0.0), (200, 1.0), (200, 60.0)):
        log.note(entry(status, seconds))
    assert [line.split()[2:4] for line in said.lines] == [
        ["400", "0.0ms"],
        ["499", "0.0ms"],
        ["503", "0.0ms"],
        ["200", "1000.0ms"],
        ["200", "60000.0ms"],
    ]
    assert registry.get_sample_value("embedding_requests_rejected_total", {"reason": "invalid"}) == 3


def test_a_share_of_the_others_has_one(said: Said, log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([0.0, 0.24, 0.25, 0.99])
    monkeypatch.setattr(access, "random", lambda: next(drawn))
    log.sample(0.25, slow_s=math.inf)
    for number in range(4):
        made = entry(200)
        made.request_id = str(number)
        log.note(made)
    assert [line[-1] for line in said.lines] == ["0", "1"]


def test_nothing_is_drawn_where_all_have_one(said: Said, log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(access, "random")
    log.sample(1.0, slow_s=1.0)
    log.note(entry(200))
    assert len(said.lines) == 1
