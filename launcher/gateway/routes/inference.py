"""The routes that ask the model: POST /v1/embeddings and POST /tokenize."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from launcher.embedding.model import Role, ServedModel
from launcher.embedding.service import EmbedCall, Embedded, EmbeddingService
from launcher.errors import SglEmbedError
from launcher.gateway.body import read_json_body
from launcher.gateway.encode import embeddings_body, tokenize_body
from launcher.gateway.errors import error_response, http_error_response, json_response
from launcher.gateway.readiness import Readiness
from launcher.gateway.schemas import EmbeddingsRequest, TokenizeRequest, parse_body, parse_input
from launcher.telemetry.hooks import Hooks


class InferenceRoutes:
    def __init__(
        self,
        *,
        model: ServedModel,
        service: EmbeddingService,
        readiness: Readiness,
        hooks: Hooks,
        max_body_bytes: int,
        max_inputs: int,
    ) -> None:
        self._model = model
        self._service = service
        self._readiness = readiness
        self._hooks = hooks
        self._max_body_bytes = max_body_bytes
        self._max_inputs = max_inputs

    def routes(self) -> list[Route]:
        return [
            Route("/v1/embeddings", self._counted("embeddings", self._embeddings), methods=["POST"]),
            Route("/tokenize", self._counted("tokenize", self._tokenize), methods=["POST"]),
        ]

    async def _embeddings(self, request: Request) -> Response:
        body = parse_body(await read_json_body(request, self._max_body_bytes), EmbeddingsRequest)
        role = role_of(body, self._model)
        inputs = parse_input(body.input, self._max_inputs)
        embedded = await self._service.embed(EmbedCall(inputs, role, body.truncate, body.dimensions))
        started = time.perf_counter()
        content = embeddings_body(embedded, self._model.name, body.encoding_format or "float")
        self._hooks.stage("encode", time.perf_counter() - started)
        return json_response(content, headers=embedding_headers(embedded))

    async def _tokenize(self, request: Request) -> Response:
        body = parse_body(await read_json_body(request, self._max_body_bytes), TokenizeRequest)
        role = role_of(body, self._model)
        inputs = parse_input(body.input, self._max_inputs)
        tokenized = await self._service.tokenize(inputs, role, body.truncate)
        return json_response(tokenize_body(tokenized, self._model.name))

    def _counted(self, task: str, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Count the request when it is offered and when it is answered, and hold the drain until then."""

        async def endpoint(request: Request) -> Response:
            self._hooks.offered(task)
            started = time.perf_counter()
            try:
                with self._readiness.request():
                    response = await answer(request)
            except SglEmbedError as error:
                response = error_response(error)
            except HTTPException as error:
                response = http_error_response(request, error)
            self._hooks.answered(task, response.status_code, time.perf_counter() - started)
            return response

        return endpoint


def role_of(body: EmbeddingsRequest | TokenizeRequest, model: ServedModel) -> Role | None:
    """``input_type`` decides; without it, the model's name does. "document" is another word for "passage"."""
    implied = model.role_of(body.model) if body.model is not None else None
    if body.input_type is None:
        return implied
    return "query" if body.input_type == "query" else "passage"


def embedding_headers(embedded: Embedded) -> dict[str, str]:
    headers = {
        "x-tokenization-time-ms": f"{embedded.tokenization_s * 1e3:.2f}",
        "x-queue-time-ms": f"{embedded.queue_s * 1e3:.2f}",
        "x-inference-time-ms": f"{embedded.inference_s * 1e3:.2f}",
        "x-cache": embedded.cache,
    }
    if embedded.truncated:
        headers["x-truncated-inputs"] = str(embedded.truncated)
    return headers
