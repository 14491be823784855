"""``pytorch_model.bin`` to ``model.safetensors`` without torch and without running what the pickle says.

A checkpoint that ``torch.save`` wrote is a zip: ``<name>/data.pkl`` describes the tensors, ``<name>/data/<key>`` holds the
bytes of each storage (https://docs.pytorch.org/docs/stable/notes/serialization.html). The unpickler here knows the few
names that a file of plain tensors needs and refuses every other, so that no code in the file can run.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from launcher.errors import ModelError
from launcher.models.weights import PREFIX

Bytes = NDArray[np.uint8]


class ElementType(NamedTuple):
    """An element's name in a safetensors header, and the numpy type that holds its bytes."""

    name: str
    numpy: str


STORAGES: Mapping[str, ElementType] = {
    "DoubleStorage": ElementType("F64", "<f8"),
    "FloatStorage": ElementType("F32", "<f4"),
    "HalfStorage": ElementType("F16", "<f2"),
    # numpy has no bfloat16; its bytes pass through unread.
    "BFloat16Storage": ElementType("BF16", "<u2"),
    "LongStorage": ElementType("I64", "<i8"),
    "IntStorage": ElementType("I32", "<i4"),
    "ShortStorage": ElementType("I16", "<i2"),
    "CharStorage": ElementType("I8", "i1"),
    "ByteStorage": ElementType("U8", "u1"),
    "BoolStorage": ElementType("BOOL", "?"),
}
# Of a zip entry's local header only its length matters: 30 bytes, then a name and an extra field of these lengths.
LOCAL_HEADER = struct.Struct("<26xHH")


class Storage(NamedTuple):
    element: ElementType
    values: NDArray[Any]


class Tensor(NamedTuple):
    element: ElementType
    values: NDArray[Any]


def convert(source: Path, target: Path) -> None:
    """Write the tensors of the pickle ``source`` to the safetensors file ``target``.

    Raises ``ModelError`` when ``source`` is in the format before torch 1.6, damaged, or holds anything but tensors by name.
    """
    if not zipfile.is_zipfile(source):
        raise ModelError(
            f"{source}: is not a zip of torch.save; files from before torch 1.6 and Git LFS pointers cannot be converted, "
            "use a checkpoint that has model.safetensors"
        )
    try:
        with zipfile.ZipFile(source) as archive:
            tensors = _read_tensors(archive, np.memmap(source, np.uint8, "r"))
    # A damaged or hostile pickle may raise nearly anything; none of it gets further than this.
    except Exception as error:
        raise ModelError(f"{source}: holds more than plain tensors, or is damaged: {error}") from error
    _write_safetensors(tensors, target)


def _read_tensors(archive: zipfile.ZipFile, content: Bytes) -> dict[str, Tensor]:
    entries = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise ValueError("its numbers are big-endian")

    def storage_bytes(key: str) -> Bytes:
        info = entries[f"data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"data/{key} is compressed")
        header = content[info.header_offset : info.header_offset + LOCAL_HEADER.size]
        start = info.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(header.tobytes()))
        return content[start : start + info.file_size]

    with archive.open(entries["data.pkl"]) as file:
        tensors = TensorUnpickler(file, storage_bytes).load()
    if not isinstance(tensors, dict):
        raise TypeError(f"it holds a {type(tensors).__name__}, not tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
    return tensors


class TensorUnpickler(pickle.Unpickler):
    """Builds strings, numbers, containers and ``Tensor``; every other name in the pickle is an error.

    What ``find_class`` hands out cannot be altered by the pickle: strings, methods, and one class of the standard library.
    """

    def __init__(self, file: IO[bytes], storage_bytes: Callable[[str], Bytes]) -> None:
        super().__init__(file)
        self._storage_bytes = storage_bytes

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return self._tensor
            case "torch._utils", "_rebuild_parameter":
                return self._parameter
            case "torch", _ if name in STORAGES:
                return name
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not run")

    def persistent_load(self, pid: Any) -> Storage:
        _, storage_class, key, _, count = pid
        element = STORAGES[storage_class]
        values = self._storage_bytes(key).view(element.numpy)
        if len(values) != count:
            raise ValueError(f"data/{key} holds {len(values)} elements of {count}")
        return Storage(element, values)

    def _tensor(self, storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> Tensor:
        if not isinstance(storage, Storage) or min((offset, *size, *stride)) < 0:
            raise ValueError("a tensor is malformed")
        count = math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if count > len(storage.values) or (count and last >= len(storage.values)):
            raise ValueError("a tensor reaches beyond its storage")
        steps = [step * storage.values.itemsize for step in stride]
        return Tensor(storage.element, np.lib.stride_tricks.as_strided(storage.values[offset:], size, steps, writeable=False))

    def _parameter(self, tensor: Tensor, *_: object) -> Tensor:
        return tensor


def _write_safetensors(tensors: Mapping[str, Tensor], target: Path) -> None:
    # Widest elements first keeps every tensor aligned for readers that map the file.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].values.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (element, values) in ordered:
        start, end = end, end + values.nbytes
        header[name] = {"dtype": element.name, "shape": list(values.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % PREFIX.size)
    with target.open("wb") as file:
        file.write(PREFIX.pack(len(text)) + text)
        for _, tensor in ordered:
            np.ascontiguousarray(tensor.values).tofile(file)
