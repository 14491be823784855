"""The wire types, and the checks that their types alone cannot express. Unknown fields are ignored, as OpenAI does."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from launcher.config.explain import explain
from launcher.config.schema import Truncate
from launcher.embedding.service import Inputs
from launcher.errors import InvalidRequest

FORMS = "a string, a list of strings, a list of token ids, or a list of lists of token ids"


class EmbeddingsRequest(msgspec.Struct):
    """Body of POST /v1/embeddings; ``input`` is checked by ``parse_input``."""

    input: Any
    model: str
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    input_type: Literal["query", "passage", "document"] | None = None
    truncate: Truncate | None = None


class TokenizeRequest(msgspec.Struct):
    """Body of POST /tokenize."""

    input: Any
    model: str | None = None
    input_type: Literal["query", "passage", "document"] | None = None
    truncate: Truncate | None = None


Body = TypeVar("Body", EmbeddingsRequest, TokenizeRequest)


def parse_body(body: bytes, schema: type[Body]) -> Body:
    """Raises ``InvalidRequest`` naming the field, or the byte at which the JSON breaks."""
    try:
        return msgspec.json.decode(body, type=schema)
    except msgspec.ValidationError as error:
        field, reason = explain(error, schema)
        raise InvalidRequest(f"{field or 'the body'}: {reason}", param=field.partition("[")[0] or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def parse_input(value: object, max_inputs: int, max_tokens: int) -> Inputs:
    """Bring the four forms of ``input`` to a list of texts or a list of lists of token ids.

    ``max_tokens`` bounds a single list of ids, before anything goes through it.

    Raises ``InvalidRequest`` naming the element at fault. Whether ids are in the vocabulary is checked later.
    """
    if isinstance(value, str):
        return [_text("input", value)]
    if not isinstance(value, list):
        raise _invalid("input", f"expected {FORMS}, got {_kind(value)}")
    if not value:
        raise _invalid("input", "the list is empty")
    first = value[0]
    if type(first) is int:
        if len(value) > max_tokens:
            raise _invalid("input", f"{len(value)} token ids in one request, but this server takes at most {max_tokens}")
        return [_ids("input", value)]
    if len(value) > max_inputs:
        raise _invalid("input", f"{len(value)} inputs in one request, but this server takes at most {max_inputs}")
    if isinstance(first, str):
        return [_text(f"input[{i}]", item) for i, item in enumerate(value)]
    if isinstance(first, list):
        return [_ids(f"input[{i}]", item) for i, item in enumerate(value)]
    raise _invalid("input[0]", f"expected a string, a token id or a list of token ids, got {_kind(first)}")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(where, f"expected a string like the first element, got {_kind(value)}")
    if not value:
        raise _invalid(where, "the string is empty")
    return value


def _ids(where: str, value: object) -> list[int]:
    if not isinstance(value, list):
        raise _invalid(where, f"expected a list of token ids like the first element, got {_kind(value)}")
    if not value:
        raise _invalid(where, "the list of token ids is empty")
    if set(map(type, value)) != {int}:
        i = next(i for i, item in enumerate(value) if type(item) is not int)
        raise _invalid(f"{where}[{i}]", f"expected a token id (a whole number), got {_kind(value[i])}")
    return value


def _invalid(where: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {reason}", param="input")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    return "null" if value is None else names[type(value)]
