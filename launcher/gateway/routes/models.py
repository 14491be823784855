"""GET /v1/models: which vector space is served."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from launcher.embedding.model import ServedModel
from launcher.errors import ModelNotFound
from launcher.gateway.errors import error_response
from launcher.gateway.reply import JsonReply


class ModelRoutes:
    def __init__(self, model: ServedModel) -> None:
        self._model = model

    def routes(self) -> list[Route]:
        return [Route("/v1/models", self._list), Route("/v1/models/{id:path}", self._one)]

    async def _list(self, request: Request) -> Response:
        return JsonReply(orjson.dumps({"object": "list", "data": [model_object(self._model)]}))

    async def _one(self, request: Request) -> Response:
        try:
            self._model.role_of(request.path_params["id"])
        except ModelNotFound as error:
            return error_response(error)
        return JsonReply(orjson.dumps(model_object(self._model)))


def model_object(model: ServedModel) -> dict[str, object]:
    """OpenAI's four fields, then what a careful client wants to compare."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "sgl-embed",
        "aliases": model.aliases,
        "fingerprint": model.fingerprint,
        "revision": model.revision,
        "dimensions": model.dimensions,
        "matryoshka_dimensions": model.matryoshka_dimensions,
        "max_tokens": model.max_tokens,
        "pooling": model.pooling,
        "prompts": dict(model.prompts),
        "engine": model.engine,
        "dtype": model.dtype,
        "weights": model.weights,
    }
