"""The command line. What a subcommand needs is imported when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from launcher.config.load import ConfigSource
from launcher.config.schema import Config
from launcher.errors import ConfigError, EngineError, ModelError, SglEmbedError, WorkerDied
from launcher.telemetry.logs import Log, start_logging

EXIT_STATUS = ((ConfigError, 2), (ModelError, 3), (EngineError, 4))
INTERRUPTED = 130
# As shells count it: 128 and the number of SIGPIPE.
UNREAD = 141


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    # A terminal without Chinese characters must not end a server that says where it listens.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        source = ConfigSource(arguments.config, (*_shortcuts(arguments), *arguments.set))
        config = source.read()
        log = start_logging(config.log.level, config.log.file)
        command: int = arguments.command(config, source, log)
        return command
    except SglEmbedError as error:
        if isinstance(error, WorkerDied) and error.log_tail:
            print(f"The last lines of {error.worker}:\n{error.log_tail}\n", file=sys.stderr)
        print(f"sgl-embed: {error}", file=sys.stderr)
        return next((status for kind, status in EXIT_STATUS if isinstance(error, kind)), 1)
    except KeyboardInterrupt:
        print("sgl-embed: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read, such as head, has seen enough. What is left in the buffer would fail again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


def _serve(config: Config, source: ConfigSource, log: Log) -> int:
    from launcher.serve.command import serve

    return serve(config, source, log)


def _plan(config: Config, source: ConfigSource, log: Log) -> int:
    import yaml

    from launcher.plan import describe, make_plan

    yaml.safe_dump(describe(make_plan(config)), sys.stdout, allow_unicode=True, sort_keys=False, width=120)
    sys.stdout.flush()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgl-embed",
        description="OpenAI-compatible embedding server for Chinese BERT models, on SGLang and on a laptop.",
    )
    parser.add_argument("--version", action="version", version=version("sgl-embed"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("serve", _serve, "start the server; Ctrl-C or SIGTERM finishes accepted requests and stops it"),
        ("plan", _plan, "print what serve would start (fetches the model if it is not here yet)"),
    ):
        _add_options(commands.add_parser(name, help=text, description=text)).set_defaults(command=command)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a YAML file such as those in configs/")
    parser.add_argument("--model", metavar="DIR_OR_ID", help="a model folder or hub id (model.id)")
    parser.add_argument("--engine", choices=["auto", "openvino", "sglang"], help="what computes the vectors (engine.name)")
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for all (server.host, default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on; 0 for any free one (server.port, default 30000)")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="SGLang workers, one GPU each; 0: all GPUs (engine.workers)")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="gateway processes on one port (server.processes, default 1)"
    )
    parser.add_argument("--log-file", metavar="FILE", help="also write the log here (log.file)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any configuration key, such as engine.dtype=bfloat16; may be repeated, wins over the file",
    )
    return parser


def _shortcuts(arguments: argparse.Namespace) -> list[str]:
    keys = {
        "model": "model.id",
        "engine": "engine.name",
        "host": "server.host",
        "port": "server.port",
        "num_gpus": "engine.workers",
        "processes": "server.processes",
        "log_file": "log.file",
    }
    given = {key: getattr(arguments, option) for option, key in keys.items()}
    if arguments.num_gpus is not None:
        # Whoever counts GPUs wants no silent start on the CPU.
        given["engine.sglang.device"] = "cuda"
    return [f"{key}={_as_yaml(value)}" for key, value in given.items() if value is not None]


def _as_yaml(value: str | int) -> str:
    """Quote text, so that a folder called ``1e3`` or ``no`` stays one."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
