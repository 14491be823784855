"""One layer of the encoder, and the last one, of which only what pooling takes is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from launcher.engines.sglang.plugin.attention import Attend
from launcher.engines.sglang.plugin.linear import ACTIVATIONS, Linear, PackedLinear


class BertLayer(nn.Module):  # type: ignore[misc]
    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.activation = ACTIVATIONS[config.hidden_act]
        self.weights = 4 * hidden * hidden + 2 * hidden * inner
        # Query, key and value as one product.
        self.qkv = Linear.empty(hidden, 3 * hidden)
        self.attention_output = Linear.empty(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=eps)
        self.intermediate = Linear.empty(hidden, inner)
        self.output = Linear.empty(inner, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=eps)

    def forward(self, hidden: torch.Tensor, attend: Attend, kept: torch.Tensor | None = None) -> torch.Tensor:
        """[n_tokens, dim], or [n_kept, dim] of the tokens at the places ``kept``."""
        query, key, value = self.qkv(hidden).unflatten(-1, (3, self.heads, -1)).unbind(1)
        attended = attend(query, key, value)
        if kept is not None:
            hidden, attended = hidden[kept], attended[kept]
        return self._after_attention(hidden, attended)

    def _after_attention(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        hidden = self.attention_norm(self.attention_output.added(attended.flatten(1), hidden))
        return self.output_norm(self.output.added(self.intermediate.activated(hidden, self.activation), hidden))

    def pack(self) -> None:
        for name, part in list(self.named_children()):
            if isinstance(part, Linear):
                setattr(self, name, PackedLinear(part))

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


class LastLayer(BertLayer):
    """For one token of each text, the only ones with a query: without five sixths of the products and most of attention."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        size = config.hidden_size
        # In the same memory.
        self.query, self.key_value = self.qkv.split((size, 2 * size))

    def forward(self, hidden: torch.Tensor, attend: Attend, kept: torch.Tensor | None = None) -> torch.Tensor:
        assert kept is not None
        key, value = self.key_value(hidden).unflatten(-1, (2, self.heads, -1)).unbind(1)
        hidden = hidden[kept]
        query = self.query(hidden).unflatten(-1, (self.heads, -1))
        return self._after_attention(hidden, attend(query, key, value))

    def pack(self) -> None:
        del self.qkv
        super().pack()
