"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import psutil
import pynvml

from benchmarks.server import cores

PACKAGES = (
    "sgl-embed",
    "openvino",
    "tokenizers",
    "sglang",
    "torch",
    "transformers",
    "sentence-transformers",
    "fastapi",
    "uvicorn",
)
INFINITY_PACKAGES = ("infinity-emb", "torch", "transformers", "sentence-transformers")
VERSIONS_OF = "import sys, importlib.metadata as m; print(*(m.version(name) for name in sys.argv[1:]))"


def machine() -> dict[str, str | int | float]:
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "bfloat16": " avx512_bf16 " in _cpuinfo() or " amx_bf16 " in _cpuinfo(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "virtual": "hypervisor" in _cpuinfo(),
        **_gpus(),
    }


def _gpus() -> dict[str, str]:
    """Nothing where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        names = [pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
        return {"gpus": ", ".join(names), "driver": pynvml.nvmlSystemGetDriverVersion()}
    finally:
        pynvml.nvmlShutdown()


def load_per_core() -> float:
    return os.getloadavg()[0] / cores()


def busy_s() -> float:
    """CPU time of all cores that went into anything, the share that a host gave to other machines included."""
    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))


def own_s() -> float:
    """CPU time of this process and of its ended children, such as wrk."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def versions(python: str, infinity: Path) -> dict[str, str]:
    """Of everything that takes part; packages that a contender lacks are left out."""
    found = {"python": platform.python_version(), "wrk": _first(r"wrk (\S+)", _output(["wrk", "-v"])), "commit": _commit()}
    found |= _package_versions(python, PACKAGES)
    if infinity.exists():
        others = _package_versions(str(infinity.with_name("python")), INFINITY_PACKAGES)
        found |= {name if name == "infinity-emb" else f"{name} (infinity)": version for name, version in others.items()}
    return found


def _package_versions(python: str, names: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(names, _output([python, "-c", VERSIONS_OF, *names]).split(), strict=False))


def _commit() -> str:
    changed = _output(["git", "status", "--porcelain", "--untracked-files=no", "launcher"]).strip()
    return _output(["git", "rev-parse", "--short=12", "HEAD"]).strip() + (" with changes" if changed else "")


def _output(command: list[str]) -> str:
    """Both streams, whatever the status: ``wrk -v`` ends with 1."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""


def _cpu_name() -> str:
    return _first(r"model name\s*:\s*(.+)", _cpuinfo()) or platform.processor()


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match.group(1) if match else ""
