"""From token vectors to one unit vector per text, in float32 whatever the model's own precision."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

POOLINGS = ("cls", "mean", "last")


def kept_tokens(bounds: torch.Tensor, pooling: str) -> torch.Tensor | None:
    """[n_texts]: the place of the token that stands for each text at ``bounds[i]:bounds[i + 1]``. None where all do."""
    if pooling == "mean":
        return None
    return bounds[:-1] if pooling == "cls" else bounds[1:] - 1


def pool(states: torch.Tensor, bounds: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """``states`` of the tokens ``kept``, or of all, [n_tokens, dim] -> float32 [n_texts, dim], L2-normalised."""
    states = states.float()
    if kept is None:
        # Per text: a running sum over the whole batch, as SGLang's own MEAN takes, loses digits. unsafe: the check of the
        # lengths would wait for the GPU.
        states = torch.segment_reduce(states, "mean", lengths=bounds.diff(), unsafe=True)
    return normalize(states, dim=-1)
