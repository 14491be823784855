"""A model as a folder of its own that needs no hub, with the checksums of what is in it."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from launcher.config.schema import Model
from launcher.errors import ModelError
from launcher.models.checkpoint import read_checkpoint
from launcher.models.download import FetchedModel, fetch_model
from launcher.models.hub import needed_files

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"


def fetch_into(folder: Path, wanted: Model, progress: Callable[[str], None] = log.info) -> str:
    """Put ``wanted`` into ``folder/<its name>``, with ``SHA256SUMS`` in it; what was done, as a line for people.

    The name is there only once all of it is. Raises ``ModelError`` where the model cannot be served, where another one has
    the name, or where what is there is damaged.
    """
    # A first try may do with another model; servers that were told to serve this one may not.
    model = fetch_model(msgspec.structs.replace(wanted, fallback=None), progress)
    target = folder / model.name
    if target.exists():
        _require_same(model, target)
        return f"{target} holds this model already"
    part = folder / f".{model.name}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        copy_model(model, part)
        (part / SUMS).write_text(checksums(part), encoding="utf-8")
        part.rename(target)
    except OSError as error:
        raise ModelError(f"{target}: the model cannot be put there: {error.strerror}") from error
    return f"{target} holds {model.name} now; sha256sum --check --strict {SUMS} in that folder checks it"


def copy_model(model: FetchedModel, to: Path) -> None:
    """Copy what serving reads. Raises ``ModelError`` where that is not enough to be served."""
    for name in _served_files(model):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.folder / name, to / name)
    read_checkpoint(to, model.settings)


def checksums(folder: Path) -> str:
    """Of every file under ``folder``, in the format of sha256sum."""
    return _checksums(folder, (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))


def _require_same(model: FetchedModel, target: Path) -> None:
    there = [path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()]
    found = _checksums(target, (name for name in there if name != SUMS))
    if found != _checksums(model.folder, _served_files(model)):
        raise ModelError(
            f"{target}: another model or revision is there, or a damaged one. "
            "Its vectors may be in use: remove it, or give another folder"
        )
    if SUMS not in there:
        raise ModelError(f"{target}: this model is there without {SUMS}; remove it, or give another folder")
    if (target / SUMS).read_text(encoding="utf-8") != found:
        raise ModelError(f"{target}: this model is there with another {SUMS}; remove it, or give another folder")


def _served_files(model: FetchedModel) -> list[str]:
    # A converted model's folders are links.
    files = [Path(folder, file) for folder, _, names in os.walk(model.folder, followlinks=True) for file in names]
    return needed_files([file.relative_to(model.folder).as_posix() for file in files])


def _checksums(folder: Path, names: Iterable[str]) -> str:
    lines = []
    for name in sorted(names):
        with (folder / name).open("rb") as content:
            lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)
