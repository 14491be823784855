"""``python -m deploy.check``: one line for each rung, and one for each finding; ends with status 1 where there is any."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from deploy.check.ladder import RUNGS, Result, climb
from deploy.check.tree import Tree


def main(argv: Sequence[str] | None = None) -> int:
    names = [rung.name for rung in RUNGS]
    parser = argparse.ArgumentParser(
        prog="python -m deploy.check",
        description="Check the manifests, images and proxies, as far as that goes without a cluster.",
        epilog="\n".join(f"{rung.name:12} {rung.text}" for rung in RUNGS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="RUNG", default=names, help="these rungs alone")
    failed = 0
    for result in climb(Tree(), parser.parse_args(argv).only):
        print("\n".join(lines(result)), flush=True)
        failed += not result.passed
    return 1 if failed else 0


def lines(result: Result) -> Iterator[str]:
    told = result.outcome.subject if result.outcome else result.trouble
    yield f"{result.rung.name:12} {'ok' if result.passed else 'FAILED':7} {told} ({result.seconds:.1f} s)"
    if result.outcome:
        yield from (f"  {finding}" for finding in sorted(result.outcome.findings))


if __name__ == "__main__":
    sys.exit(main())
