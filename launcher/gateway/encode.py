"""Replies as bytes; vectors go from numpy to text without one Python object per number."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Literal

import orjson

from launcher.embedding.service import Embedded
from launcher.embedding.tokens import TokenizedInput
from launcher.engines.base import Vectors

EncodingFormat = Literal["float", "base64"]
# 2048 vectors of 1024 numbers are 24 MB and 100 ms; between portions of some milliseconds the event loop gets its turn.
ROWS_AT_ONCE = 64


async def embeddings_body(embedded: Embedded, model: str, encoding_format: EncodingFormat) -> bytes:
    """The body of POST /v1/embeddings. base64 is the vector's little-endian float32 bytes."""
    pieces = []
    for start in range(0, len(embedded.vectors), ROWS_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        pieces.append(_rows(embedded.vectors[start : start + ROWS_AT_ONCE], start, encoding_format))
    usage = {"prompt_tokens": embedded.prompt_tokens, "total_tokens": embedded.prompt_tokens}
    tail = orjson.dumps({"model": model, "usage": usage})
    return b'{"object":"list","data":[' + b",".join(pieces) + b"]," + tail[1:]


def _rows(vectors: Vectors, first: int, encoding_format: EncodingFormat) -> bytes:
    """The elements of a JSON list, without its brackets."""
    rows: Sequence[object] = list(vectors)
    if encoding_format == "base64":
        rows = [base64.b64encode(row).decode() for row in vectors.astype("<f4", copy=False)]
    elements = [{"object": "embedding", "index": first + i, "embedding": row} for i, row in enumerate(rows)]
    return orjson.dumps(elements, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


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
