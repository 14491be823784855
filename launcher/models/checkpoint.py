"""Model facts, read from the checkpoint's own files and never guessed.

Files, as sentence-transformers and transformers write them: ``config.json``, ``modules.json``, ``1_Pooling/config.json``,
``sentence_bert_config.json``, ``config_sentence_transformers.json``, ``tokenizer_config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.config.schema import Model, Pooling


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
    ``weights_sha256`` covers every file that decides a vector: weights, shape, tokenizer, pooling.
    """

    folder: Path
    weights: Path
    shape: BertShape
    pooling: Pooling
    max_tokens: int
    prompts: Mapping[str, str]
    matryoshka_dimensions: tuple[int, ...]
    content_sha256: str

    @property
    def dimensions(self) -> int:
        return self.shape.hidden_size


def read_checkpoint(folder: Path, overrides: Model) -> Checkpoint:
    """Read the facts of the model in ``folder``; what ``overrides`` sets wins.

    Raises ``ModelError`` naming the file and the configuration key when a fact is missing, unknown or contradictory.
    """
    raise NotImplementedError
