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
        status: int = arguments.command(arguments)
        return status
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


def _serve(arguments: argparse.Namespace) -> int:
    from launcher.serve.command import serve

    return serve(*_configured(arguments))


def _plan(arguments: argparse.Namespace) -> int:
    import yaml

    from launcher.plan import describe, make_plan

    config, _, _ = _configured(arguments)
    yaml.safe_dump(describe(make_plan(config)), sys.stdout, allow_unicode=True, sort_keys=False, width=120)
    sys.stdout.flush()
    return 0


def _hpa_sim(arguments: argparse.Namespace) -> int:
    from launcher.autoscaling.command import hpa_sim
    from launcher.autoscaling.pods import PodShape
    from launcher.autoscaling.simulate import Cluster
    from launcher.autoscaling.sweep import Limits
    from launcher.autoscaling.traces import TRACES

    shape = PodShape(
        arguments.pod_qps,
        arguments.cold_start_s,
        arguments.queue_s,
        arguments.service_s,
        arguments.tokens_per_request,
        arguments.drain_s,
    )
    cluster = Cluster(shape, arguments.scrape_s, arguments.sync_s, arguments.phase_s)
    trace = TRACES[arguments.trace](arguments.from_qps, arguments.to_qps, arguments.hold_s, arguments.rest_s)
    limits = Limits(arguments.max_shed, arguments.max_p95_s) if arguments.sweep else None
    return hpa_sim(arguments.manifest, cluster, trace, limits, arguments.plot)


def _configured(arguments: argparse.Namespace) -> tuple[Config, ConfigSource, Log]:
    source = ConfigSource(arguments.config, (*_shortcuts(arguments), *arguments.set))
    config = source.read()
    return config, source, start_logging(config.log.level, config.log.file)


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
    text = "simulate what an autoscaler would do with these pods: a KEDA ScaledObject or a HorizontalPodAutoscaler, as deployed"
    _add_simulation(commands.add_parser("hpa-sim", help=text, description=text)).set_defaults(command=_hpa_sim)
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


def _add_simulation(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("manifest", type=Path, help="the YAML file, or the folder of a Kustomize component")
    load = parser.add_argument_group("load")
    load.add_argument(
        "--trace", choices=["step", "ramp", "diurnal", "spike", "flash-crowd"], default="step", help="its course (default step)"
    )
    load.add_argument(
        "--from-qps", type=_above_zero, default=100.0, metavar="N", help="requests a second before and after (100)"
    )
    load.add_argument("--to-qps", type=_above_zero, default=800.0, metavar="N", help="requests a second at its height (800)")
    load.add_argument(
        "--hold-s", type=_seconds, default=1200, metavar="S", help="how long it lasts; this time is judged (1200)"
    )
    load.add_argument("--rest-s", type=_seconds, default=3600, metavar="S", help="how long to go on after it (3600)")
    pod = parser.add_argument_group("one pod")
    pod.add_argument(
        "--pod-qps", type=_above_zero, default=100.0, metavar="N", help="requests a second it can do, measured (100)"
    )
    pod.add_argument("--cold-start-s", type=_above_zero, default=60.0, metavar="S", help="from wanted to ready (60)")
    pod.add_argument(
        "--queue-s",
        type=_above_zero,
        default=4.0,
        metavar="S",
        help="work that may wait before 429: 0.8 of queue.max_wait_s (4)",
    )
    pod.add_argument(
        "--service-s", type=_above_zero, default=0.05, metavar="S", help="a request's time with nothing waiting (0.05)"
    )
    pod.add_argument(
        "--tokens-per-request", type=_above_zero, default=50.0, metavar="N", help="tokens of a request, on average (50)"
    )
    pod.add_argument("--drain-s", type=_above_zero, default=20.0, metavar="S", help="how long one that goes holds its GPU (20)")
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument("--scrape-s", type=_seconds, default=15, metavar="S", help="Prometheus's scrape interval (15)")
    cluster.add_argument("--sync-s", type=_seconds, default=15, metavar="S", help="the controller's period (15)")
    cluster.add_argument(
        "--phase-s", type=int, default=0, metavar="S", help="when after the load's beginning it first looks (0)"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--sweep", action="store_true", help="also try other targets and ways up, and recommend one")
    out.add_argument(
        "--max-shed", type=_above_zero, default=0.05, metavar="SHARE", help="what --sweep allows to be refused (0.05)"
    )
    out.add_argument("--max-p95-s", type=_above_zero, default=0.3, metavar="S", help="the latency that --sweep allows (0.3)")
    out.add_argument("--plot", type=Path, metavar="FILE", help="draw the run, as .png or .svg; needs matplotlib")
    return parser


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _seconds(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected whole seconds above 0, got {text}")
    return value


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
