"""The command line of each contender. None logs a line per request, except SGLang as it comes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bodies import MODEL_NAME
from benchmarks.models import Model

# Nothing may be looked up, and nothing reported home.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
# Published config.json files hold it, and without it SGLang's BERT does not start.
COMPLETED_CONFIG = {"position_embedding_type": "absolute"}


@dataclass(frozen=True)
class Place:
    """Where a contender finds its model and listens. ``infinity`` is the program in its own environment."""

    model: Model
    folder: Path
    port: int
    infinity: Path

    @property
    def dtype(self) -> str:
        return self.model.dtype

    @property
    def on_gpu(self) -> bool:
        return self.model.device == "cuda"


def command_of(contender: str, place: Place) -> list[str]:
    match contender:
        case "ours-openvino":
            return _ours(place, "openvino")
        case "ours-openvino-cached":
            return [*_ours(place, "openvino"), "--set", "cache.memory_mb=64"]
        case "ours-sglang":
            # One GPU, as the others take.
            device = ("--num-gpus", "1") if place.on_gpu else ("--set", "engine.sglang.device=cpu")
            return [*_ours(place, "sglang"), *device]
        case "sglang-stock":
            # With the radix cache its vectors are wrong. All else is what it chooses itself, on a CPU float16 included; on a
            # GPU it would cut a text in two where a chunk is full.
            chosen = ("--dtype", place.dtype, "--chunked-prefill-size", "-1") if place.on_gpu else ()
            return [*_sglang(place), "--disable-radix-cache", *chosen]
        case "sglang-tuned":
            return [
                *_sglang(place),
                *("--dtype", place.dtype, "--disable-radix-cache", "--chunked-prefill-size", "-1"),
                *("--max-total-tokens", "16384", "--mem-fraction-static", "0.5"),
                *("--attention-backend", "torch_native", "--log-level", "warning"),
            ]
        case "infinity":
            return [
                *(str(place.infinity), "v2", "--model-id", str(place.folder), "--served-model-name", MODEL_NAME),
                *("--engine", "torch", "--device", "cpu", "--dtype", place.dtype),
                *("--host", "127.0.0.1", "--port", str(place.port), "--url-prefix", "/v1", "--log-level", "warning"),
            ]
        case "naive":
            return [
                *(sys.executable, "-m", "benchmarks.naive_server"),
                *("--model", str(place.folder), "--dtype", place.dtype, "--port", str(place.port)),
            ]
    raise ValueError(f"no contender is called {contender!r}")


def shown(command: list[str]) -> str:
    """For the record: programs without the folders they lie in."""
    program = Path(command[0]).name
    return " ".join(["python" if program.startswith("python") else program, *command[1:]])


def environment_of(inherited: Mapping[str, str]) -> dict[str, str]:
    return {**inherited, **ENVIRONMENT}


def _ours(place: Place, engine: str) -> list[str]:
    settings = (f"model.name={MODEL_NAME}", f"engine.dtype={place.dtype}", "log.level=warning")
    return [
        *(sys.executable, "-m", "launcher", "serve", "--model", str(place.folder), "--engine", engine),
        *("--port", str(place.port)),
        *(part for setting in settings for part in ("--set", setting)),
    ]


def _sglang(place: Place) -> list[str]:
    return [
        *(sys.executable, "-m", "sglang.launch_server", "--model-path", str(place.folder)),
        *("--served-model-name", MODEL_NAME, "--host", "127.0.0.1", "--port", str(place.port)),
        *("--is-embedding", "--device", place.model.device, "--json-model-override-args", json.dumps(COMPLETED_CONFIG)),
    ]
