"""Every option of every subcommand, and what ``--help`` says of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

Command = Callable[[argparse.Namespace], int]

TEXTS = {
    "serve": "start the server; Ctrl-C or SIGTERM finishes accepted requests and stops it",
    "plan": "print what serve would start (fetches the model if it is not here yet)",
    "fetch": "put a model into FOLDER, with checksums, for servers that reach no hub",
    "compare": "ask two servers whether their vectors may be mixed; status 0: yes, 1: no, 5: one did not answer",
    "top": "show what servers do right now, from their metrics, until Ctrl-C; with --once, status 5: none answered",
    "hpa-sim": "simulate what an autoscaler would do with these pods: a KEDA ScaledObject or a HorizontalPodAutoscaler, "
    "as deployed",
}


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """``commands`` has a function for each name in ``TEXTS``; the parsed ``command`` is that function."""
    parser = argparse.ArgumentParser(
        prog="sgl-embed",
        description="OpenAI-compatible embedding server for Chinese BERT models, on SGLang and on a laptop.",
    )
    parser.add_argument("--version", action="version", version=version("sgl-embed"))
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add_options in (
        ("serve", _add_server),
        ("plan", _add_server),
        ("fetch", _add_fetching),
        ("compare", _add_comparison),
        ("top", _add_view),
        ("hpa-sim", _add_simulation),
    ):
        subparser = subparsers.add_parser(name, help=TEXTS[name], description=TEXTS[name])
        add_options(subparser)
        subparser.set_defaults(command=commands[name])
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a YAML file such as those in configs/")
    parser.add_argument("--model", metavar="DIR_OR_ID", help="a model folder or hub id (model.id)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any configuration key, such as engine.dtype=bfloat16; may be repeated, wins over the file",
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--engine", choices=["auto", "openvino", "sglang"], help="what computes the vectors (engine.name)")
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for all (server.host, default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on; 0 for any free one (server.port, default 30000)")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="SGLang workers, one GPU each; 0: all GPUs (engine.workers)")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="gateway processes on one port (server.processes, default 1)"
    )
    parser.add_argument("--log-file", metavar="FILE", help="also write the log here (log.file)")


def _add_fetching(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where it becomes a folder of its served name")


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD_URL", help="a server such as http://127.0.0.1:30000")
    parser.add_argument("new", metavar="NEW_URL", help="the other; a key that both know is taken from SGL_EMBED_API_KEY")
    parser.add_argument(
        "--min-cosine",
        type=_cosine,
        default=0.999,
        metavar="C",
        help="how near the vectors of the same texts must be (0.999)",
    )


def _add_view(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "urls",
        nargs="*",
        type=_server_url,
        default=["http://127.0.0.1:30000"],
        metavar="URL",
        help="a server, or each pod of one (http://127.0.0.1:30000)",
    )
    parser.add_argument("--interval", type=_above_zero, default=2.0, metavar="S", help="seconds from one look to the next (2)")
    parser.add_argument("--once", action="store_true", help="print one picture and end; also where the output is no terminal")


def _add_simulation(parser: argparse.ArgumentParser) -> None:
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


def _server_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"expected a URL such as http://127.0.0.1:30000, got {text}")
    return text.rstrip("/")


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


def _cosine(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, got {text}")
    return value
