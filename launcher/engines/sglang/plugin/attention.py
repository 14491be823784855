"""Attention within each text of a packed batch; nothing is padded and no text sees another.

Both take query, key and value as [n_tokens, heads, head_dim] and return the query's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from launcher.engines.sglang.plugin.segments import Segments

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attention_for(segments: Segments, weight: torch.Tensor) -> Attend:
    """The kernel for these texts on ``weight``'s device; what all layers share is computed here, once."""
    if has_varlen(weight):
        bounds = torch.from_numpy(segments.bounds.astype(np.int32)).to(weight.device, non_blocking=True)
        return varlen_attention(bounds, int(segments.lengths[-1]))
    return grouped_attention(segments)


def has_varlen(weight: torch.Tensor) -> bool:
    return weight.is_cuda and weight.dtype in (torch.float16, torch.bfloat16)


def grouped_attention(segments: Segments) -> Attend:
    """One call per distinct length: neighbours of equal length are a rectangle, so a view and not a copy.

    Takes queries of all tokens, or of one token of each text.
    """
    if segments.lengths[0] == segments.lengths[-1]:
        return partial(_equally_long, len(segments.lengths))
    lengths, counts = np.unique(segments.lengths, return_counts=True)
    tokens, texts = (lengths * counts).tolist(), counts.tolist()

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        queries = query.split(tokens if len(query) == len(key) else texts)
        groups = zip(texts, queries, key.split(tokens), value.split(tokens), strict=True)
        return torch.cat([_equally_long(*group) for group in groups])

    return attend


def _equally_long(texts: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.unflatten(0, (texts, -1)).transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


def varlen_attention(bounds: torch.Tensor, longest: int) -> Attend:
    """FlashAttention over all texts at once; half precision on CUDA only, in torch from 2.11 on.

    ``bounds``: int32 [n_texts + 1] on the device; no text is longer than ``longest``, and some may be empty.
    """
    # Not at the top: the module is missing in CPU builds of older versions of torch.
    from torch.nn.attention.varlen import varlen_attn

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return varlen_attn(query, key, value, bounds, bounds, longest, longest)

    return attend
