"""How token vectors become one vector, as the modules of sentence-transformers say it.

``modules.json`` lists the steps after the encoder. Only pooling and normalisation are done here: any other step (a Dense
layer, custom code) would make the vectors differ from the model's own, so it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from launcher.config.schema import Pooling
from launcher.errors import ModelError
from launcher.models.files import read_json, read_object

# sentence-transformers' names for what this project can do.
POOLINGS: Mapping[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
FLAGS: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
OVERRIDE = f"set model.pooling to one of {', '.join(get_args(Pooling))} if you know which the model was trained with"


def read_pooling(folder: Path, override: Pooling | None, hidden_size: int) -> Pooling:
    """The pooling that ``modules.json`` and the pooling module's ``config.json`` name; ``override`` wins.

    Raises ``ModelError`` for unknown, several or no pooling without an override, and always for steps that are not done.
    """
    modules_file = folder / "modules.json"
    if not modules_file.exists():
        if override is None:
            raise ModelError(f"{modules_file}: no such file, so the pooling is unknown; {OVERRIDE}")
        return override
    config_file = _pooling_config_file(modules_file)
    if override is not None:
        return override
    if config_file is None:
        raise ModelError(f"{modules_file}: lists no Pooling module; {OVERRIDE}")
    return _pooling_of(config_file, hidden_size)


def pooling_config_files(folder: Path) -> list[Path]:
    """The existing files that decide the pooling."""
    modules_file = folder / "modules.json"
    if not modules_file.exists():
        return []
    config_file = _pooling_config_file(modules_file)
    return [file for file in (modules_file, config_file) if file is not None and file.exists()]


def _pooling_config_file(modules_file: Path) -> Path | None:
    modules = read_json(modules_file)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{modules_file}: expected a list of modules")
    config_file = None
    for module in modules:
        kind, path = str(module.get("type", "")), str(module.get("path", ""))
        match kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else None:
            case "Transformer" | "BERT" if path in ("", "."):
                pass
            case "Pooling" if config_file is None:
                config_file = modules_file.parent / path / "config.json"
            case "Normalize":
                pass
            case _:
                raise ModelError(
                    f"{modules_file}: the module {kind!r} at {path!r} cannot be served; "
                    "only one encoder in the folder itself, one Pooling and Normalize can, and no setting changes that"
                )
    return config_file


def _pooling_of(config_file: Path, hidden_size: int) -> Pooling:
    config = read_object(config_file)
    width = config.get("word_embedding_dimension", config.get("embedding_dimension", hidden_size))
    if width != hidden_size:
        raise ModelError(f"{config_file}: word_embedding_dimension is {width}, but config.json's hidden_size is {hidden_size}")
    if config.get("include_prompt", True) is not True:
        raise ModelError(f"{config_file}: include_prompt is false; leaving the prompt out of the pooling is not supported")
    modes = _modes(config)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        found = " and ".join(modes) or "none"
        raise ModelError(f"{config_file}: the pooling is {found}; {OVERRIDE}")
    return POOLINGS[modes[0]]


def _modes(config: Mapping[str, Any]) -> list[str]:
    """The pooling modes switched on: a name or a list of names since sentence-transformers 6, a flag for each before."""
    named = config.get("pooling_mode")
    if named is not None:
        return [str(mode) for mode in named] if isinstance(named, list) else [str(named)]
    return [mode for flag, mode in FLAGS.items() if config.get(flag) is True]
