"""From token vectors to one unit vector per text, in float32 whatever the model's own precision."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

POOLINGS = ("cls", "mean", "last")


def pool(hidden: torch.Tensor, bounds: torch.Tensor, pooling: str) -> torch.Tensor:
    """``hidden`` [n_tokens, dim], text i at ``bounds[i]:bounds[i + 1]`` -> float32 [n_texts, dim], L2-normalised."""
    if pooling == "cls":
        pooled = hidden[bounds[:-1]].float()
    elif pooling == "last":
        pooled = hidden[bounds[1:] - 1].float()
    else:
        # Per text: a running sum over the whole batch, as SGLang's own MEAN takes, loses digits. unsafe: the check of the
        # lengths would wait for the GPU.
        pooled = torch.segment_reduce(hidden.float(), "mean", lengths=bounds.diff(), unsafe=True)
    return normalize(pooled, dim=-1)
