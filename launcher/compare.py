"""Whether the vectors of two servers may stand in one index: ``sgl-embed compare``, which takes no part in serving."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from launcher.embedding.selftest import TEXTS
from launcher.engines.base import Vectors
from launcher.errors import NoAnswer

T = TypeVar("T")

TIMEOUT_S = 60.0
# The last one is longer than any model takes, so that the limits of both have a part in the answer.
COMPARED = (*TEXTS, "".join(TEXTS) * 30)
ROLES = ("query", "passage")


@dataclass(frozen=True, slots=True)
class Verdict:
    may_be_mixed: bool
    reason: str


class Model(msgspec.Struct, frozen=True):
    id: str
    fingerprint: str
    dimensions: int


class Models(msgspec.Struct, frozen=True):
    """One that this project's servers list: they serve a single model."""

    data: Annotated[list[Model], msgspec.Meta(min_length=1, max_length=1)]


class Embedding(msgspec.Struct, frozen=True):
    embedding: list[float]


class Embeddings(msgspec.Struct, frozen=True):
    data: Annotated[list[Embedding], msgspec.Meta(min_length=len(COMPARED), max_length=len(COMPARED))]


@dataclass(frozen=True, slots=True)
class Server:
    """One that serves a single model, as this project's do."""

    url: str
    key: str | None

    def model(self) -> Model:
        return self._ask("/v1/models", Models).data[0]

    def embed(self, model: str, role: str) -> Vectors:
        """float32 [texts, dimensions], of ``COMPARED``, cut where the model's limit is."""
        body = {"model": model, "input": COMPARED, "input_type": role, "truncate": "end"}
        return np.array([item.embedding for item in self._ask("/v1/embeddings", Embeddings, body).data], np.float32)

    def _ask(self, path: str, expected: type[T], body: dict[str, Any] | None = None) -> T:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        url = self.url.rstrip("/") + path
        try:
            request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                return msgspec.json.decode(reply.read(), type=expected)
        except urllib.error.HTTPError as error:
            raise NoAnswer(f"{url}: {error.code} {_message(error.read())}") from error
        except msgspec.MsgspecError as error:
            raise NoAnswer(f"{url}: not the answer of a server of this kind: {error}") from error
        except (OSError, ValueError, HTTPException) as error:
            raise NoAnswer(f"{url}: {error or type(error).__name__}") from error


def compare(old_url: str, new_url: str, min_cosine: float, key: str | None) -> Verdict:
    """The same texts, in both roles, must give vectors at least that near to each other.

    Fingerprints are told and do not decide: they know neither an engine's version nor the hardware, and differ between
    precisions that fit each other. Raises ``NoAnswer`` where a server cannot be asked.
    """
    old, new = Server(old_url, key), Server(new_url, key)
    old_model, new_model = old.model(), new.model()
    both = f"{old_model.id} ({old_model.fingerprint}) and {new_model.id} ({new_model.fingerprint})"
    if old_model.dimensions != new_model.dimensions:
        sizes = f"{old_model.dimensions} and {new_model.dimensions}"
        return Verdict(False, f"must not be mixed: {both} have vectors of {sizes} dimensions")
    least = min(_least_cosine(old.embed(old_model.id, role), new.embed(new_model.id, role)) for role in ROLES)
    may_be_mixed = least >= min_cosine
    words = "may be mixed" if may_be_mixed else "must not be mixed"
    return Verdict(may_be_mixed, f"{words}: {both} agree to a cosine of {least:.5f} at the least; {min_cosine} is asked for")


def _least_cosine(first: Vectors, second: Vectors) -> float:
    return float((first * second).sum(axis=1).min())


def _message(body: bytes) -> str:
    """What the server said, where it said it as ours do."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
