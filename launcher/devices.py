"""Which GPUs this process may use and how busy they are, without loading a deep-learning framework to find out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import nan
from typing import Any, NamedTuple


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


class GpuUse(NamedTuple):
    """``utilization`` is a share, 0 to 1; NaN where the driver does not tell it, as for a part of a GPU (MIG)."""

    memory_used_bytes: float
    memory_total_bytes: float
    utilization: float


class GpuReader:
    """Asks the driver about ``gpus``, identifiers as of ``visible_gpus``; from one thread at a time.

    CUDA and the driver number GPUs alike where they are of one kind, or where CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus = gpus
        self._open = False

    def read(self) -> Mapping[str, GpuUse]:
        """Those that the driver tells anything of. It may take its time, or never return where a GPU is broken."""
        import pynvml

        uses: dict[str, GpuUse] = {}
        try:
            if not self._open:
                pynvml.nvmlInit()
                self._open = True
        except pynvml.NVMLError:
            return uses
        for gpu in self._gpus:
            # One that fell off its bus takes none of the others along.
            with suppress(pynvml.NVMLError):
                uses[gpu] = _use_of(gpu)
        if len(uses) < len(self._gpus):
            # The driver may have been loaded anew.
            self._open = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        return uses


def _use_of(gpu: str) -> GpuUse:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdecimal() else _handle_by_name(gpu)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    utilization = nan
    with suppress(pynvml.NVMLError):
        utilization = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    return GpuUse(memory.used, memory.total, utilization)


def _handle_by_name(gpu: str) -> Any:
    """A UUID, or for CUDA the beginning of one. https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars"""
    import pynvml

    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        if pynvml.nvmlDeviceGetUUID(handle).startswith(gpu):
            return handle
    return pynvml.nvmlDeviceGetHandleByUUID(gpu)
