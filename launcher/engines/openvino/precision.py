"""Which precision a CPU is asked to compute in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import openvino as ov

from launcher.config.schema import Dtype
from launcher.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


def resolve_dtype(wanted: Dtype) -> Precision:
    """``choose_precision`` for the CPU this runs on."""
    return choose_precision(wanted, ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def choose_precision(wanted: Dtype, capabilities: Collection[str]) -> Precision:
    """``auto`` is bfloat16 where the CPU has instructions for it (avx512_bf16, amx_bf16), else float32.

    ``capabilities`` are OpenVINO's names for what the CPU has. Raises ``ConfigError`` for what this CPU could only imitate,
    which is slower than float32, and for float16, which few CPUs have and which bfloat16 equals in size.
    """
    has_bfloat16 = "BF16" in capabilities
    if wanted == "auto":
        return "bfloat16" if has_bfloat16 else "float32"
    if wanted == "float16":
        raise ConfigError("engine.dtype: float16 is for GPUs; on a CPU use auto, bfloat16 or float32")
    if wanted == "bfloat16" and not has_bfloat16:
        raise ConfigError("engine.dtype: this CPU has no bfloat16 instructions (avx512_bf16 or amx_bf16); use auto or float32")
    return wanted
