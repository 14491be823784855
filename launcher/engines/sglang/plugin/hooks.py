"""What SGLang runs in each of its processes (entry point group ``sglang.srt.plugins``).

Installing this project next to SGLang changes nothing for servers that it did not start.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from launcher.engines.sglang.plugin.batches import BatchSocket
from launcher.engines.sglang.plugin.guard import guard_all, set_key

# The hooks reach into SGLang's inside, which any release may move; tests/e2e/test_parity.py runs both versions.
TESTED_SGLANG = ("0.5.17", "0.5.23")
PREPARE_ARGS = "sglang.srt.server_args.prepare_server_args"
ADD_KEY_CHECK = "sglang.srt.utils.auth.add_api_key_middleware"
MEET_OTHERS = "sglang.srt.distributed.parallel_state.init_distributed_environment"
EVENT_LOOP = "sglang.srt.managers.scheduler.Scheduler.run_event_loop"
LAUNCH_DETOKENIZER = "sglang.srt.entrypoints.engine.Engine._launch_detokenizer_subprocesses"


def register() -> None:
    """Hook the processes of a worker that this project started; do nothing in any other server.

    Raises ``SystemExit`` on an untested SGLang: an exception would be logged by SGLang and then ignored.
    """
    if "SGLEMBED_BATCHES" not in os.environ:
        return
    from sglang import __version__
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    reason = untested_reason(__version__, os.environ.get("SGLEMBED_ALLOW_UNTESTED") == "1")
    if reason is not None:
        raise SystemExit(reason)
    if multiprocessing.parent_process() is None:
        HookRegistry.register(PREPARE_ARGS, set_key, HookType.AFTER)
        HookRegistry.register(ADD_KEY_CHECK, guard_all, HookType.AROUND)
        HookRegistry.register(LAUNCH_DETOKENIZER, launch_nothing, HookType.REPLACE)
    else:
        HookRegistry.register(MEET_OTHERS, meet_nobody, HookType.BEFORE)
        HookRegistry.register(EVENT_LOOP, open_batch_socket, HookType.BEFORE)


def untested_reason(version: str, allowed: bool) -> str | None:
    """Why this SGLang is refused, or None."""
    if allowed or version in TESTED_SGLANG:
        return None
    return (
        f"SGLang {version} was not tested with sgl-embed (tested: {', '.join(TESTED_SGLANG)}). "
        "Install a tested version, or set engine.sglang.allow_untested_version: true"
    )


def open_batch_socket(scheduler: Any) -> None:
    """Before the event loop: have the loop answer batches whenever it has nothing else to do."""
    model = scheduler.tp_worker.model_runner.model
    channels = scheduler.ipc_channels
    scheduler.idle_sleeper = BatchSocket(
        os.environ["SGLEMBED_BATCHES"],
        os.environ["SGLEMBED_NAME"],
        model.encode,
        (channels.recv_from_tokenizer, channels.recv_from_rpc),
    )


def meet_nobody(*given: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Before torch's processes look for each other, which a single one need not do at a port, open on all addresses, where
    whoever comes may read and write what they share."""
    if named.get("world_size") != 1:
        return None
    folder_and_name = os.environ["SGLEMBED_BATCHES"].removeprefix("ipc://")
    return given, named | {"distributed_init_method": f"file://{folder_and_name}.meeting"}


def launch_nothing(engine: Any, **arguments: Any) -> tuple[list[Any], list[str]]:
    """No detokenizer: it takes a gigabyte and, at the start, ten seconds of a core, and an encoder has no text to give back."""
    return [], []
