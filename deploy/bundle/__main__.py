"""``python -m deploy.bundle``; ``make bundle`` calls it with its variables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deploy.bundle.build import Bundle, build
from deploy.bundle.target import BundleError, read_target
from launcher.config.load import load_config
from launcher.config.schema import Model
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
    model = read_model(arguments.model, arguments.set)
    return Bundle(target, arguments.sglang, model, arguments.out, tuple(arguments.set))


def read_model(name: str | None, settings: Sequence[str]) -> Model | None:
    """Raises ``BundleError`` for settings that say nothing of a model, ``ConfigError`` for wrong ones."""
    for setting in settings:
        if not setting.startswith("model."):
            raise BundleError(f"--set {setting}: only model.KEY=VALUE has a place in a bundle; give others to sgl-embed serve")
        if name is None:
            raise BundleError(f"--set {setting}: there is no model that it could be for; name it with MODEL=")
    return msgspec.structs.replace(load_config(None, settings).model, id=name) if name else None


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
