"""The tensors of a checkpoint as nodes of a graph. Matrices are mapped from a file: OpenVINO reads them there, once.

The file format is an 8-byte length, a JSON header and the tensors' bytes (https://github.com/huggingface/safetensors#format).
The ``safetensors`` package would copy each tensor into memory of its own, and has no bfloat16 for numpy.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15 as op

from launcher.errors import ModelError

READABLE = ("F32", "F16", "BF16")
# Rows of a table that are rounded at a time; more at once would leave more behind in the heap.
ROUNDED_ROWS = 512
# BertForMaskedLM and its kin keep the encoder under this name.
WRAPPER_PREFIX = "bert."
# What LayerNorm's parameters were called in checkpoints converted from TensorFlow.
OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's place: bytes ``start`` to ``stop`` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class MappedWeights:
    """Must outlive every graph built from it. Raises ``ModelError`` where the file is not what it should be.

    ``bfloat16_tables``: tables take half the memory, and rows are as near to the file as all else is in that precision.
    """

    def __init__(self, path: Path, *, bfloat16_tables: bool = False) -> None:
        self._path = path
        self._bfloat16_tables = bfloat16_tables
        try:
            with path.open("rb") as file:
                content = _map(file)
            self._entries = _read_header(content)
            if any(entry.dtype in ("F16", "BF16") for entry in self._entries.values()):
                # OpenVINO would widen them itself, and hold on to the copy.
                with tempfile.TemporaryFile() as widened:
                    self._entries = _widen(content, self._entries, widened)
                    content = _map(widened)
        except (struct.error, ValueError, KeyError, TypeError, OverflowError) as error:
            raise ModelError(f"{path}: is not a safetensors file: {error}") from error
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error} (temporary files are in {tempfile.gettempdir()})") from error
        self._map = content

    def float32(self, name: str, *shape: int) -> ov.Node:
        """A copy of ``array``: each touch of the file also brings in what lies around it, and around these lie matrices."""
        return op.constant(self.array(name, *shape))

    def matrix(self, name: str, outputs: int, inputs: int) -> ov.Node:
        return self._mapped(name, outputs, inputs)

    def table(self, name: str, rows: int, width: int) -> ov.Node:
        return self._rounded(name, rows, width) if self._bfloat16_tables else self._mapped(name, rows, width)

    def array(self, name: str, *shape: int) -> NDArray[np.float32]:
        """A tensor of the encoder, read-only, float32 whatever it is stored as.

        ``name`` is as ``transformers`` writes it for ``BertModel``. Raises ``ModelError`` naming the tensor and the file
        where it is missing or has another shape.
        """
        stored = next((alias for alias in _aliases(name) if alias in self._entries), None)
        if stored is None:
            raise ModelError(f"{self._path}: the tensor {name} is missing")
        entry = self._entries[stored]
        if entry.shape != shape:
            raise ModelError(
                f"{self._path}: {stored} has the shape {list(entry.shape)}, but config.json asks for {list(shape)}"
            )
        if entry.dtype != "F32":
            raise ModelError(f"{self._path}: {stored} is stored as {entry.dtype}; only {', '.join(READABLE)} can be read")
        return np.frombuffer(self._map, np.float32, count=math.prod(shape), offset=entry.start).reshape(shape)

    def _mapped(self, name: str, *shape: int) -> ov.Node:
        return ov.op.Constant(ov.Tensor(self.array(name, *shape), ov.Shape(shape), ov.Type.f32), shared_memory=True)

    def _rounded(self, name: str, rows: int, width: int) -> ov.Node:
        table = self.array(name, rows, width)
        rounded = ov.Tensor(ov.Type.bf16, ov.Shape([rows, width]))
        bits = np.frombuffer(rounded.data, np.uint16).reshape(rows, width)
        for start in range(0, rows, ROUNDED_ROWS):
            bits[start : start + ROUNDED_ROWS] = bfloat16_bits(table[start : start + ROUNDED_ROWS])
        return ov.op.Constant(rounded, shared_memory=True)

    def forget_pages(self) -> None:
        """Take what has been read out of the process's memory; it comes back by itself when it is touched again."""
        self._map.madvise(mmap.MADV_DONTNEED)


def _map(file: IO[bytes]) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_header(content: mmap.mmap) -> dict[str, Entry]:
    (length,) = struct.unpack_from("<Q", content)
    tensors = 8 + length
    return {
        name: Entry(fields["dtype"], tuple(fields["shape"]), *(tensors + offset for offset in fields["data_offsets"]))
        for name, fields in json.loads(content[8:tensors]).items()
        if name != "__metadata__"
    }


def _widen(content: mmap.mmap, entries: Mapping[str, Entry], file: IO[bytes]) -> dict[str, Entry]:
    """Write the tensors to ``file`` as float32; those that are not numbers of a readable kind stay out."""
    widened = {}
    for name, entry in entries.items():
        if entry.dtype in READABLE:
            start = file.tell()
            file.write(_float32(content[entry.start : entry.stop], entry.dtype).data)
            widened[name] = Entry("F32", entry.shape, start, file.tell())
        else:
            widened[name] = entry
    file.flush()
    return widened


def _float32(stored: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        # The upper half of a float32.
        return (np.frombuffer(stored, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(stored, np.float16 if dtype == "F16" else np.float32).astype(np.float32)


def bfloat16_bits(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to the nearest, to even where two are as near. NaN is not looked at."""
    bits = numbers.view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return rounded


def _aliases(name: str) -> Iterator[str]:
    old = name
    for new_part, old_part in OLD_NAMES.items():
        old = old.replace(new_part, old_part)
    for spelling in (name, old):
        yield spelling
        yield WRAPPER_PREFIX + spelling
