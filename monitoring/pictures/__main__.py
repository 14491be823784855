"""``python -m monitoring.pictures URL``: what the boards would show of a Prometheus's data, one PNG for each."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from monitoring.dashboards.files import BOARDS, FOLDER
from monitoring.expressions import read_board
from monitoring.pictures.answers import Window
from monitoring.pictures.page import write_picture

PICTURES = Path(__file__).parents[2] / "docs/images/boards"
POINTS = 120


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m monitoring.pictures", description=__doc__)
    parser.add_argument("url", metavar="URL", help="of a Prometheus: http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (60)")
    parser.add_argument("--end", type=float, default=time.time(), help="until when, in seconds since 1970 (now)")
    parser.add_argument("--scraped-every", type=int, default=15, metavar="SECONDS", help="by that Prometheus (15)")
    parser.add_argument("--to", type=Path, default=PICTURES, metavar="FOLDER", help=f"where the files go ({PICTURES})")
    options = parser.parse_args(argv)
    seconds = options.minutes * 60
    step_s = max(round(seconds / POINTS), 1)
    # As Grafana reckons $__rate_interval.
    rate_s = max(step_s + options.scraped_every, 4 * options.scraped_every)
    window = Window(options.url.rstrip("/"), options.end - seconds, options.end, step_s, rate_s)
    options.to.mkdir(parents=True, exist_ok=True)
    for name in BOARDS:
        file = options.to / f"{name}.png"
        write_picture(read_board(FOLDER / f"{name}.json"), window, file)
        print(f"{file} is written, {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
