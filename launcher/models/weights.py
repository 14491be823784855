"""The weights file of a checkpoint: found, and checked to be whole before anything maps it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from launcher.errors import ModelError

SAFETENSORS = "model.safetensors"
SHARDED = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
GIT_LFS_POINTER = b"version https://git-lfs"
# The safetensors format: a little-endian u64, that many bytes of JSON, then the tensors.
PREFIX = struct.Struct("<Q")


def weights_problem(names: set[str], allow_pickle: bool) -> str | None:
    """None when a file listing holds weights that can be served, else why not and what to do."""
    if SAFETENSORS in names or (allow_pickle and PICKLE in names):
        return None
    if SHARDED in names:
        return f"the weights are split over several files ({SHARDED}); join them into one {SAFETENSORS}"
    if PICKLE in names:
        return (
            f"there is no {SAFETENSORS}, only {PICKLE}, which is a pickle; set model.allow_pickle to true to convert it "
            "(tensors only, no code is run)"
        )
    return f"there is no {SAFETENSORS}"


def find_weights(folder: Path) -> Path:
    """``model.safetensors`` in ``folder``. Raises ``ModelError`` when it is missing, split, a Git LFS pointer or cut short."""
    weights = folder / SAFETENSORS
    if not weights.exists():
        raise ModelError(f"{folder}: {weights_problem({file.name for file in folder.iterdir()}, allow_pickle=False)}")
    try:
        _check_whole(weights)
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read: {error.strerror}") from error
    return weights


def _check_whole(weights: Path) -> None:
    size = weights.stat().st_size
    with weights.open("rb") as file:
        start = file.read(len(GIT_LFS_POINTER))
        if start == GIT_LFS_POINTER:
            raise ModelError(f"{weights}: is a Git LFS pointer, not the weights; run git lfs pull in {weights.parent}")
        file.seek(0)
        try:
            (header_length,) = PREFIX.unpack(file.read(PREFIX.size))
            if header_length > size:
                raise ValueError
            header = json.loads(file.read(header_length))
            end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
        except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ModelError(f"{weights}: is not a safetensors file") from None
    expected = PREFIX.size + header_length + end
    if size != expected:
        raise ModelError(f"{weights}: is damaged: {size} bytes, but its header speaks of {expected}; fetch it again")
