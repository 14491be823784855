"""BERT for packed batches, registered with SGLang in place of its own ``BertModel``.

Follows the encoder of Devlin et al. (2018) with post-layer normalisation, as in the ``BertModel`` of transformers, without the
pooler head. Weights are read under the names of published checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sglang.srt.layers.pooler import EmbeddingPoolerOutput
from torch import nn
from torch.nn import functional

from launcher.engines.base import Batch, Vectors
from launcher.engines.sglang.plugin.attention import Attend, attention_for, has_varlen
from launcher.engines.sglang.plugin.graphs import Graphs
from launcher.engines.sglang.plugin.pooling import POOLINGS, pool
from launcher.engines.sglang.plugin.segments import Segments, segments_of

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}
# Heads of the pre-training task, and a buffer of old versions of transformers: no part of an embedding.
UNUSED_PREFIXES = ("pooler.", "cls.")
UNUSED_NAMES = ("embeddings.position_ids",)

linear = partial(nn.utils.skip_init, nn.Linear)
embedding = partial(nn.utils.skip_init, nn.Embedding)


class BertLayer(nn.Module):  # type: ignore[misc]
    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        device = torch.get_default_device()
        self.heads = config.num_attention_heads
        self.activation = ACTIVATIONS[config.hidden_act]
        # Query, key and value as one product.
        self.qkv = linear(hidden, 3 * hidden, device=device)
        self.attention_output = linear(hidden, hidden, device=device)
        self.attention_norm = nn.LayerNorm(hidden, eps=eps)
        self.intermediate = linear(hidden, inner, device=device)
        self.output = linear(inner, hidden, device=device)
        self.output_norm = nn.LayerNorm(hidden, eps=eps)

    def forward(self, hidden: torch.Tensor, attend: Attend) -> torch.Tensor:
        query, key, value = self.qkv(hidden).unflatten(-1, (3, self.heads, -1)).unbind(1)
        attended = self.attention_output(attend(query, key, value).flatten(1))
        hidden = self.attention_norm(hidden + attended)
        return self.output_norm(hidden + self.output(self.activation(self.intermediate(hidden))))

    def slots(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each name below ``encoder.layer.N.`` in a checkpoint, and the tensor that takes its weight."""
        for kind in ("weight", "bias"):
            thirds = getattr(self.qkv, kind).chunk(3)
            for part, third in zip(("query", "key", "value"), thirds, strict=True):
                yield f"attention.self.{part}.{kind}", third
            yield f"attention.output.dense.{kind}", getattr(self.attention_output, kind)
            yield f"attention.output.LayerNorm.{kind}", getattr(self.attention_norm, kind)
            yield f"intermediate.dense.{kind}", getattr(self.intermediate, kind)
            yield f"output.dense.{kind}", getattr(self.output, kind)
            yield f"output.LayerNorm.{kind}", getattr(self.output_norm, kind)


