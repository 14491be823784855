"""``python -m benchmarks.cluster``: three servers behind the nginx of deploy/compose, against what an article says of its own.

The article's cluster: SGLang on CPUs, 12 cores, bge-base, two short sentences a request, 85 requests a second, P95 210 ms.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import psutil

from benchmarks.bodies import MODEL_NAME, Bodies, distinct_bodies, request_body
from benchmarks.contenders import environment_of
from benchmarks.load import counted_figures, run_wrk
from benchmarks.machine import busy_s, machine, own_s
from benchmarks.overload.__main__ import SHAPES
from benchmarks.overload.bars import Verdict, table
from benchmarks.records import Figures, median_of
from benchmarks.server import Server, cores, free_port, running
from benchmarks.target import ContenderFailed
from tests.support.checkpoints import write_checkpoint
from tests.support.nginx import running_nginx

WORK = Path("build/cluster")
SHAPE = "base"
REPLICAS = 3
CLIENTS = 8
REPETITIONS = 3
WARM_UP_S = 5.0
# Short sentences.
CHARACTERS = (8, 24)
ARTICLE_PER_CORE = 85 / 12
FACTOR = 5
MAX_P95_MS = 210.0


def main() -> int:
    arguments = parse()
    folder = WORK / SHAPE
    if not (folder / "model.safetensors").exists():
        write_checkpoint(folder, SHAPES[SHAPE], initializer_range=0.05)
    bodies = distinct_bodies(4000, 2, CHARACTERS, seed=1)
    threads = arguments.threads or max(1, cores() // REPLICAS)
    repetitions = measure(folder, bodies, threads, arguments.dtype, arguments.seconds)
    here, median = machine(), median_of(repetitions)
    print(
        f"{REPLICAS} servers of {threads} threads each behind nginx, {CLIENTS} connections, the shape of bge-{SHAPE}, "
        f"dtype {arguments.dtype}, {bodies.tokens_per_request:.0f} tokens a request; {here['cpu']}, {here['cores']} cores, "
        f"of which wrk had {median['load_cores']:.2f} and what has no part in it {median['other_cores']:.2f}. A request took "
        f"{median['cpu_ms']:.1f} ms of CPU in servers and nginx. Requests/s of each repetition: "
        + ", ".join(f"{each['requests_per_s']:.0f}" for each in repetitions)
    )
    verdicts = judge(median, cores())
    print(table(verdicts))
    return 0 if all(verdict.held for verdict in verdicts) else 1


def measure(folder: Path, bodies: Bodies, threads: int, dtype: str, seconds: float) -> list[Figures]:
    """Raises ``ContenderFailed`` where a request failed."""
    file = bodies.write(WORK / "bodies")
    with ExitStack() as stack:
        servers = [stack.enter_context(replica(folder, number, threads, dtype)) for number in range(REPLICAS)]
        nginx = stack.enter_context(running_nginx([server.port for server in servers]))
        url = f"{nginx.base_url}/v1/embeddings"
        proxy = psutil.Process(nginx.process.pid)

        def cpu_s() -> float:
            return sum(server.cpu_s() for server in servers) + sum(map(used_s, [proxy, *proxy.children()]))

        run_wrk(url, file, CLIENTS, WARM_UP_S, timed=False)
        return [repeat(url, file, seconds, cpu_s) for _ in range(REPETITIONS)]


def repeat(url: str, file: Path, seconds: float, cpu_s: Callable[[], float]) -> Figures:
    busy_before, own_before, before = busy_s(), own_s(), cpu_s()
    counted = run_wrk(url, file, CLIENTS, seconds, timed=False)
    used, load_s = cpu_s() - before, own_s() - own_before
    if counted.failed:
        raise ContenderFailed(f"{counted.failed} of {counted.requests} requests failed")
    other_s = busy_s() - busy_before - used - load_s
    return counted_figures(counted) | {
        "cpu_ms": used * 1e3 / counted.requests,
        "load_cores": load_s / counted.seconds,
        "other_cores": other_s / counted.seconds,
    }


def used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def replica(folder: Path, number: int, threads: int, dtype: str) -> AbstractContextManager[Server]:
    port = free_port()
    settings = (
        f"model.name={MODEL_NAME}",
        f"engine.dtype={dtype}",
        f"engine.openvino.threads={threads}",
        "log.level=warning",
    )
    command = [
        *(sys.executable, "-m", "launcher", "serve", "--model", str(folder), "--engine", "openvino", "--port", str(port)),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    return running(command, environment_of(os.environ), port, WORK / f"replica-{number}.log", request_body(["好"]))


def judge(median: Figures, cores: int) -> list[Verdict]:
    per_core, wanted = median["requests_per_s"] / cores, FACTOR * ARTICLE_PER_CORE
    return [
        Verdict("requests/s a core", f"≥ {wanted:.1f}", f"{per_core:.1f}", per_core >= wanted),
        Verdict("P95", f"≤ {MAX_P95_MS:g} ms", f"{median['p95_ms']:.0f} ms", median["p95_ms"] <= MAX_P95_MS),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="of each server; 0: an even share of the cores, 1 at least")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each repetition")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is needed to make the load: apt install wrk (Debian, Ubuntu), brew install wrk (macOS)")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
