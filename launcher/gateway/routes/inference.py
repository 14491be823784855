"""The routes that ask the model: POST /v1/embeddings and POST /tokenize."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.routing import Route

from launcher.embedding.model import Role, ServedModel
from launcher.embedding.service import EmbedCall, Embedded, EmbeddingService
from launcher.embedding.tokens import TokenizedInput
from launcher.gateway.body import Limits
from launcher.gateway.encode import embeddings_body, tokenize_body
from launcher.gateway.endpoint import Answer, Endpoint
from launcher.gateway.held import HeldBytes
from launcher.gateway.parse import Parser
from launcher.gateway.readiness import Readiness
from launcher.gateway.reply import Header, JsonReply
from launcher.gateway.schemas import EmbeddingsRequest, TokenizeRequest
from launcher.gateway.work import Work
from launcher.telemetry.hooks import Hooks, Task
from launcher.telemetry.tracing import Trace

EMBEDDINGS = "/v1/embeddings"
TOKENIZE = "/tokenize"


class InferenceRoutes:
    def __init__(
        self,
        *,
        model: ServedModel,
        service: EmbeddingService,
        readiness: Readiness,
        hooks: Hooks,
        held: HeldBytes,
        parser: Parser,
        limits: Limits,
    ) -> None:
        self._model = model
        self._service = service
        self._readiness = readiness
        self._hooks = hooks
        self._held = held
        self._parser = parser
        self._limits = limits

    def routes(self) -> list[Route]:
        return [
            Route(EMBEDDINGS, self._endpoint("embeddings", self._embeddings), methods=["POST"]),
            Route(TOKENIZE, self._endpoint("tokenize", self._tokenize), methods=["POST"]),
        ]

    async def _embeddings(self, body: bytes, deadline: float, trace: Trace | None) -> JsonReply:
        request, inputs = await self._parser.parse(body, EmbeddingsRequest)
        role = role_of(request, self._model)
        call = EmbedCall(inputs, role, request.truncate, request.dimensions, deadline, trace)
        embedded = await self._service.embed(call)
        started = time.perf_counter()
        if trace:
            trace.enter("encode", started)
        content = await embeddings_body(embedded, self._model.name, request.encoding_format or "float")
        encode_s = time.perf_counter() - started
        self._hooks.stage("encode", encode_s)
        work = embedding_work(embedded, len(inputs), encode_s)
        return JsonReply(content, headers=embedding_headers(embedded), tokens=embedded.prompt_tokens, work=work)

    async def _tokenize(self, body: bytes, deadline: float, trace: Trace | None) -> JsonReply:
        request, inputs = await self._parser.parse(body, TokenizeRequest)
        role = role_of(request, self._model)
        started = time.perf_counter()
        if trace:
            trace.enter("tokenize", started)
        tokenized = await self._service.tokenize(inputs, role, request.truncate)
        self._hooks.accepted("tokenize")
        work = tokenize_work(tokenized, time.perf_counter() - started)
        return JsonReply(tokenize_body(tokenized, self._model.name), work=work)

    def _endpoint(self, task: Task, answer: Answer) -> Endpoint:
        return Endpoint(task, answer, self._readiness, self._hooks, self._held, self._limits)


def role_of(request: EmbeddingsRequest | TokenizeRequest, model: ServedModel) -> Role | None:
    """``input_type`` decides; without it, the model's name does. "document" is another word for "passage"."""
    implied = model.role_of(request.model) if request.model is not None else None
    if request.input_type is None:
        return implied
    return "query" if request.input_type == "query" else "passage"


def embedding_headers(embedded: Embedded) -> list[Header]:
    headers = [
        (b"x-tokenization-time-ms", b"%.2f" % (embedded.tokenization_s * 1e3)),
        (b"x-queue-time-ms", b"%.2f" % (embedded.queue_s * 1e3)),
        (b"x-inference-time-ms", b"%.2f" % (embedded.inference_s * 1e3)),
        (b"x-cache", embedded.cache.encode()),
    ]
    if embedded.truncated:
        headers.append((b"x-truncated-inputs", b"%d" % embedded.truncated))
    return headers


def embedding_work(embedded: Embedded, inputs: int, encode_s: float) -> Work:
    return Work(
        inputs,
        embedded.prompt_tokens,
        embedded.truncated,
        embedded.tokenization_s,
        embedded.cache,
        embedded.queue_s,
        embedded.inference_s,
        encode_s,
    )


def tokenize_work(tokenized: Sequence[TokenizedInput], tokenize_s: float) -> Work:
    tokens = sum(len(item.ids) for item in tokenized)
    return Work(len(tokenized), tokens, sum(item.truncated for item in tokenized), tokenize_s)
