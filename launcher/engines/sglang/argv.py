"""From the facts of a worker to the command line and environment of its SGLang process; pure functions.

SGLang's defaults are made for text generation. What each rule prevents is said next to it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.config.schema import Pooling

# SGLang's own requests are its warm-up and what an operator tries by hand: batches do not pass its scheduler.
MAX_RUNNING_REQUESTS = 4
MAX_TOTAL_TOKENS = 8192
# Packages that cannot be imported, under the names of some that a CPU has no use for.
ABSENT = Path(__file__).with_name("absent")
CONFIG_OVERRIDES = {
    # bert-base-chinese calls itself BertForMaskedLM, for which SGLang has no class.
    "architectures": ["BertModel"],
    # An encoder has no use for a KV pool, but SGLang always makes one, of layers x heads x head_dim. It is shown the smallest
    # (for bge-large 12 MB and not 1.6 GB); the encoder itself reads neither key.
    "num_key_value_heads": 1,
    "head_dim": 8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One SGLang process on one device.

    ``python`` None is the one running this. ``gpu`` is an entry of CUDA_VISIBLE_DEVICES (an index or a UUID), None on a CPU.
    ``mem_fraction`` is the share of the device's memory that SGLang may take. ``python_path`` is the PYTHONPATH it inherits.
    """

    model_folder: Path
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Literal["cpu", "cuda"]
    pooling: Pooling
    gpu: str | None = None
    mem_fraction: float = 0.5
    python: str | None = None
    allow_untested_version: bool = False
    metrics: bool = False
    extra_args: tuple[str, ...] = ()
    python_path: str = ""


def worker_argv(spec: WorkerSpec, *, port: int | str) -> list[str]:
    """The command that starts this worker; ``extra_args`` come last, so that they win."""
    return [
        *(spec.python or sys.executable, "-m", "sglang.launch_server"),
        *("--model-path", str(spec.model_folder)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--device", spec.device, "--dtype", spec.dtype),
        *_encoder_args(),
        *_size_args(spec),
        *("--json-model-override-args", json.dumps(CONFIG_OVERRIDES)),
        # At "info" each batch and each HTTP request is a line.
        *("--log-level", "warning"),
        *(("--enable-metrics",) if spec.metrics else ()),
        *spec.extra_args,
    ]


def worker_env(spec: WorkerSpec, *, name: str, batches: str, key: str, counts: Path) -> dict[str, str]:
    """What this worker needs in its environment beyond what it inherits.

    ``name`` is what it calls itself, ``batches`` the address that it takes them at, ``key`` what its own HTTP API asks for:
    other users can read a command line, but not this. ``counts`` is the folder for its own metrics, if it is to keep any.
    """
    env = {
        # The encoder that takes the place of SGLang's own BertModel, and how it pools. (Not SGL_…: SGLang renames such
        # variables, with a warning from each process.)
        "SGLANG_EXTERNAL_MODEL_PACKAGE": "launcher.engines.sglang.plugin.models",
        "SGLEMBED_POOLING": spec.pooling,
        "SGLEMBED_BATCHES": batches,
        "SGLEMBED_NAME": name,
        "SGLEMBED_KEY": key,
        "CUDA_VISIBLE_DEVICES": spec.gpu or "",
        # Where torch's processes listen for each other; by default at the address that the machine's name has.
        "GLOO_SOCKET_IFNAME": "lo",
        # The model is a local folder: nothing is to be looked up.
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        # Images often forbid writing compiled modules; each of a worker's processes would compile thousands, every time.
        "PYTHONDONTWRITEBYTECODE": "",
        # SGLang warns of kernels that a device lacks and that no encoder calls.
        "PYTHONWARNINGS": "ignore",
    }
    if spec.metrics:
        env["PROMETHEUS_MULTIPROC_DIR"] = str(counts)
    if spec.device == "cpu":
        # SGLang imports these kernels for CUDA in each of its processes: 180 MB, and seconds. It gets along without them.
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ABSENT), spec.python_path)))
        env["SGLANG_IS_FLASHINFER_AVAILABLE"] = "false"
        # By default threads wait for each other by spinning. Where the gateway needs one of their cores, all spin for the one
        # that does not run: 281 requests/s instead of 4,072 was seen with the two cores of one machine busy.
        env["OMP_WAIT_POLICY"] = "PASSIVE"
        # oneDNN keeps what it made for each shape, that is for each number of tokens in a batch: with its own limit of 1,024 a
        # 2-layer model grew by 490 MB in 5 minutes of mixed requests (2026-11-21). Batches of 1 to 32 equal texts need 128.
        env["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "128"
        # Else the allocator gives large tensors back to the system after each step of a batch, and page faults take a third of
        # the time of a batch of 2,304 tokens (2-layer model, 2026-11-22). Four times as much was no faster there, and a worker
        # grew by 40 MB in a minute of mixed requests.
        env["MALLOC_MMAP_THRESHOLD_"] = str(16 << 20)
        env["MALLOC_TRIM_THRESHOLD_"] = str(64 << 20)
    if spec.allow_untested_version:
        env["SGLEMBED_ALLOW_UNTESTED"] = "1"
    return env


def _encoder_args() -> tuple[str, ...]:
    return (
        "--is-embedding",
        # Both cut a text in two, and a BERT encoder must see all of it: wrong vectors without a word.
        *("--disable-radix-cache", "--chunked-prefill-size", "-1"),
        # Batches are token ids.
        "--skip-tokenizer-init",
        # The model does its own attention; this backend prepares nothing and runs on every device.
        *("--attention-backend", "torch_native"),
        *("--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled"),
    )


def _size_args(spec: WorkerSpec) -> tuple[str, ...]:
    return (
        # Without this the KV pool of a 2-layer model takes 16 GB.
        *("--max-total-tokens", str(MAX_TOTAL_TOKENS)),
        # With chunking off, SGLang derives a negative share on a CPU and dies.
        *("--mem-fraction-static", str(spec.mem_fraction)),
        *("--max-prefill-tokens", str(MAX_TOTAL_TOKENS)),
        *("--max-running-requests", str(MAX_RUNNING_REQUESTS)),
    )
