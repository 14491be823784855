"""What SGLang runs in each of its processes (entry point group ``sglang.srt.plugins``).

Installing this project next to SGLang changes nothing for servers that it did not start.
"""

from __future__ import annotations

import base64
import os
from typing import Any

# 0.5.17 was run on an H200 (docs/performance.md), 0.5.23 on a CPU with the tests of tests/engines. The hook reaches into
# SGLang's inside, which any release may move.
TESTED_SGLANG = ("0.5.17", "0.5.23")
CONVERT_EMBEDDINGS = (
    "sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor._convert_embeddings"
)


def register() -> None:
    """Hook the scheduler of a worker that this project started; do nothing in any other server.

    Raises ``SystemExit`` on an untested SGLang: an exception would be logged by SGLang and then ignored.
    """
    if "SGLEMBED_POOLING" not in os.environ:
        return
    from sglang import __version__
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    reason = untested_reason(__version__, os.environ.get("SGLEMBED_ALLOW_UNTESTED") == "1")
    if reason is not None:
        raise SystemExit(reason)
    HookRegistry.register(CONVERT_EMBEDDINGS, rows_as_base64, HookType.REPLACE)


def untested_reason(version: str, allowed: bool) -> str | None:
    """Why this SGLang is refused, or None."""
    if allowed or version in TESTED_SGLANG:
        return None
    return (
        f"SGLang {version} was not tested with sgl-embed (tested: {', '.join(TESTED_SGLANG)}). "
        "Install a tested version, or set engine.sglang.allow_untested_version: true"
    )


def rows_as_base64(processor: Any, *, result: Any) -> list[str]:
    """In place of ``_convert_embeddings``: each request's float32 [n_texts, dim] tensor as one base64 string.

    SGLang would make a Python float of every number and walk them all again on their way to JSON.
    """
    return [base64.b64encode(rows.cpu().numpy()).decode("ascii") for rows in result.embeddings]
