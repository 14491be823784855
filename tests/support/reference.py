"""What ``sentence-transformers`` makes of a checkpoint in float32: the vectors and token counts to be matched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Reference:
    """``max_tokens`` is the limit the checkpoint's own files set; ``device`` is torch's name of it, float32 on each."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(folder), device=device, model_kwargs={"dtype": torch.float32})
        assert self._model.max_seq_length
        self.max_tokens: int = self._model.max_seq_length

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [n_texts, dimensions], rows of unit length."""
        encoded: NDArray[np.float32] = self._model.encode(list(texts), batch_size=32, normalize_embeddings=True)
        assert encoded.dtype == np.float32
        return encoded

    def token_ids(self, texts: Sequence[str], side: str = "right") -> list[list[int]]:
        """Ids as the model sees them, cut to the limit on the given side."""
        tokenizer = self._model.tokenizer
        tokenizer.truncation_side = side
        ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        tokenizer.truncation_side = "right"
        return ids

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.token_ids(texts)]


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row by row, in float64: float32 itself is only good to 1e-7."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    rows: NDArray[np.float64] = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return rows
