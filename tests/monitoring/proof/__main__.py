"""``python -m tests.monitoring.proof``: three servers, a real Prometheus and Alertmanager with the files that are deployed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.monitoring.proof.deployed import Deployed
from tests.monitoring.proof.outcomes import table
from tests.monitoring.proof.run import prove
from tests.support.checkpoints import TINY, write_checkpoint

MONITORING = Path(__file__).parents[3] / "monitoring"


def main() -> int:
    arguments = parse()
    began = time.monotonic()

    def note(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="sgl-embed-proof-") as name:
        folder = Path(name)
        model = write_checkpoint(folder / "model", TINY)
        found = prove(Deployed.of(MONITORING, arguments.factor), folder, model, note)
    print(table(found))
    return 0 if all(outcome.good for outcome in found) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring.proof", description=__doc__)
    parser.add_argument("--factor", type=float, default=1.0, help="let time in rules and intervals go so many times as fast")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
