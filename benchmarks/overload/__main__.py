"""``python -m benchmarks.overload``: overload a server of a random model on this machine, and say which bars held."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bodies import MODEL_NAME, request_body
from benchmarks.contenders import environment_of
from benchmarks.cores import Split, split_cores
from benchmarks.machine import machine
from benchmarks.overload.bars import Observed, judge, table
from benchmarks.overload.run import FACTOR, Schedule, observe
from benchmarks.server import free_port, running
from launcher.config.schema import Queue
from tests.support.checkpoints import BGE_LARGE, Shape, write_checkpoint

WORK = Path("build/overload")
SHAPES = {
    # https://huggingface.co/BAAI/bge-small-zh-v1.5/blob/main/config.json, and those of bge-base-zh-v1.5 and bge-large-zh-v1.5
    "small": Shape(hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048),
    "base": Shape(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "large": BGE_LARGE,
}


def main() -> int:
    arguments = parse()
    folder = WORK / arguments.shape
    if not (folder / "model.safetensors").exists():
        write_checkpoint(folder, SHAPES[arguments.shape], initializer_range=0.05)
    port = free_port()
    settings = (f"model.name={MODEL_NAME}", f"engine.dtype={arguments.dtype}", f"queue.max_wait_s={arguments.max_wait_s}")
    command = [
        *(sys.executable, "-m", "launcher", "serve", "--model", str(folder), "--engine", arguments.engine, "--port", str(port)),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    split = split_cores(shared=arguments.shared_cores)
    here = machine()
    os.sched_setaffinity(0, split.server)
    with running(command, environment_of(os.environ), port, WORK / f"{arguments.engine}.log", request_body(["好"])) as server:
        os.sched_setaffinity(0, split.load)
        schedule = Schedule(arguments.seconds)
        observed = asyncio.run(observe(server, schedule, arguments.max_wait_s, WORK / f"{arguments.engine}.npy"))
    verdicts = judge(observed)
    print(describe(arguments, observed, here, split))
    print(table(verdicts))
    return 0 if all(verdict.held for verdict in verdicts) else 1


def describe(arguments: argparse.Namespace, observed: Observed, here: Mapping[str, object], split: Split) -> str:
    seconds = observed.end - observed.begin
    return (
        f"{arguments.engine}, the shape of bge-{arguments.shape}, dtype {arguments.dtype}; {here['cpu']}, "
        f"{here['cores']} cores, {split}; {observed.load_cores:.2f} were busy with "
        f"making the load and {observed.other_cores:.2f} with what has no part in it.\n"
        f"In a closed loop {observed.capacity:.0f} requests/s were answered; {len(observed.overload) / seconds:.0f}/s "
        f"({FACTOR:g} times what was measured before) were asked for {seconds:.0f} s.\n"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--engine", choices=("openvino", "sglang"), default="openvino")
    parser.add_argument("--shape", choices=SHAPES, default="base", help="the random model has the shape of this bge-zh")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--shared-cores", action="store_true", help="let the load take of the server's cores")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the overload lasts")
    parser.add_argument("--max-wait-s", type=float, default=Queue().max_wait_s, help="queue.max_wait_s of the server")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
