"""Which GPUs this process may use, without loading a deep-learning framework to find out."""

from __future__ import annotations

from collections.abc import Mapping


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Identifiers that ``CUDA_VISIBLE_DEVICES`` understands, one per usable NVIDIA GPU; empty without a driver."""
    present = _count_gpus()
    if not present:
        return ()
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(map(str, range(present)))
    # CUDA ends the list at the first entry that names no device.
    # https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars
    gpus: list[str] = []
    for entry in map(str.strip, chosen.split(",")):
        if not entry or entry == "-1" or (entry.isdecimal() and int(entry) >= present):
            break
        gpus.append(entry)
    return tuple(gpus)


def _count_gpus() -> int:
    # 2 MB, which a server that was told to use the CPU does without.
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()
