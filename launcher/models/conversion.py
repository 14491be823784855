"""Checkpoints that come only as a pickle, converted once and kept."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from launcher.errors import ModelError
from launcher.models.pickle_weights import convert
from launcher.models.weights import PICKLE, SAFETENSORS


def safetensors_folder(folder: Path, cache_root: Path, progress: Callable[[str], None]) -> Path:
    """A folder like ``folder`` whose weights are ``model.safetensors``, under ``cache_root``.

    Made at the first call for this very ``pytorch_model.bin``; the other files are links to ``folder``.
    Raises ``ModelError`` when the weights cannot be converted or the cache cannot be written.
    """
    source = folder / PICKLE
    if not source.exists():
        return folder
    finished = cache_root / "converted" / _key(source)
    if finished.is_dir():
        return finished
    progress(f"converting {source} to safetensors, once, into {finished}")
    try:
        finished.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=finished.parent, ignore_cleanup_errors=True) as scratch:
            unfinished = Path(scratch, "model")
            unfinished.mkdir()
            _fill(unfinished, folder, source)
            _keep(unfinished, finished)
    except OSError as error:
        raise ModelError(f"{finished}: the converted weights cannot be kept there: {error.strerror}") from error
    return finished


def _keep(unfinished: Path, finished: Path) -> None:
    try:
        unfinished.rename(finished)
    except OSError:
        # Another process was faster; its folder is as good.
        if not finished.is_dir():
            raise


def _key(source: Path) -> str:
    """Changes with the file: the hub's caches never rewrite one, and a local one gets a new time."""
    state = source.stat()
    identity = f"{source.parent.absolute()}\n{source.resolve()}\n{state.st_size}\n{state.st_mtime_ns}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _fill(target: Path, folder: Path, source: Path) -> None:
    for entry in folder.absolute().iterdir():
        if entry.suffix in (".json", ".txt") or (entry / "config.json").exists():
            (target / entry.name).symlink_to(entry)
    convert(source, target / SAFETENSORS)
