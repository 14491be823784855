"""Configuration and checkpoint to what will be started. Decides everything, starts nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from launcher.config.schema import Config, EngineName, WeightFormat
from launcher.devices import visible_gpus
from launcher.engines.sglang.argv import WorkerSpec, worker_argv, worker_env
from launcher.errors import ConfigError, EngineError
from launcher.models.checkpoint import Checkpoint, content_sha256, read_checkpoint
from launcher.models.download import FetchedModel, fetch_model
from launcher.telemetry.counts import counts_folder

ChosenEngine = Literal["openvino", "sglang"]
Device = Literal["cpu", "cuda"]
ChosenDtype = Literal["float32", "bfloat16", "float16"]

# Enough to keep the device busy; more only makes a short request wait longer behind a full batch.
MAX_BATCH_TOKENS: dict[Device, int] = {"cpu": 2048, "cuda": 16384}


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``serve`` starts. ``workers`` is empty for OpenVINO, which runs in the server's own process."""

    config: Config
    name: str
    aliases: tuple[str, ...]
    revision: str | None
    checkpoint: Checkpoint
    engine: ChosenEngine
    device: Device
    dtype: ChosenDtype
    weights: WeightFormat
    max_batch_tokens: int
    workers: tuple[WorkerSpec, ...]

    @property
    def queue_tokens(self) -> int:
        """Tokens that may wait or run in each of ``server.processes``."""
        return max(self.config.queue.max_tokens // self.config.server.processes, 1)


def make_plan(config: Config) -> Plan:
    """Fetch the model if need be, read its facts, choose engine, device and precision.

    Raises ``ConfigError``, ``ModelError`` or ``EngineError`` saying what to change.
    """
    gpus = () if config.engine.name == "openvino" else visible_gpus(os.environ)
    engine = choose_engine(config.engine.name, gpus, sglang_installed=config.engine.sglang.python is not None or _has_sglang())
    device = choose_device(engine, config.engine.sglang.device, gpus)
    fetched = fetch_model(config.model)
    checkpoint = read_checkpoint(fetched.folder, fetched.settings)
    dtype = choose_dtype(config.engine.dtype, device)
    max_batch_tokens = config.engine.max_batch_tokens or MAX_BATCH_TOKENS[device]
    if max_batch_tokens < checkpoint.max_tokens:
        raise ConfigError(
            f"engine.max_batch_tokens: {max_batch_tokens} is less than one full input of this model ({checkpoint.max_tokens})"
        )
    weights = config.engine.openvino.weights if engine == "openvino" else "dtype"
    workers = worker_specs(config, checkpoint, device, dtype, gpus) if engine == "sglang" else ()
    aliases = served_aliases(fetched)
    return Plan(
        config, fetched.name, aliases, fetched.revision, checkpoint, engine, device, dtype, weights, max_batch_tokens, workers
    )


def choose_engine(wanted: EngineName, gpus: Sequence[str], *, sglang_installed: bool) -> ChosenEngine:
    """``auto`` is SGLang where it and a GPU are present, else OpenVINO."""
    if wanted == "sglang" and not sglang_installed:
        raise EngineError(
            "engine.name is sglang, but SGLang is not installed here: run make setup-dev or pip install '.[sglang]', "
            "or set engine.sglang.python to a Python that has both SGLang and this package"
        )
    if wanted == "auto":
        return "sglang" if gpus and sglang_installed else "openvino"
    return wanted


def choose_device(engine: ChosenEngine, wanted: Literal["auto", "cuda", "cpu"], gpus: Sequence[str]) -> Device:
    if engine == "openvino" or wanted == "cpu":
        return "cpu"
    if wanted == "cuda" and not gpus:
        raise EngineError(
            "engine.sglang.device is cuda, but no NVIDIA GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES, "
            "or set it to cpu"
        )
    return "cuda" if gpus else "cpu"


def choose_dtype(wanted: Literal["auto", "float32", "bfloat16", "float16"], device: Device) -> ChosenDtype:
    """On CUDA float16: as fast as bfloat16 and three bits finer, and every GPU since Volta has it."""
    if device == "cuda":
        return "float16" if wanted == "auto" else wanted
    # Loads OpenVINO, 40 MB.
    from launcher.engines.openvino.precision import resolve_dtype

    return resolve_dtype(wanted)


def served_aliases(fetched: FetchedModel) -> tuple[str, ...]:
    """What clients may say besides the name: a hub id as a whole, and what is configured. A fallback has neither."""
    model_id, configured = fetched.settings.id, fetched.settings.aliases
    is_hub_id = not fetched.is_fallback and not Path(model_id).expanduser().is_dir()
    return (model_id, *configured) if is_hub_id and model_id != fetched.name else configured


def worker_specs(
    config: Config, checkpoint: Checkpoint, device: Device, dtype: ChosenDtype, gpus: Sequence[str]
) -> tuple[WorkerSpec, ...]:
    """One worker per GPU, or as many as asked for; more workers than GPUs is refused."""
    count = config.engine.workers or (len(gpus) if device == "cuda" else 1)
    if device == "cuda" and count > len(gpus):
        raise ConfigError(f"engine.workers: {count} workers need {count} GPUs, but {len(gpus)} are visible")
    sglang = config.engine.sglang
    return tuple(
        WorkerSpec(
            model_folder=checkpoint.folder,
            dtype=dtype,
            device=device,
            gpu=gpus[i] if device == "cuda" else None,
            pooling=checkpoint.pooling,
            mem_fraction=sglang.mem_fraction,
            python=sglang.python,
            allow_untested_version=sglang.allow_untested_version,
            metrics=sglang.metrics,
            extra_args=sglang.extra_args,
            python_path=os.environ.get("PYTHONPATH", ""),
        )
        for i in range(count)
    )


def fingerprint(plan: Plan) -> str:
    """16 hexadecimal digits that differ whenever vectors may not be compared: weights, files, precision, pooling, prompts.

    What the files hold decides, not where they came from: a revision that changes only a README keeps the fingerprint.
    """
    checkpoint = plan.checkpoint
    prompts = sorted(checkpoint.prompts.items())
    parts = (content_sha256(checkpoint), plan.dtype, plan.weights, checkpoint.pooling, checkpoint.max_tokens, prompts)
    return sha256(repr(parts).encode()).hexdigest()[:16]


def describe(plan: Plan) -> dict[str, object]:
    """The plan for people: model facts, engine, limits, and each worker's command line and added environment."""
    checkpoint, server = plan.checkpoint, plan.config.server
    return {
        "model": {
            "name": plan.name,
            "aliases": list(plan.aliases),
            "folder": str(checkpoint.folder),
            "revision": plan.revision,
            "fingerprint": fingerprint(plan),
            "dimensions": checkpoint.dimensions,
            "matryoshka_dimensions": list(checkpoint.matryoshka_dimensions),
            "layers": checkpoint.shape.num_hidden_layers,
            "pooling": checkpoint.pooling,
            "max_tokens": checkpoint.max_tokens,
            "prompts": dict(checkpoint.prompts),
        },
        "engine": {
            "name": plan.engine,
            "device": plan.device,
            "dtype": plan.dtype,
            "weights": plan.weights,
            "max_batch_tokens": plan.max_batch_tokens,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "workers": [
                {
                    "argv": worker_argv(spec, port="<free port>"),
                    "environment": worker_env(
                        spec,
                        name=f"worker {number}",
                        batches=f"ipc://<private folder>/worker-{number}",
                        key="<drawn at each start>",
                        counts=counts_folder(Path("<private folder>"), f"worker {number}"),
                    ),
                }
                for number, spec in enumerate(plan.workers)
            ],
        },
        "limits": {
            "inputs_per_request": server.max_inputs_per_request,
            "tokens_per_request": server.max_tokens_per_request,
            "body_mb": server.max_body_mb,
            "queue_tokens": plan.config.queue.max_tokens,
            "queue_wait_s": plan.config.queue.max_wait_s,
            "request_timeout_s": server.request_timeout_s,
            "max_request_timeout_s": server.max_request_timeout_s,
            "drain_timeout_s": server.drain_timeout_s,
            "cache_mb": plan.config.cache.memory_mb,
        },
        "gateway": {"processes": server.processes, "queue_tokens_each": plan.queue_tokens},
        "address": f"{'https' if server.tls.cert_file else 'http'}://{server.host}:{server.port}",
    }


def _has_sglang() -> bool:
    return importlib.util.find_spec("sglang") is not None