class BertModel(nn.Module):  # type: ignore[misc]
    """SGLang builds this and calls ``load_weights`` once; then the gateway's batches come to ``encode``."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "", pooling: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.pooling = pooling or os.environ["SGLEMBED_POOLING"]
        _refuse_unsupported(config, self.pooling, quant_config)
        device = torch.get_default_device()
        self.words = embedding(config.vocab_size, config.hidden_size, device=device)
        self.positions = embedding(config.max_position_embeddings, config.hidden_size, device=device)
        self.token_types = embedding(config.type_vocab_size, config.hidden_size, device=device)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.requires_grad_(False)
        self.graphs: Graphs | None = None

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        get_embedding: bool = False,
    ) -> EmbeddingPoolerOutput:
        """SGLang's own requests, such as its warm-up, each one text: float32 [n_requests, dim].

        A request that is no text of this model gets a vector of NaN: an exception here ends the worker.
        """
        lengths = np.asarray(forward_batch.extend_seq_lens_cpu, np.int32)
        ids = input_ids[: lengths.sum()].cpu().numpy().astype(np.int32)
        texts = (Batch(text, np.array([len(text)], np.int32)) for text in np.split(ids, np.cumsum(lengths)[:-1]))
        return EmbeddingPoolerOutput(embeddings=torch.cat([self._rows_or_nan(text) for text in texts]))

    def encode(self, batch: Batch) -> Vectors:
        """Unit vectors in the order of the batch. Raises ``ValueError`` for a batch that this model does not take."""
        return np.asarray(self._rows(batch).cpu())

    def _rows(self, batch: Batch) -> torch.Tensor:
        limit = self.config.max_position_embeddings
        segments = segments_of(batch, vocab_size=self.config.vocab_size, max_tokens=limit)
        hidden = self._graphed(segments)
        if hidden is None:
            ids, positions = self._on_device(segments.ids, segments.positions)
            hidden = self.hidden_states(ids, positions, attention_for(segments, self.words.weight))
        bounds, rows = self._on_device(segments.bounds, segments.rows)
        return pool(hidden, bounds, self.pooling)[rows]

    def _rows_or_nan(self, text: Batch) -> torch.Tensor:
        try:
            return self._rows(text)
        except ValueError:
            return torch.full((1, self.config.hidden_size), torch.nan, device=self.words.weight.device)

    def hidden_states(self, ids: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """[n_tokens, dim] for token ids and positions [n_tokens]."""
        hidden = self.norm(self.words(ids) + self.positions(positions) + self.token_types.weight[0])
        for layer in self.layers:
            hidden = layer(hidden, attend)
        return hidden

    def _graphed(self, segments: Segments) -> torch.Tensor | None:
        if self.graphs is None and has_varlen(self.words.weight):
            # At the first batch, which is the self-test's: SGLang has no word for "loaded" before it.
            self.graphs = Graphs(self.hidden_states, self.words.weight.device)
        return self.graphs.run(segments) if self.graphs else None

    def _on_device(self, *arrays: NDArray[np.int64]) -> list[torch.Tensor]:
        device = self.words.weight.device
        return [torch.from_numpy(numbers).to(device, non_blocking=True) for numbers in arrays]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Take each weight of a checkpoint; raises ``ValueError`` on one that is missing, unknown or of another shape."""
        slots = dict(self._slots())
        for name, weight in weights:
            key = checkpoint_name(name)
            if key.startswith(UNUSED_PREFIXES) or key in UNUSED_NAMES:
                continue
            if key not in slots:
                raise ValueError(f"weight {name!r} is not part of this BERT encoder of {len(self.layers)} layers")
            slot = slots.pop(key)
            if slot.shape != weight.shape:
                raise ValueError(f"weight {name!r} has shape {tuple(weight.shape)}, config.json says {tuple(slot.shape)}")
            slot.copy_(weight)
        if slots:
            raise ValueError(f"the checkpoint lacks {len(slots)} weights, the first of them {min(slots)!r}")
        return {name for name, _ in self.named_parameters()}

    def _slots(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "embeddings.word_embeddings.weight", self.words.weight
        yield "embeddings.position_embeddings.weight", self.positions.weight
        yield "embeddings.token_type_embeddings.weight", self.token_types.weight
        yield "embeddings.LayerNorm.weight", self.norm.weight
        yield "embeddings.LayerNorm.bias", self.norm.bias
        for number, layer in enumerate(self.layers):
            for name, slot in layer.slots():
                yield f"encoder.layer.{number}.{name}", slot


def checkpoint_name(name: str) -> str:
    """Without the ``bert.`` that task heads put before it, and with today's names for LayerNorm's gamma and beta."""
    name = name.removeprefix("bert.")
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _refuse_unsupported(config: Any, pooling: str, quant_config: Any) -> None:
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act {config.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    if kind != "absolute":
        raise ValueError(f"position_embedding_type {kind!r} is not supported, only 'absolute'")
    if quant_config is not None:
        raise ValueError("quantised checkpoints are not supported")


EntryClass = BertModel
