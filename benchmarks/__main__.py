"""``python -m benchmarks``: measure, judge, and write the results down."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import msgspec

from benchmarks.cases import SUITES, needs_gpu, selected
from benchmarks.machine import load_per_core
from benchmarks.plots import plot
from benchmarks.report import markdown
from benchmarks.run import Bench, Protocol
from launcher.devices import visible_gpus

WORK = Path("build/bench")
RESULTS = {"cpu": Path("benchmarks/results"), "gpu": Path("benchmarks/results/gpu")}
# Above this the machine has other work too.
BUSY_LOAD_PER_CORE = 0.5


def main() -> int:
    arguments = parse()
    suite = SUITES[arguments.suite]
    pairs = selected(arguments.only, suite)
    if arguments.list:
        print("\n".join(f"{case.model}/{case.name}/{contender}" for case, contender in pairs))
        return 0
    if not pairs:
        print("nothing is called that; --list names everything", file=sys.stderr)
        return 2
    if needs_gpu(suite) and not visible_gpus(os.environ):
        print(
            "no NVIDIA GPU is visible: nvidia-smi must list one, and CUDA_VISIBLE_DEVICES must not hide it; "
            "--suite gpu-rehearsal goes through the same cases on the CPU",
            file=sys.stderr,
        )
        return 2
    if shutil.which("wrk") is None:
        print("wrk is needed to make the load: apt install wrk (Debian, Ubuntu), brew install wrk (macOS)", file=sys.stderr)
        return 2
    if load_per_core() > BUSY_LOAD_PER_CORE:
        say(f"this machine is busy (load {load_per_core():.1f} per core): its figures will tell little")
    run = Bench(WORK, arguments.infinity, Protocol(quick=arguments.quick), say).run(pairs)
    complete = len(pairs) == sum(len(case.contenders) for case in suite) and not arguments.quick
    out = arguments.out or (RESULTS.get(arguments.suite) if complete else None) or WORK / "results"
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    (out / "results.md").write_text(markdown(run), encoding="utf-8")
    plot(run, out)
    print(markdown(run))
    say(f"written to {out}/")
    return 1 if any(measurement.error for measurement in run.measurements) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare embedding servers on this machine.")
    parser.add_argument(
        "--suite",
        choices=SUITES,
        default="cpu",
        help="gpu: against stock SGLang on one NVIDIA GPU; gpu-rehearsal: the same cases with the tiny model on the CPU",
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds a case: to see that all works, not for figures")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="a model, case or contender, or MODEL/CASE/CONTENDER; with * and with commas for 'or'; repeated, each narrows",
    )
    parser.add_argument("--list", action="store_true", help="name what would be measured")
    parser.add_argument(
        "--infinity", type=Path, default=WORK / "infinity/bin/infinity_emb", help="infinity_emb in an environment of its own"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"where the results go; {RESULTS['cpu']}/ after a full run, else {WORK}/results/",
    )
    return parser.parse_args()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
