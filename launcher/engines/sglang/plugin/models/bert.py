"""BERT for packed batches, registered with SGLang in place of its own ``BertModel``.

Follows the encoder of Devlin et al. (2018) with post-layer normalisation, as in the ``BertModel`` of transformers, without the
pooler head. Weights are read under the names of published checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sglang.srt.layers.pooler import EmbeddingPoolerOutput
from torch import nn

from launcher.engines.base import Batch, Vectors
from launcher.engines.sglang.plugin.attention import Attend, attention_for, has_varlen
from launcher.engines.sglang.plugin.graphs import Graphs
from launcher.engines.sglang.plugin.layers import BertLayer, LastLayer
from launcher.engines.sglang.plugin.linear import ACTIVATIONS, can_pack
from launcher.engines.sglang.plugin.pooling import POOLINGS, kept_tokens, pool
from launcher.engines.sglang.plugin.segments import Segments, segments_of
from launcher.engines.sglang.plugin.threads import threads_for

# Heads of the pre-training task, and a buffer of old versions of transformers: no part of an embedding.
UNUSED_PREFIXES = ("pooler.", "cls.")
UNUSED_NAMES = ("embeddings.position_ids",)

embedding = partial(nn.utils.skip_init, nn.Embedding)


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
        # FlashAttention over packed texts gets as many queries as keys.
        keeps_one = self.pooling != "mean" and not has_varlen(self.words.weight)
        kinds = [BertLayer] * (config.num_hidden_layers - 1) + [LastLayer if keeps_one else BertLayer]
        self.layers = nn.ModuleList(kind(config) for kind in kinds)
        # What SGLang chose, or the operator.
        self.threads = torch.get_num_threads()
        self.settled = False
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

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _rows(self, batch: Batch) -> torch.Tensor:
        limit = self.config.max_position_embeddings
        segments = segments_of(batch, vocab_size=self.config.vocab_size, max_tokens=limit)
        if self.words.weight.device.type == "cpu":
            torch.set_num_threads(threads_for(len(segments.ids), self.layers[0].weights, self.threads))
        bounds, rows = self._on_device(segments.bounds, segments.rows)
        kept = kept_tokens(bounds, self.pooling)
        return pool(self._states(segments, kept), bounds, kept)[rows]

    def _states(self, segments: Segments, kept: torch.Tensor | None) -> torch.Tensor:
        hidden = self._graphed(segments)
        if hidden is not None:
            return hidden if kept is None else hidden[kept]
        ids, positions = self._on_device(segments.ids, segments.positions)
        return self.hidden_states(ids, positions, attention_for(segments, self.words.weight), kept)

    def _rows_or_nan(self, text: Batch) -> torch.Tensor:
        try:
            return self._rows(text)
        except ValueError:
            return torch.full((1, self.config.hidden_size), torch.nan, device=self.words.weight.device)

    def hidden_states(
        self, ids: torch.Tensor, positions: torch.Tensor, attend: Attend, kept: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[n_tokens, dim] for token ids and positions [n_tokens]; or [n_kept, dim], of the tokens at the places ``kept``."""
        hidden = self.norm(self.words(ids).add_(self.positions(positions)))
        *body, last = self.layers
        for layer in body:
            hidden = layer(hidden, attend)
        return last(hidden, attend, kept)

    def _graphed(self, segments: Segments) -> torch.Tensor | None:
        if self.graphs is None and has_varlen(self.words.weight):
            # At the first batch, which is the self-test's: SGLang has no word for "loaded" before it.
            self.graphs = Graphs(self.hidden_states, self.words.weight.device)
        return self.graphs.run(segments) if self.graphs else None

    def _on_device(self, *arrays: NDArray[np.int64]) -> list[torch.Tensor]:
        device = self.words.weight.device
        return [torch.from_numpy(numbers).to(device, non_blocking=True) for numbers in arrays]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Take each weight of a checkpoint, once; raises ``ValueError`` on one that is missing, unknown or of another shape."""
        if self.settled:
            raise ValueError("the weights are loaded already and laid out for this machine; start a worker anew for others")
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
        loaded = {name for name, _ in self.named_parameters()}
        self._settle()
        return loaded

    def _settle(self) -> None:
        # Every token is of type 0: types tell two texts of a pair apart, and an input is one text.
        self.positions.weight += self.token_types.weight[0]
        if can_pack(self.words.weight):
            for layer in self.layers:
                layer.pack()
        self.settled = True

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
