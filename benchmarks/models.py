"""What the contenders serve: a random checkpoint, in a precision, on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Model:
    """``checkpoint``: of the shape of the tests' tiny model or of bge-large's."""

    checkpoint: Literal["tiny", "large"]
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def title(self) -> str:
        shape = {"tiny": "2 layers, 128 wide", "large": "the shape of bge-large (24 layers, 1024 wide)"}[self.checkpoint]
        return f"{shape}, {self.dtype}" + (", on a GPU" if self.device == "cuda" else "")


MODELS = {
    "tiny": Model(checkpoint="tiny", dtype="float32"),
    "large": Model(checkpoint="large", dtype="bfloat16"),
    "gpu-float16": Model(checkpoint="large", dtype="float16", device="cuda"),
    "gpu-bfloat16": Model(checkpoint="large", dtype="bfloat16", device="cuda"),
    # Goes through the cases of a GPU where there is none.
    "rehearsal": Model(checkpoint="tiny", dtype="float32"),
}
