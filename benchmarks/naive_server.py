"""The server that everybody writes first: sentence-transformers behind FastAPI."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class EmbeddingRequest(BaseModel):
    model: str
    input: str | list[str]


def build_app(model: SentenceTransformer) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/embeddings")
    def embed(request: EmbeddingRequest) -> dict[str, Any]:
        texts = [request.input] if isinstance(request.input, str) else request.input
        vectors = model.encode(texts, normalize_embeddings=True)
        return {
            "object": "list",
            "model": request.model,
            "data": [{"object": "embedding", "index": i, "embedding": vector.tolist()} for i, vector in enumerate(vectors)],
        }

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    model = SentenceTransformer(arguments.model, device="cpu", model_kwargs={"dtype": getattr(torch, arguments.dtype)})
    uvicorn.run(build_app(model), host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
