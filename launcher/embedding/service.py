"""The whole path of a request: its inputs to tokens, tokens to vectors, and what is told about it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec
import numpy as np
from typing_extensions import TypeIs

from launcher.config.schema import Truncate
from launcher.embedding.model import Role, ServedModel
from launcher.embedding.tokens import TokenizedInput, Tokenizer
from launcher.embedding.vectors import Found, VectorSource
from launcher.engines.base import Vectors
from launcher.errors import InvalidRequest
from launcher.telemetry.hooks import Hooks
from launcher.telemetry.tracing import Trace

# Below these, handing an input to a thread costs more than tokenizing or checking it.
INLINE_CHARACTERS = 2000
INLINE_IDS = 10_000

Inputs = Sequence[str] | Sequence[Sequence[int]]
CacheAnswer = Literal["hit", "partial", "miss"]


class EmbedCall(msgspec.Struct, frozen=True):
    """One request's inputs and wishes; ``None`` leaves a choice to the server. ``deadline`` is by the event loop's clock,
    ``trace`` None where the request is not traced."""

    inputs: Inputs
    role: Role | None = None
    truncate: Truncate | None = None
    dimensions: int | None = None
    deadline: float = math.inf
    trace: Trace | None = None


class Embedded(msgspec.Struct, frozen=True):
    """``vectors``: float32 [n_inputs, dimensions], unit length, in the order of the inputs.

    ``prompt_tokens`` counts what was really processed, special tokens included; ``truncated`` counts inputs that were cut.
    """

    vectors: Vectors
    prompt_tokens: int
    truncated: int
    cache: CacheAnswer
    tokenization_s: float
    queue_s: float
    inference_s: float


class EmbeddingService:
    def __init__(
        self,
        *,
        model: ServedModel,
        tokenizer: Tokenizer,
        vectors: VectorSource,
        hooks: Hooks,
        truncate: Truncate,
        max_tokens_per_request: int,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._vectors = vectors
        self._hooks = hooks
        self._on_accepted = partial(hooks.accepted, "embeddings")
        self._truncate: Truncate = truncate
        self._max_tokens_per_request = max_tokens_per_request

    async def embed(self, call: EmbedCall) -> Embedded:
        """Raises ``RequestError`` where the call is wrong and ``Unavailable`` where it cannot be done now."""
        dimensions = self._dimensions(call.dimensions)
        started = time.perf_counter()
        if call.trace:
            call.trace.enter("tokenize", started)
        tokenized = await self.tokenize(call.inputs, call.role, call.truncate)
        tokenization_s = time.perf_counter() - started
        tokens = self._count_tokens(tokenized)

        ids = [item.ids for item in tokenized]
        found = await self._vectors.of(ids, call.deadline, self._on_accepted, call.trace)
        truncated = sum(item.truncated for item in tokenized)
        self._hooks.inputs(len(tokenized), tokens, truncated)
        self._tell(tokenization_s, found)
        return Embedded(
            vectors=found.vectors if dimensions == self._model.dimensions else shorten(found.vectors, dimensions),
            prompt_tokens=tokens,
            truncated=truncated,
            cache=cache_answer(len(tokenized), sum(found.cached.values())),
            tokenization_s=tokenization_s,
            queue_s=found.queue_s,
            inference_s=found.inference_s,
        )

    async def tokenize(self, inputs: Inputs, role: Role | None, truncate: Truncate | None) -> Sequence[TokenizedInput]:
        """Token ids as the model will see them: prompt applied, special tokens in place, cut to the limit."""
        truncate = truncate or self._truncate
        prompt = self._model.prompts.get(role, "") if role else ""
        if is_texts(inputs):
            texts = [prompt + text for text in inputs] if prompt else inputs
            if sum(map(len, texts)) <= INLINE_CHARACTERS:
                return self._tokenizer.encode(texts, truncate)
            return await asyncio.to_thread(self._tokenizer.encode, texts, truncate)
        if prompt:
            raise InvalidRequest(
                f"a {role} is given as text, because the model's prompt goes before it; "
                "send text, or put the prompt's ids in front yourself and leave out the role",
                param="input",
            )
        if sum(map(len, inputs)) <= INLINE_IDS:
            return self._check_ids(inputs, truncate)
        return await asyncio.to_thread(self._check_ids, inputs, truncate)

    def _check_ids(self, inputs: Sequence[Sequence[int]], truncate: Truncate) -> Sequence[TokenizedInput]:
        return [self._tokenizer.check_ids(ids, i, truncate) for i, ids in enumerate(inputs)]

    def _tell(self, tokenization_s: float, found: Found) -> None:
        self._hooks.stage("tokenize", tokenization_s)
        if found.cached:
            self._hooks.stage("cache", found.cache_s)
        self._hooks.stage("queue", found.queue_s)
        self._hooks.stage("inference", found.inference_s)
        self._hooks.spared(found.cached, found.deduplicated)

    def _count_tokens(self, tokenized: Sequence[TokenizedInput]) -> int:
        tokens = sum(len(item.ids) for item in tokenized)
        if tokens > self._max_tokens_per_request:
            raise InvalidRequest(
                f"input: {tokens} tokens in one request, but this server takes at most {self._max_tokens_per_request}; "
                "send it in several requests",
                param="input",
            )
        return tokens

    def _dimensions(self, wanted: int | None) -> int:
        native, smaller = self._model.dimensions, self._model.matryoshka_dimensions
        if wanted is None or wanted == native:
            return native
        if wanted in smaller:
            return wanted
        allowed = ", ".join(map(str, sorted({*smaller, native})))
        raise InvalidRequest(f"dimensions: {wanted} is not a size of this model, which has {allowed}", param="dimensions")


def is_texts(inputs: Inputs) -> TypeIs[Sequence[str]]:
    return isinstance(inputs[0], str)


def cache_answer(inputs: int, cached: int) -> CacheAnswer:
    if not cached:
        return "miss"
    return "hit" if cached == inputs else "partial"


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """Cut Matryoshka vectors to their first ``dimensions`` numbers and bring them back to unit length.

    https://arxiv.org/abs/2205.13147, section 3.
    """
    cut = vectors[:, :dimensions]
    shortened: Vectors = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return shortened
