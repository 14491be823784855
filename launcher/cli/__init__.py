"""The command line. What a subcommand needs is imported when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from launcher.cli.options import build_parser
from launcher.config.load import ConfigSource
from launcher.config.schema import Config
from launcher.errors import ConfigError, EngineError, ModelError, NoAnswer, SglEmbedError, WorkerDied
from launcher.telemetry.logs import Log, start_logging

log = logging.getLogger("launcher.serve")

EXIT_STATUS = ((ConfigError, 2), (ModelError, 3), (EngineError, 4), (NoAnswer, 5))
INTERRUPTED = 130
# As shells count it: 128 and the number of SIGPIPE.
UNREAD = 141


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser(COMMANDS).parse_args(argv)
    # A terminal without Chinese characters must not end a server that says where it listens.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status: int = arguments.command(arguments)
        return status
    except SglEmbedError as error:
        print(f"{last_lines(error)}sgl-embed: {error}", file=sys.stderr)
        return exit_status(error)
    except KeyboardInterrupt:
        print("sgl-embed: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read, such as head, has seen enough. What is left in the buffer would fail again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


def _serve(arguments: argparse.Namespace) -> int:
    from launcher.serve.command import serve

    config, source, logs = _configured(arguments)
    if config.log.format == "text":
        return serve(config, source, logs)
    try:
        return serve(config, source, logs)
    except SglEmbedError as error:
        # The last line, which says why it ended, is to be read by the same program as the others.
        log.error("%ssgl-embed: %s", last_lines(error), error)
        return exit_status(error)


def _plan(arguments: argparse.Namespace) -> int:
    import yaml

    from launcher.plan import describe, make_plan

    config, _, _ = _configured(arguments)
    yaml.safe_dump(describe(make_plan(config)), sys.stdout, allow_unicode=True, sort_keys=False, width=120)
    sys.stdout.flush()
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from launcher.models.copies import fetch_into

    config, _, _ = _configured(arguments)
    print(fetch_into(arguments.folder, config.model))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from launcher.compare import compare

    verdict = compare(arguments.old, arguments.new, arguments.min_cosine, os.environ.get("SGL_EMBED_API_KEY"))
    print(verdict.reason)
    return 0 if verdict.may_be_mixed else 1


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


def _top(arguments: argparse.Namespace) -> int:
    if find_spec("rich") is None:
        raise ConfigError(
            "top: the package rich is not installed here: pip install --editable '.[top]' in the checkout, or pip install rich"
        )
    from launcher.top.command import top

    return top(list(dict.fromkeys(arguments.urls)), arguments.interval, arguments.once)


def config_source(arguments: argparse.Namespace) -> ConfigSource:
    """Of a command that takes a configuration."""
    return ConfigSource(arguments.config, (*_shortcuts(arguments), *arguments.set))


def exit_status(error: SglEmbedError) -> int:
    return next((status for kind, status in EXIT_STATUS if isinstance(error, kind)), 1)


def last_lines(error: SglEmbedError) -> str:
    """Of a worker that ended, to be read before the error; else nothing."""
    if isinstance(error, WorkerDied) and error.log_tail:
        return f"The last lines of {error.worker}:\n{error.log_tail}\n\n"
    return ""


def _configured(arguments: argparse.Namespace) -> tuple[Config, ConfigSource, Log]:
    source = config_source(arguments)
    config = source.read()
    return config, source, start_logging(config.log.level, config.log.file, config.log.format)


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
    given = {key: getattr(arguments, option, None) for option, key in keys.items()}
    if given["engine.workers"] is not None:
        # Whoever counts GPUs wants no silent start on the CPU.
        given["engine.sglang.device"] = "cuda"
    return [f"{key}={_as_yaml(value)}" for key, value in given.items() if value is not None]


def _as_yaml(value: str | int) -> str:
    """Quote text, so that a folder called ``1e3`` or ``no`` stays one."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


COMMANDS = {"serve": _serve, "plan": _plan, "fetch": _fetch, "compare": _compare, "top": _top, "hpa-sim": _hpa_sim}
