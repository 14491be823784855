"""A pickle of tensors becomes safetensors with the same tensors; a pickle of anything else is refused and not run."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.config.schema import Model
from launcher.errors import ModelError
from launcher.models.checkpoint import read_checkpoint
from launcher.models.conversion import safetensors_folder
from launcher.models.pickle_weights import convert
from tests.support.checkpoints import Shape, write_checkpoint

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def converted(source: Path) -> dict[str, torch.Tensor]:
    target = source.with_suffix(".safetensors")
    convert(source, target)
    return load_file(target)


def round_trip(folder: Path, tensors: Any) -> dict[str, torch.Tensor]:
    source = folder / "pytorch_model.bin"
    torch.save(tensors, source)
    return converted(source)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_element_type(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"weight": (torch.arange(24) - 5).reshape(2, 3, 4).to(dtype)}
    assert_equal(round_trip(tmp_path, tensors), tensors)


def test_tensors_that_share_or_skip_parts_of_a_storage(tmp_path: Path) -> None:
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    tensors = {
        "whole": base,
        "transposed": base.T,
        "rows": base[2:4],
        "column": base[:, 3],
        "every other": base[::2, ::3],
        "scalar": base[5, 9],
        "empty": base[:0],
        "one": torch.ones(1, dtype=torch.int8),
    }
    assert_equal(round_trip(tmp_path, tensors), tensors)


def test_what_a_model_saves(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    state = model.state_dict()
    assert isinstance(state, OrderedDict)
    assert state._metadata  # type: ignore[attr-defined]
    assert_equal(round_trip(tmp_path, state), dict(state))
    assert_equal(round_trip(tmp_path, dict(model.named_parameters())), {k: v.detach() for k, v in state.items()})


def test_every_tensor_is_aligned_for_readers_that_map_the_file(tmp_path: Path) -> None:
    tensors = {"flags": torch.ones(3, dtype=torch.bool), "half": torch.ones(5, dtype=torch.float16), "single": torch.ones(2)}
    assert_equal(round_trip(tmp_path, tensors), tensors)
    content = (tmp_path / "pytorch_model.safetensors").read_bytes()
    header_length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_length])
    for name, tensor in tensors.items():
        assert (8 + header_length + header[name]["data_offsets"][0]) % tensor.itemsize == 0


class Payload:
    """Unpickles by calling ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    source, trace = tmp_path / "pytorch_model.bin", tmp_path / "ran"
    for payload in (
        Payload(os.system, f"touch {trace}"),
        Payload(subprocess.check_call, ["touch", str(trace)]),
        Payload(exec, f"open({str(trace)!r}, 'w')"),
        Payload(getattr, "text", "upper"),
        torch.nn.Linear(2, 2),
    ):
        torch.save({"weight": torch.ones(2), "payload": payload}, source)
        with pytest.raises(ModelError, match="which is not run") as caught:
            converted(source)
        assert str(source) in str(caught.value)
        assert not trace.exists()

    # The payloads do run elsewhere, or the above would prove nothing.
    torch.save(Payload(os.system, f"touch {trace}"), source)
    torch.load(source, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.ones(2), "holds a Tensor, not tensors by name"),
        ([torch.ones(2)], "holds a list"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({"model": {"weight": torch.ones(2)}}, "'model' is a dict"),
        ({1: torch.ones(2)}, "1 is a Tensor"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, found: str) -> None:
    with pytest.raises(ModelError, match=found):
        round_trip(tmp_path, content)


# In the pickle of a 2 × 3 float tensor: its storage's length, offset, size (2, 3) and stride (3, 1).
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"cpuq\x06K\x06", b"cpuq\x06K\x07"),
        (b"QK\x00", b"QK\x01"),
        (b"QK\x00", b"QJ\xff\xff\xff\xff"),
        (b"K\x02K\x03\x86", b"K\x02K\x04\x86"),
        (b"K\x02K\x03\x86", b"K\x02K\x00\x86K\x01\x86"),
        (b"K\x03K\x01\x86", b"K\x04K\x01\x86"),
        (b"K\x03K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86"),
        # Bigger than its storage by repeating it: a bomb.
        (b"K\x02K\x03\x86q\x08K\x03K\x01\x86", b"K\xffK\xff\x86q\x08K\x00K\x00\x86"),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    source = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.arange(6, dtype=torch.float32).reshape(2, 3)}, source)

    def change(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.endswith("data.pkl"))
        assert old in entries[name]
        entries[name] = entries[name].replace(old, new)

    with pytest.raises(ModelError, match="more than plain tensors, or is damaged"):
        converted(rewritten(source, change))


def rewritten(source: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The zip again, its entries changed."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(source, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return source


def test_a_rewritten_zip_still_converts(tmp_path: Path) -> None:
    source = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.arange(6.0)}, source)
    assert torch.equal(converted(rewritten(source, lambda _: None))["w"], torch.arange(6.0))


def test_files_that_torch_writes_otherwise_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "pytorch_model.bin"

    torch.save({"w": torch.ones(2)}, source, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"before torch 1\.6"):
        converted(source)

    torch.save({"w": torch.ones(2)}, source)
    with pytest.raises(ModelError, match="is compressed"):
        converted(rewritten(source, lambda _: None, zipfile.ZIP_DEFLATED))

    def big_endian(entries: dict[str, bytes]) -> None:
        entries["pytorch_model/byteorder"] = b"big"

    torch.save({"w": torch.ones(2)}, source)
    with pytest.raises(ModelError, match="big-endian"):
        converted(rewritten(source, big_endian))

    def no_storage(entries: dict[str, bytes]) -> None:
        del entries["pytorch_model/data/0"]

    torch.save({"w": torch.ones(2)}, source)
    with pytest.raises(ModelError, match="data/0"):
        converted(rewritten(source, no_storage))


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A checkpoint as it is published without safetensors."""
    folder = write_checkpoint(tmp_path / "model", Shape(vocab_size=200, hidden_size=16, num_hidden_layers=1))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(tmp_path / "original.safetensors")
    return folder


def test_a_converted_folder_is_a_checkpoint_and_is_kept(pickled: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = safetensors_folder(pickled, tmp_path / "cache", said.append)

    assert read_checkpoint(folder, Model()).pooling == "cls"
    assert_equal(load_file(folder / "model.safetensors"), load_file(tmp_path / "original.safetensors"))
    assert sorted(path.name for path in (tmp_path / "cache" / "converted").iterdir()) == [folder.name]
    assert len(said) == 1

    assert safetensors_folder(pickled, tmp_path / "cache", said.append) == folder
    assert len(said) == 1

    torch.save({"changed": torch.ones(3)}, pickled / "pytorch_model.bin")
    again = safetensors_folder(pickled, tmp_path / "cache", said.append)
    assert again != folder
    assert load_file(again / "model.safetensors").keys() == {"changed"}


def test_a_failed_conversion_leaves_nothing(pickled: Path, tmp_path: Path) -> None:
    (pickled / "pytorch_model.bin").write_bytes(b"no zip")
    with pytest.raises(ModelError, match="is not a zip"):
        safetensors_folder(pickled, tmp_path / "cache", lambda _: None)
    assert list((tmp_path / "cache" / "converted").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(pickled: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(ModelError, match=str(tmp_path / "cache")):
        safetensors_folder(pickled, tmp_path / "cache", lambda _: None)
