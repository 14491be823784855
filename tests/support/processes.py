"""The processes of a running server, and what its metrics say of them."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import RunningServer

ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def wait_until(what: str, condition: Callable[[], bool], timeout_s: float) -> float:
    """Ask again and again, for what tells nobody when it happens. Returns the seconds that it took."""
    began = monotonic()
    while not condition():
        assert monotonic() - began < timeout_s, f"not within {timeout_s:g} s: {what}"
        sleep(0.02)
    return monotonic() - began


def workers(server: RunningServer) -> list[psutil.Process]:
    """SGLang's main processes, in the order of their start."""
    children = psutil.Process(server.process.pid).children()
    found = [child for child in children if alive(child) and "sglang.launch_server" in child.cmdline()]
    return sorted(found, key=psutil.Process.create_time)


def scheduler_of(worker: psutil.Process) -> psutil.Process:
    """The process that holds the model."""
    (found,) = (child for child in worker.children(recursive=True) if "sglang::sche" in child.name())
    return found


def everything(server: RunningServer) -> list[psutil.Process]:
    process = psutil.Process(server.process.pid)
    return [process, *process.children(recursive=True)]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in ENDED
    except psutil.NoSuchProcess:
        return False


def metric(server: RunningServer, name: str, **labels: str) -> float:
    """The sum of the series of this name that have these labels."""
    families = text_string_to_metric_families(httpx.get(f"{server.base_url}/metrics", timeout=10).text)
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def restarts(server: RunningServer, process: str | None = None) -> float:
    labels = {"process": process} if process else {}
    return metric(server, "embedding_process_restarts_total", **labels)


def all_ready(server: RunningServer, count: int) -> bool:
    return metric(server, "embedding_process_state", state="ready") == count
