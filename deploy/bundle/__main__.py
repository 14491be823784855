"""``python -m deploy.bundle``; ``make bundle`` calls it with its variables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from deploy.bundle.build import Bundle, build
from deploy.bundle.target import BundleError, read_target
from launcher.config.load import load_config
from launcher.errors import SglEmbedError


def main() -> int:
    try:
        bundle = read_bundle()
        build(bundle, say)
    except (BundleError, SglEmbedError) as error:
        say(f"make bundle: {error}")
        return 2
    size = sum(path.stat().st_size for path in bundle.out.rglob("*") if path.is_file())
    say(f"{bundle.out}: {size / 1e6:,.0f} MB; what to do with it is in INSTALL.txt there")
    return 0


def read_bundle() -> Bundle:
    parser = argparse.ArgumentParser(prog="python -m deploy.bundle", description="Gather what installs without a network.")
    parser.add_argument("--python-version", required=True, metavar="3.N", help="of the machine that it is for")
    parser.add_argument("--platform", required=True, help="of that machine, such as manylinux_2_34_x86_64")
    parser.add_argument("--sglang", metavar="VERSION", help="with this SGLang; without: the light set, for a CPU")
    parser.add_argument("--model", metavar="DIR_OR_ID", help="with this model (a folder or a hub id)")
    parser.add_argument("--set", action="append", default=[], metavar="model.KEY=VALUE", help="how to fetch or read the model")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    arguments = parser.parse_args()
    target = read_target(arguments.python_version, arguments.platform, arguments.sglang)
    model = msgspec.structs.replace(load_config(None, arguments.set).model, id=arguments.model) if arguments.model else None
    return Bundle(target, arguments.sglang, model, arguments.out)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
