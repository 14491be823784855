"""A model's copy holds what serving reads, and nothing but whole copies get its name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launcher.config.schema import Hub, Model
from launcher.errors import HubUnreachable, ModelError
from launcher.models.copies import SUMS, checksums, copy_model, fetch_into
from launcher.models.download import FetchedModel

CHECK = ("sha256sum", "--check", "--strict", "--quiet", SUMS)


def linked(source: Path, to: Path) -> FetchedModel:
    """As the conversion of a pickle leaves a folder."""
    to.mkdir()
    for entry in source.iterdir():
        (to / entry.name).symlink_to(entry)
    return FetchedModel(to, "linked", None, is_fallback=False, settings=Model())


def test_a_models_linked_folders_are_copied(tmp_path: Path, tiny_checkpoint: Path) -> None:
    copy_model(linked(tiny_checkpoint, tmp_path / "linked"), tmp_path / "copy")
    assert (tmp_path / "copy/1_Pooling/config.json").read_bytes() == (tiny_checkpoint / "1_Pooling/config.json").read_bytes()


def test_a_copy_that_cannot_be_served_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    model = linked(tiny_checkpoint, tmp_path / "linked")
    (tmp_path / "linked/modules.json").unlink()
    modules = (tiny_checkpoint / "modules.json").read_text(encoding="utf-8").replace("1_Pooling", "modules/1_Pooling")
    (tmp_path / "linked/modules.json").write_text(modules, encoding="utf-8")
    (tmp_path / "linked/modules").mkdir()
    (tmp_path / "linked/modules/1_Pooling").symlink_to(tiny_checkpoint / "1_Pooling")
    with pytest.raises(ModelError, match="1_Pooling"):
        copy_model(model, tmp_path / "copy")


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "SUMS").write_text(checksums(tmp_path))
    check = ("sha256sum", "--check", "--quiet", "SUMS")
    subprocess.run(check, cwd=tmp_path, check=True, timeout=10)
    (tmp_path / "wheels/a").write_text("c")
    assert subprocess.run(check, cwd=tmp_path, check=False, timeout=10, capture_output=True).returncode == 1


def fetched(folder: Path, source: Path) -> Path:
    fetch_into(folder, Model(id=str(source), name="tiny"))
    return folder / "tiny"


def test_a_fetched_model_passes_its_own_checksums_and_is_left_alone(tmp_path: Path, tiny_checkpoint: Path) -> None:
    copy = fetched(tmp_path, tiny_checkpoint)
    subprocess.run(CHECK, cwd=copy, check=True, timeout=10)
    assert (copy / "model.safetensors").read_bytes() == (tiny_checkpoint / "model.safetensors").read_bytes()
    before = copy.stat().st_mtime_ns
    assert "already" in fetch_into(tmp_path, Model(id=str(tiny_checkpoint), name="tiny"))
    assert copy.stat().st_mtime_ns == before
    # What another process left unfinished is no hindrance, and no second copy is left.
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_was_left_unfinished_is_started_over(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / ".tiny.part").mkdir()
    (tmp_path / ".tiny.part" / "rubbish").write_text("")
    copy = fetched(tmp_path, tiny_checkpoint)
    assert not (copy / "rubbish").exists()
    subprocess.run(CHECK, cwd=copy, check=True, timeout=10)


def test_another_model_of_the_same_name_is_not_overwritten(
    tmp_path: Path, tiny_checkpoint: Path, tiny_mean_checkpoint: Path
) -> None:
    copy = fetched(tmp_path, tiny_checkpoint)
    with pytest.raises(ModelError, match="another model or revision"):
        fetched(tmp_path, tiny_mean_checkpoint)
    subprocess.run(CHECK, cwd=copy, check=True, timeout=10)


@pytest.mark.parametrize(
    ("file", "message"),
    [("model.safetensors", "another model or revision is there, or a damaged one"), (SUMS, f"another {SUMS}")],
)
def test_a_damaged_copy_is_named(tmp_path: Path, tiny_checkpoint: Path, file: str, message: str) -> None:
    copy = fetched(tmp_path, tiny_checkpoint)
    with (copy / file).open("ab") as content:
        content.write(b"x")
    with pytest.raises(ModelError, match=message):
        fetched(tmp_path, tiny_checkpoint)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be put there: Not a directory"):
        fetched(tmp_path / "file", tiny_checkpoint)


def test_nothing_is_put_in_place_of_the_model_that_was_asked_for(tmp_path: Path) -> None:
    wanted = Model(id="nobody/nothing", hub=Hub(offline=True, cache_dir=str(tmp_path / "cache")), fallback="minilm")
    with pytest.raises(HubUnreachable):
        fetch_into(tmp_path / "models", wanted)
    assert not (tmp_path / "models").exists()
