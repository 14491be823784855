"""Model facts, read from the checkpoint's own files and never guessed.

Files, as sentence-transformers and transformers write them: ``config.json``, ``modules.json``, ``1_Pooling/config.json``,
``sentence_bert_config.json``, ``config_sentence_transformers.json``, ``tokenizer_config.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from launcher.config.schema import Model, Pooling, Prompts
from launcher.errors import ModelError
from launcher.models.files import read_object, read_optional_object
from launcher.models.pooling import pooling_config_files, read_pooling
from launcher.models.weights import find_weights

# Classes of transformers whose checkpoints hold a BERT encoder, with whatever head on top.
BERT_CLASSES = {
    "BertModel",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json")
# What both engines can compute.
ACTIVATIONS = {"gelu", "gelu_new", "gelu_pytorch_tanh", "relu"}
# [CLS] and [SEP] leave room for one more.
SHORTEST_LIMIT = 3


@dataclass(frozen=True, slots=True)
class BertShape:
    """The numbers of ``config.json`` that define a BERT encoder."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder and what its files say.

    ``max_tokens`` counts special tokens. ``prompts`` maps a role ("query", "passage") to the text put before the input.
    """

    folder: Path
    weights: Path
    shape: BertShape
    pooling: Pooling
    max_tokens: int
    prompts: Mapping[str, str]
    matryoshka_dimensions: tuple[int, ...]

    @property
    def dimensions(self) -> int:
        return self.shape.hidden_size


def read_checkpoint(folder: Path, overrides: Model) -> Checkpoint:
    """Read the facts of the model in ``folder``; what ``overrides`` sets wins.

    Raises ``ModelError`` naming the file and the configuration key when a fact is missing, unknown or contradictory.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; it should hold config.json, model.safetensors and tokenizer.json")
    shape = _read_shape(folder / "config.json")
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.txt")):
        raise ModelError(f"{folder}: holds no tokenizer.json (nor vocab.txt), so texts cannot become tokens")
    return Checkpoint(
        folder=folder,
        weights=find_weights(folder),
        shape=shape,
        pooling=read_pooling(folder, overrides.pooling, shape.hidden_size),
        max_tokens=_max_tokens(folder, shape, overrides.max_tokens),
        prompts=_prompts(folder / "config_sentence_transformers.json", overrides.prompts),
        matryoshka_dimensions=_matryoshka(folder, shape.hidden_size, overrides.matryoshka_dimensions),
    )


def content_sha256(checkpoint: Checkpoint) -> str:
    """Hex digest over every file that decides a vector: weights, shape, tokenizer, pooling, length limit.

    Reads all weights (about a second for 1.3 GB in the page cache): call it off the event loop.
    """
    total = hashlib.sha256()
    for file in _deciding_files(checkpoint):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        total.update(f"{file.relative_to(checkpoint.folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()


def _deciding_files(checkpoint: Checkpoint) -> Iterator[Path]:
    yield checkpoint.weights
    for name in ("config.json", "sentence_bert_config.json", *TOKENIZER_FILES):
        if (checkpoint.folder / name).exists():
            yield checkpoint.folder / name
    yield from pooling_config_files(checkpoint.folder)


def _read_shape(file: Path) -> BertShape:
    config = read_object(file)
    _require_bert(file, config)
    try:
        # transformers' default, left out by the oldest published checkpoints.
        shape = msgspec.convert({"layer_norm_eps": 1e-12, **config}, BertShape)
    except msgspec.ValidationError as error:
        raise ModelError(f"{file}: {error}") from None
    if shape.hidden_act not in ACTIVATIONS:
        raise ModelError(
            f"{file}: hidden_act is {shape.hidden_act!r}, but only {', '.join(sorted(ACTIVATIONS))} can be computed"
        )
    if shape.hidden_size % shape.num_attention_heads:
        raise ModelError(
            f"{file}: hidden_size {shape.hidden_size} is not a multiple of num_attention_heads {shape.num_attention_heads}"
        )
    return shape


def _require_bert(file: Path, config: Mapping[str, Any]) -> None:
    def refuse(key: str) -> ModelError:
        return ModelError(
            f"{file}: {key} is {config[key]!r}, but only BERT encoders with absolute positions can be served; "
            "choose another model, such as BAAI/bge-large-zh-v1.5 or thenlper/gte-large-zh"
        )

    architectures = config.get("architectures")
    if config.get("model_type", "bert") != "bert":
        raise refuse("model_type")
    if architectures is not None and not BERT_CLASSES.intersection(architectures):
        raise refuse("architectures")
    if architectures is None and "model_type" not in config:
        raise ModelError(f"{file}: has neither model_type nor architectures, so it does not say what model this is")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise refuse("position_embedding_type")
    if "AutoModel" in config.get("auto_map", {}):
        raise refuse("auto_map")
    if config.get("is_decoder", False):
        raise refuse("is_decoder")


def _max_tokens(folder: Path, shape: BertShape, override: int | None) -> int:
    positions = shape.max_position_embeddings
    if override is not None:
        if not SHORTEST_LIMIT <= override <= positions:
            raise ModelError(
                f"model.max_tokens is {override}, but {folder / 'config.json'} has max_position_embeddings {positions}; "
                f"choose from {SHORTEST_LIMIT} to {positions}"
            )
        return override
    limits = [positions]
    # tokenizer_config.json may hold a huge number for "no limit".
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        limit = read_optional_object(folder / name).get(key)
        if limit is None:
            continue
        if not isinstance(limit, int | float) or limit < SHORTEST_LIMIT:
            raise ModelError(f"{folder / name}: {key} is {limit!r}, which is no length; set model.max_tokens")
        limits.append(int(limit))
    return min(limits)


def _prompts(file: Path, overrides: Prompts) -> dict[str, str]:
    """``sentence-transformers`` names the passage role "document" or "passage"; an empty prompt is none."""
    stored = read_optional_object(file).get("prompts") or {}
    if not isinstance(stored, dict):
        raise ModelError(f"{file}: prompts is {stored!r}, not an object of texts")
    chosen = {
        "query": stored.get("query") if overrides.query is None else overrides.query,
        "passage": stored.get("passage") or stored.get("document") if overrides.passage is None else overrides.passage,
    }
    return {role: prompt for role, prompt in chosen.items() if prompt}


def _matryoshka(folder: Path, hidden_size: int, override: tuple[int, ...] | None) -> tuple[int, ...]:
    key, source, sizes = "matryoshka_dimensions", "model.matryoshka_dimensions", override
    if sizes is None:
        for file in (folder / "config_sentence_transformers.json", folder / "config.json"):
            found = read_optional_object(file).get(key)
            if found is not None:
                source, sizes = f"{file}: {key}", tuple(found) if isinstance(found, list) else (found,)
                break
    sizes = sizes or ()
    for size in sizes:
        if not isinstance(size, int) or not 0 < size <= hidden_size:
            raise ModelError(f"{source} holds {size!r}; each must be a whole number from 1 to {hidden_size - 1}")
    # The native size is always served, and some checkpoints list it too.
    return tuple(sorted(set(sizes) - {hidden_size}))
