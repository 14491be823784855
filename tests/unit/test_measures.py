"""What is measured besides what is counted: moments, processes, GPUs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from launcher.devices import GpuReader
from launcher.errors import HeadTimeout, HeadTooLarge, MalformedRequest, RateLimited, TooManyConnections, Unauthorized
from launcher.gateway.endpoint import CLIENT_CLOSED_REQUEST
from launcher.gateway.errors import INTERNAL, MEANINGS
from launcher.telemetry import readings
from launcher.telemetry.gpus import GpuMetrics
from launcher.telemetry.hooks import Status
from launcher.telemetry.metrics import Metrics
from launcher.telemetry.readings import Readings
from launcher.telemetry.registry import NOTHING, Registry
from launcher.telemetry.usage import UsageMetrics, growth
from tests.support.nvml import StandInGpu, StandInNvml
from tests.support.processes import wait_until

DEADLINE_S = 20.0
MIB = 1 << 20
# Leads a session, and has a child that holds memory and files; both live until their input ends.
LEADER = """
import subprocess, sys
child = '''
import sys
held, files = bytearray(64 << 20), [open("/dev/null") for _ in range(50)]
print("up", flush=True)
sys.stdin.read()
'''
started = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
sys.stdin.read()
"""


def shown(registry: Registry) -> dict[tuple[str, ...], float]:
    """By name and values of labels."""
    registry.refresh()
    samples = (sample for metric in registry.collect() for sample in metric.samples)
    return {(sample.name.removeprefix("embedding_"), *sample.labels.values()): sample.value for sample in samples}


@contextmanager
def led_by() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", LEADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as leader:
        assert leader.stdout
        assert leader.stdout.readline() == "up\n"
        try:
            yield leader
        finally:
            leader.kill()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "EVERY_S", 0.01)


def test_what_has_nothing_to_say_is_not_shown() -> None:
    registry = Registry()
    gauge = Gauge("known", "", ["of"], registry=registry)
    gauge.labels("this").set(NOTHING)
    gauge.labels("that").set(0)
    assert shown(registry) == {("known", "that"): 0.0}


def test_when_a_counter_began_is_not_shown_in_any_format() -> None:
    registry = Registry()
    Metrics(registry, {"name": "m"}, ready=lambda: True)
    Counter("plain", "", registry=registry)
    assert b"_created" not in generate_latest(registry) + openmetrics.generate_latest(registry)


def test_what_cannot_be_measured_keeps_nothing_else_from_it(caplog: pytest.LogCaptureFixture) -> None:
    registry, measured = Registry(), []
    registry.on_refresh(lambda: measured[1])
    registry.on_refresh(lambda: measured.append(1))
    registry.refresh()
    assert measured == [1]
    assert "a bug" in caplog.text


def test_a_reading_that_does_not_come_back_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    hangs, over = Event(), Event()

    def read() -> int:
        begun.append(1)
        if hangs.is_set():
            over.wait(DEADLINE_S)
        return len(begun)

    slow = Readings(read, "test")
    wait_until("a first reading", lambda: slow.latest() is not None, DEADLINE_S)
    hangs.set()
    before = len(begun)
    wait_until("a reading that hangs", lambda: bool(slow.latest()) and len(begun) > before, DEADLINE_S)
    hanging = len(begun)
    # No other is begun beside it, and what was read before is soon too old.
    monkeypatch.setattr(readings, "STALE_S", 0.1)
    wait_until("too old", lambda: slow.latest() is None, DEADLINE_S)
    assert len(begun) == hanging
    over.set()
    hangs.clear()
    wait_until("another reading", lambda: slow.latest() is not None, DEADLINE_S)


def test_a_process_counts_with_all_of_its_session() -> None:
    registry = Registry()
    usage = UsageMetrics(registry, ["worker 0"])
    with led_by() as leader:
        usage.started("worker 0", leader.pid)
        wait_until("its use", lambda: ("process_open_fds", "worker 0") in shown(registry), DEADLINE_S)
        now = shown(registry)
    assert now["process_resident_memory_bytes", "worker 0"] > 64 * MIB
    # The leader has fewer.
    assert now["process_open_fds", "worker 0"] >= 50
    assert now["process_max_fds", "worker 0"] >= now["process_open_fds", "worker 0"]
    assert now["process_cpu_seconds_total", "worker 0"] > 0
    assert now["process_cpu_seconds_total", "server"] > 0
    # This process, without those that it started or that started it.
    assert now["process_start_time_seconds", "server"] < now["process_start_time_seconds", "worker 0"]


def test_a_process_that_is_started_anew_goes_on_counting() -> None:
    registry = Registry()
    usage = UsageMetrics(registry, ["worker 0"])
    cpu, memory, start = (
        (f"process_{name}", "worker 0") for name in ("cpu_seconds_total", "resident_memory_bytes", "start_time_seconds")
    )
    assert shown(registry)[cpu] == 0
    with led_by() as first:
        usage.started("worker 0", first.pid)
        wait_until("its use", lambda: memory in shown(registry), DEADLINE_S)
        before = shown(registry)
    usage.ended("worker 0")
    ended = shown(registry)
    assert memory not in ended
    assert start not in ended
    assert ended[cpu] >= before[cpu] > 0
    with led_by() as second:
        usage.started("worker 0", second.pid)
        wait_until("its use", lambda: memory in shown(registry), DEADLINE_S)
        after = shown(registry)
    assert after[cpu] > before[cpu]
    assert after[start] > before[start]


def test_a_process_that_nobody_said_has_ended_is_shown_no_more() -> None:
    registry = Registry()
    usage = UsageMetrics(registry, ["worker 0"])
    with led_by() as leader:
        usage.started("worker 0", leader.pid)
        wait_until("its use", lambda: ("process_open_fds", "worker 0") in shown(registry), DEADLINE_S)
    wait_until("its end", lambda: ("process_open_fds", "worker 0") not in shown(registry), DEADLINE_S)


PROCESSES = st.dictionaries(st.tuples(st.integers(1, 4), st.just(0.0)), st.floats(0, 100))


@given(st.lists(PROCESSES, min_size=1, max_size=6))
def test_cpu_time_never_falls_and_is_counted_once(readings: list[Mapping[tuple[int, float], float]]) -> None:
    known: dict[tuple[int, float], float] = {}
    total = 0.0
    for now in readings:
        rising = {process: max(cpu_s, known.get(process, 0.0)) for process, cpu_s in now.items()}
        added = growth(known, rising)
        assert added >= 0
        total += added
        known |= rising
    assert total == pytest.approx(sum(known.values()))


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StandInNvml]]:
    def installed(*gpus: StandInGpu) -> StandInNvml:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "pynvml", raising=False)
        return StandInNvml(tmp_path, *gpus)

    yield installed
    # A reading under way would ask the real one.
    for thread in threading.enumerate():
        if thread.name == "gpus":
            thread.join(DEADLINE_S)


def test_gpus_are_read_by_number_and_by_name(nvml: Callable[..., StandInNvml]) -> None:
    nvml(StandInGpu("GPU-aaaa", 1 * MIB, 8 * MIB, 40), StandInGpu("GPU-bbbb", 2 * MIB, 16 * MIB, None), StandInGpu("GPU-cccc"))
    uses = GpuReader(["0", "GPU-bb", "GPU-dddd", "7"]).read()
    assert uses.keys() == {"0", "GPU-bb"}
    assert uses["0"] == (1 * MIB, 8 * MIB, 0.4)
    assert uses["GPU-bb"][:2] == (2 * MIB, 16 * MIB)


def test_a_gpu_that_is_lost_vanishes_and_the_others_stay(nvml: Callable[..., StandInNvml]) -> None:
    stand_in = nvml(StandInGpu(percent=50), StandInGpu(percent=None))
    registry = Registry()
    GpuMetrics(registry, ["0", "1"], GpuReader(["0", "1"]).read)

    def series() -> set[tuple[str, ...]]:
        return set(shown(registry))

    first, second = (
        {(f"gpu_{name}", gpu) for name in ("memory_used_bytes", "memory_total_bytes", "utilization_ratio")} for gpu in "01"
    )
    second.discard(("gpu_utilization_ratio", "1"))
    wait_until("both", lambda: series() == first | second, DEADLINE_S)
    assert shown(registry)["gpu_utilization_ratio", "0"] == 0.5
    stand_in.gpus[0].lost = True
    stand_in.tell()
    wait_until("one", lambda: series() == second, DEADLINE_S)
    stand_in.driver = False
    stand_in.tell()
    wait_until("none", lambda: series() == set(), DEADLINE_S)
    stand_in.driver, stand_in.gpus[0].lost = True, False
    stand_in.tell()
    wait_until("both again", lambda: series() == first | second, DEADLINE_S)


def test_without_gpus_nobody_is_asked() -> None:
    registry = Registry()
    GpuMetrics(registry, [], lambda: pytest.fail("asked"))
    assert shown(registry) == {}


def test_every_status_that_a_route_can_answer_has_its_series() -> None:
    before_a_route = (Unauthorized, RateLimited, HeadTimeout, HeadTooLarge, MalformedRequest, TooManyConnections)
    answered = {meaning.status for kind, meaning in MEANINGS if not issubclass(kind, before_a_route)}
    assert answered | {200, CLIENT_CLOSED_REQUEST, INTERNAL.status} == set(get_args(Status))
