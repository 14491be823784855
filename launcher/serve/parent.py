"""Several gateway processes on one port: this one binds it, owns the engine and answers their batches."""

from __future__ import annotations

import asyncio
import math
import socket
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from launcher.compose import Secrets, build_engine, build_process_metrics, build_tokenizer, served_model
from launcher.config.load import ConfigSource
from launcher.engines.shared import SharedEngine
from launcher.plan import Plan
from launcher.serve.listen import announcer
from launcher.serve.memory import release_unused
from launcher.serve.reload import LogSettings, Reload
from launcher.serve.setup import Setup
from launcher.serve.signals import Signals
from launcher.supervisor.gateways import GatewayProcess, Gateways
from launcher.supervisor.lives import cancel
from launcher.telemetry.lines import SERVER
from launcher.telemetry.logs import Log
from launcher.telemetry.metrics import counting_in
from launcher.telemetry.processes import PythonMetrics
from launcher.telemetry.registry import Registry, keep_fresh

CHILD = "launcher.serve.child"
# Of one gateway: one batch running and one prepared.
MIN_SLOTS = 2


async def run_parent(
    plan: Plan,
    source: ConfigSource,
    secrets: Secrets,
    listener: socket.socket,
    max_connections: int,
    logs: Log,
) -> int:
    """Serve until SIGINT or SIGTERM, or until the engine or a gateway is given up. Returns and raises as ``serve`` does.

    ``max_connections`` is each gateway's.
    """
    signals = Signals()
    model = served_model(plan)
    # Only this user may enter it, and so ask the engine.
    with TemporaryDirectory(prefix="sgl-embed-") as folder:
        address = f"ipc://{folder}/engine"
        names = [f"gateway {number}" for number in range(plan.config.server.processes)]
        registry = Registry()
        with counting_in(Path(folder)):
            hooks = build_process_metrics(plan, registry, names)
            PythonMetrics(registry, SERVER)
        engine, keeper = build_engine(plan, build_tokenizer(plan), hooks, Path(folder))
        shared = SharedEngine(engine, address)
        slots = gateway_slots(engine.slots, len(names))
        setup = Setup(plan, source, model, secrets, address, slots, max_connections, Path(folder))
        gateways = Gateways(names, partial(gateway_process, setup), hooks)
        loaded = asyncio.Event()
        keeping = asyncio.create_task(keeper.run(partial(begin, loaded)), name="engine")
        answering = asyncio.create_task(answer(shared, loaded), name="batches")
        accepting = asyncio.create_task(gateways.hand_out(listener), name="connections")
        on_ready = partial(announcer(plan.config), model, listener)
        serving = asyncio.create_task(gateways.run(loaded, on_ready), name="gateways")
        stop = asyncio.create_task(signals.first.wait(), name="signal")
        # The keys before the gateways: one that starts meanwhile is told those that its parent knows.
        reload = Reload(
            {
                "log": logs,
                "log settings": LogSettings(source, logs, None, plan.config),
                "API keys": secrets.keys or None,
                "gateway processes": gateways,
            }
        )
        reloading = asyncio.create_task(reload.on(signals.hangup), name="reload")
        measuring = asyncio.create_task(keep_fresh(registry), name="measure")
        try:
            ended, _ = await asyncio.wait({keeping, answering, accepting, serving, stop}, return_when=asyncio.FIRST_COMPLETED)
            await cancel(serving)
            timeout_s = plan.config.server.drain_timeout_s if stop in ended else 0
            answered = await gateways.drain(timeout_s, signals.second)
            await cancel(accepting)
            # The engine's end may take a while; who connects meanwhile should not wait for it.
            listener.close()
        finally:
            await cancel(accepting, serving, stop, reloading, measuring)
            await gateways.kill()
            await cancel(answering, keeping)
            shared.close()
    for task in ended:
        # Raises what it ended of.
        task.result()
    return 0 if answered else 1


def begin(loaded: asyncio.Event) -> None:
    release_unused()
    loaded.set()


def gateway_slots(engine_slots: int, processes: int) -> int:
    """Together enough to keep the engine busy. More would only take inputs out of queues where larger batches form."""
    return max(math.ceil(engine_slots / processes), MIN_SLOTS)


def gateway_process(setup: Setup, name: str) -> GatewayProcess:
    return GatewayProcess(name, CHILD, (name, setup), setup.metrics_folder)


async def answer(shared: SharedEngine, loaded: asyncio.Event) -> None:
    await loaded.wait()
    await shared.run()
