"""``python -m benchmarks.instrumentation``: measure what metrics and log lines cost, and how long a scrape takes under load."""

from __future__ import annotations

import argparse
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.cores import split_cores
from benchmarks.instrumentation.bars import Record, describe, judge
from benchmarks.instrumentation.run import Bench, Protocol
from benchmarks.machine import load_per_core, machine, versions
from benchmarks.overload.bars import table
from tests.support.checkpoints import TINY, write_checkpoint

WORK = Path("build/instrumentation")
RESULTS = Path("benchmarks/results")
QUICK = Protocol(starts=1, rounds=2, seconds=2, warm_up_s=1, scrape_s=5)


def main() -> int:
    arguments = parse()
    folder = WORK / "tiny"
    if not (folder / "model.safetensors").exists():
        write_checkpoint(folder, TINY)
    split = split_cores(shared=arguments.shared_cores)
    before, here, protocol = load_per_core(), machine(), QUICK if arguments.quick else Protocol()
    bench = Bench(folder, WORK, split, protocol, say)
    record = Record(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=here,
        versions=versions(sys.executable, Path("no other contender")),
        load_per_core=before,
        cores=f"{here['cores']} cores, {split}",
        rounds=list(bench.rounds()),
        scrapes_ms=bench.scrapes_ms(),
    )
    file = (WORK if arguments.quick else RESULTS) / "instrumentation.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    verdicts = judge(record)
    print(describe(record))
    print(table(verdicts))
    say(f"written to {file}")
    return 0 if all(verdict.held for verdict in verdicts) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instrumentation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute, to see that all works, not for figures")
    parser.add_argument("--shared-cores", action="store_true", help="let the load take of the servers' cores")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is needed to make the load: apt install wrk (Debian, Ubuntu), brew install wrk (macOS)")
    return arguments


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
