"""Replies as bytes; vectors go from numpy to text without one Python object per number."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import orjson

from launcher.embedding.service import Embedded
from launcher.embedding.tokens import TokenizedInput


def embeddings_body(embedded: Embedded, model: str, encoding_format: Literal["float", "base64"]) -> bytes:
    """The body of POST /v1/embeddings. base64 is the vector's little-endian float32 bytes."""
    vectors = embedded.vectors
    rows: Sequence[object]
    if encoding_format == "base64":
        rows = [base64.b64encode(row).decode() for row in vectors.astype("<f4", copy=False)]
    else:
        rows = list(vectors)
    return orjson.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
            "model": model,
            "usage": {"prompt_tokens": embedded.prompt_tokens, "total_tokens": embedded.prompt_tokens},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def tokenize_body(tokenized: Sequence[TokenizedInput], model: str) -> bytes:
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"index": i, "ids": item.ids, "count": len(item.ids), "truncated": item.truncated}
                for i, item in enumerate(tokenized)
            ],
            "model": model,
            "total_count": sum(len(item.ids) for item in tokenized),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
