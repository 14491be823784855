"""Ask more and more of one server, say how many requests a second it can do, and what that means for the autoscaler."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from benchmarks.bodies import MODEL_NAME, request_body
from benchmarks.capacity.advice import TARGET, Pod, figure
from benchmarks.capacity.knee import knee
from benchmarks.capacity.mix import SAMPLE, Inputs, bodies, made_up, mean_tokens, parse_tokens, real
from benchmarks.capacity.report import describe, summary, table
from benchmarks.capacity.run import climb, closed, open_at, served_model
from benchmarks.clients import many_connections
from benchmarks.contenders import environment_of
from benchmarks.cores import split_cores
from benchmarks.machine import busy_s, machine, own_s
from benchmarks.server import free_port, running
from benchmarks.target import ContenderFailed, Target

WORK = Path("build/capacity")
# Of a configuration made for production, what a measurement of this server alone has no use for. A model that is served instead
# of the one that was asked for would be measured in its place.
ALONE = (
    f"model.name={MODEL_NAME}",
    "model.fallback=null",
    "server.api_keys_file=null",
    "server.tls.cert_file=null",
    "server.tls.key_file=null",
)
T = TypeVar("T")


def main() -> int:
    arguments = parse()
    many_connections()
    try:
        with target_of(arguments) as target:
            return explore(arguments, target)
    except (ContenderFailed, OSError, ValueError) as error:
        print(f"capacity: {error}", file=sys.stderr)
        return 1


@contextmanager
def target_of(arguments: argparse.Namespace) -> Iterator[Target]:
    """The server that runs already, or one that is started for the measurement."""
    if arguments.url:
        yield Target.of(arguments.url, os.environ.get("SGL_EMBED_API_KEY", ""))
        return
    port, split, here = free_port(), split_cores(shared=arguments.shared_cores), machine()
    command = [
        *(sys.executable, "-m", "launcher", "serve", "--config", str(arguments.config)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *(part for setting in (*arguments.set, *ALONE) for part in ("--set", setting)),
    ]
    environment = environment_of(os.environ)
    environment.pop("SGL_EMBED_API_KEYS", None)
    os.sched_setaffinity(0, split.server)
    with running(command, environment, port, WORK / "server.log", request_body(["好"])) as server:
        os.sched_setaffinity(0, split.load)
        print(
            f"{arguments.config} {' '.join(arguments.set)}\n{here['cpu']}, {here['cores']} cores, {split}. "
            f"Ready {server.seconds_to_first_reply:.1f} s after its start.\n"
        )
        began, busy_before, own_before, server_before = time.monotonic(), busy_s(), own_s(), server.cpu_s()
        yield server.target
        other_s = busy_s() - busy_before - (own_s() - own_before) - (server.cpu_s() - server_before)
        other_cores = other_s / (time.monotonic() - began)
        print(f"\n{other_cores:.2f} cores were busy with what has no part in it; above 0.1, measure again.")


def explore(arguments: argparse.Namespace, target: Target) -> int:
    model = arguments.model or served_model(target)

    def texts(seed: int) -> Iterator[str]:
        return real(arguments.texts, seed) if arguments.texts else made_up(arguments.tokens, seed)

    tokens = arguments.inputs.mean * mean_tokens(target, list(islice(texts(seed=2), SAMPLE)))
    sent = bodies(model, texts(seed=1), arguments.inputs.drawn(seed=1))
    print(f"Requests of {figure(arguments.inputs.mean)} inputs and {figure(tokens)} tokens on average.\n")
    levels = []
    for level in climb(partial(closed, target, sent, seconds=arguments.seconds), arguments.max_p95_ms, arguments.max_clients):
        levels.append(level)
        print(f"{level.clients} clients: {level.requests_per_s:.1f} requests/s", file=sys.stderr, flush=True)
    best = knee(levels, arguments.max_p95_ms)
    print(table(levels, best))
    if best is None:
        print(f"\nNo level kept a p95 of {arguments.max_p95_ms:g} ms without refusals: raise --max-p95-ms, or lower the load")
        return 1
    pod = Pod(best.requests_per_s, tokens, levels[0].p50_ms / 1e3, arguments.target)
    at_target = open_at(target, sent, pod.target_qps, 2 * arguments.seconds)
    print(f"\n{summary(pod, best, at_target, arguments.max_p95_ms)}\n")
    usual, peak = arguments.usual_qps or pod.qps, arguments.peak_qps or 8 * pod.qps
    print(describe(pod, usual, peak, arguments.cold_start_s))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    number = argument(above_zero)
    server = parser.add_argument_group("the server").add_mutually_exclusive_group(required=True)
    server.add_argument("--url", help="of one pod that runs, not of a Service; its key is in SGL_EMBED_API_KEY")
    server.add_argument("--config", type=Path, help="start one with this configuration, on 127.0.0.1 and without keys and TLS")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="with --config, as for sgl-embed serve")
    parser.add_argument("--shared-cores", action="store_true", help="with --config: let the load take of the server's cores")
    parser.add_argument("--model", metavar="NAME", help="the name to ask for (the served one)")
    mix = parser.add_argument_group("what is sent")
    mix.add_argument(
        "--inputs",
        type=argument(Inputs.parse),
        default="1:0.95,8:0.05",
        metavar="N:SHARE,…",
        help="inputs of a request, and the share of requests that have so many (1:0.95,8:0.05)",
    )
    kind = mix.add_mutually_exclusive_group()
    kind.add_argument(
        "--tokens", type=argument(parse_tokens), default="16-128", metavar="N-M", help="tokens of an input (16-128)"
    )
    kind.add_argument("--texts", type=Path, metavar="FILE", help="real texts, one a line")
    levels = parser.add_argument_group("levels")
    levels.add_argument("--seconds", type=number, default=15.0, metavar="S", help="of each (15)")
    levels.add_argument("--max-p95-ms", type=number, default=200.0, metavar="MS", help="the latency that is wanted (200)")
    levels.add_argument("--max-clients", type=int, default=1024, metavar="N", help="where to stop at last (1024)")
    wanted = parser.add_argument_group("what is wanted of all pods")
    wanted.add_argument("--target", type=argument(share), default=TARGET, metavar="SHARE", help="of what one can do (0.65)")
    wanted.add_argument("--usual-qps", type=number, metavar="N", help="requests a second on a quiet day (what one pod can do)")
    wanted.add_argument("--peak-qps", type=number, metavar="N", help="requests a second at the peak (eight times that)")
    wanted.add_argument(
        "--cold-start-s",
        type=number,
        default=60.0,
        metavar="S",
        help="from wanted to ready, as you measured it (60)",
    )
    arguments = parser.parse_args()
    if arguments.url and (arguments.set or arguments.shared_cores):
        parser.error("--set and --shared-cores are for a server that is started here, with --config")
    return arguments


def argument(read: Callable[[str], T]) -> Callable[[str], T]:
    """argparse shows the message of no other error."""

    def converted(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"expected a number above 0, got {text}")
    return value


def share(text: str) -> float:
    if (value := above_zero(text)) >= 1:
        raise ValueError(f"expected a share below 1 such as 0.65, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
