"""A stand-in for pynvml: what it says of the GPUs is in a file that a test changes.

A folder with it in front of PYTHONPATH takes pynvml's place in a server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

MODULE = """
import json
from pathlib import Path
from types import SimpleNamespace

STATE = Path(__file__).with_name("gpus.json")


class NVMLError(Exception):
    pass


def gpus():
    state = json.loads(STATE.read_text())
    if not state["driver"]:
        raise NVMLError("Driver Not Loaded")
    return state["gpus"]


def answering(handle):
    gpu = gpus()[handle]
    if gpu["lost"]:
        raise NVMLError("GPU is lost")
    return gpu


def nvmlInit():
    gpus()


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return len(gpus())


def nvmlDeviceGetHandleByIndex(index):
    if index >= len(gpus()):
        raise NVMLError("Invalid Argument")
    return index


def nvmlDeviceGetHandleByUUID(uuid):
    raise NVMLError("Not Found")


def nvmlDeviceGetUUID(handle):
    return gpus()[handle]["uuid"]


def nvmlDeviceGetMemoryInfo(handle):
    gpu = answering(handle)
    return SimpleNamespace(used=gpu["used"], total=gpu["total"])


def nvmlDeviceGetUtilizationRates(handle):
    gpu = answering(handle)
    if gpu["percent"] is None:
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=gpu["percent"])
"""


@dataclass
class StandInGpu:
    uuid: str = "GPU-0"
    used: int = 0
    total: int = 1 << 30
    percent: int | None = 0
    lost: bool = False


class StandInNvml:
    def __init__(self, folder: Path, *gpus: StandInGpu) -> None:
        self.gpus = list(gpus)
        self.driver = True
        self._folder = folder
        (folder / "pynvml.py").write_text(MODULE)
        self.tell()

    def tell(self) -> None:
        """From now on it says what ``gpus`` and ``driver`` are."""
        written = self._folder / "gpus.json.new"
        written.write_text(json.dumps({"driver": self.driver, "gpus": [asdict(gpu) for gpu in self.gpus]}))
        written.rename(self._folder / "gpus.json")

    def environment(self, repository: Path) -> Mapping[str, str]:
        """For a server of ``repository``."""
        return {"PYTHONPATH": f"{self._folder}:{repository}"}
