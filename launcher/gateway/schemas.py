"""The wire types, and the checks that their types alone cannot express. Unknown fields are ignored, as OpenAI does."""

from __future__ import annotations

import re
from typing import Literal, TypeVar

import msgspec

from launcher.config.explain import explain
from launcher.config.schema import Truncate
from launcher.embedding.service import Inputs
from launcher.errors import InvalidRequest

FORMS = "a string, a list of strings, a list of token ids, or a list of lists of token ids"
ELEMENTS = "a string, a token id or a list of token ids"
# Not worth counting in.
SMALL_BYTES = 1 << 14


class EmbeddingsRequest(msgspec.Struct):
    """Body of POST /v1/embeddings; ``input`` is left as it came for ``parse_input``."""

    input: msgspec.Raw
    model: str
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    input_type: Literal["query", "passage", "document"] | None = None
    truncate: Truncate | None = None


class TokenizeRequest(msgspec.Struct):
    """Body of POST /tokenize."""

    input: msgspec.Raw
    model: str | None = None
    input_type: Literal["query", "passage", "document"] | None = None
    truncate: Truncate | None = None


# The first character of a list's first element.
FIRST_OF_LIST = re.compile(rb"\[\s*(\S)")
MISMATCH = re.compile(r"got `(\w+)`(?: - at `\$(.*)`)?")
KINDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
TEXT = msgspec.json.Decoder(str)
TEXTS = msgspec.json.Decoder(list[str])
IDS = msgspec.json.Decoder(list[int])
LISTS_OF_IDS = msgspec.json.Decoder(list[list[int]])

Body = TypeVar("Body", EmbeddingsRequest, TokenizeRequest)
Value = TypeVar("Value")


def parse_body(body: bytes, schema: type[Body]) -> Body:
    """All but ``input``. Raises ``InvalidRequest`` naming the field, or the byte at which the JSON breaks."""
    try:
        return msgspec.json.decode(body, type=schema)
    except msgspec.ValidationError as error:
        field, reason = explain(error, schema)
        raise InvalidRequest(f"{field or 'the body'}: {reason}", param=field.partition("[")[0] or None) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise _not_unicode(error) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def parse_input(raw: msgspec.Raw, max_inputs: int, max_tokens: int) -> Inputs:
    """Bring the four forms of ``input`` to a list of texts or a list of lists of token ids.

    Elements are counted in the bytes, before a Python object is made of each: a body of 16 MB can hold millions. ``max_tokens``
    bounds the ids of all lists together.

    Raises ``InvalidRequest`` naming the element at fault. Whether ids are in the vocabulary is checked later.
    """
    first = FIRST_OF_LIST.match(raw)
    if not first:
        texts = [_decode(TEXT, raw, FORMS)]
    elif first[1] == b"[":
        return _lists_of_ids(raw, max_inputs, max_tokens)
    elif first[1].isdigit() or first[1] == b"-":
        _limit(bytes(raw).count(b",") + 1, "token ids", max_tokens)
        return [_decode(IDS, raw, "a token id (a whole number)")]
    else:
        if memoryview(raw).nbytes > SMALL_BYTES:
            _limit(count_strings(bytes(raw)), "inputs", max_inputs)
        texts = _decode(TEXTS, raw, "a string like the first element" if first[1] == b'"' else ELEMENTS)
        _limit(len(texts), "inputs", max_inputs)
    if not texts:
        raise _invalid("input", "the list is empty")
    if "" in texts:
        raise _invalid(f"input[{texts.index('')}]" if first else "input", "the string is empty")
    return texts


def _lists_of_ids(raw: msgspec.Raw, max_inputs: int, max_tokens: int) -> Inputs:
    content = bytes(raw)
    _limit(content.count(b"[") - 1, "inputs", max_inputs)
    _limit(content.count(b",") + 1, "token ids", max_tokens)
    lists = _decode(LISTS_OF_IDS, raw, "a list of token ids like the first element", "a token id (a whole number)")
    if [] in lists:
        raise _invalid(f"input[{lists.index([])}]", "the list of token ids is empty")
    return lists


def count_strings(content: bytes) -> int:
    """How many strings a list of strings holds at least: a quote in a string comes with a backslash before it."""
    return (content.count(b'"') - content.count(b'\\"')) // 2


def _limit(count: int, what: str, most: int) -> None:
    if count > most:
        raise _invalid("input", f"{count} {what} in one request, but this server takes at most {most}")


def _decode(decoder: msgspec.json.Decoder[Value], raw: msgspec.Raw, *expected: str) -> Value:
    """``expected``: what is wanted in words, the value or its elements, and then theirs."""
    try:
        return decoder.decode(raw)
    except UnicodeDecodeError as error:
        raise _not_unicode(error) from None
    except msgspec.ValidationError as error:
        mismatch = MISMATCH.search(str(error))
        if not mismatch:
            raise _invalid("input", str(error)) from None
        kind, where = mismatch.groups(default="")
        wanted = expected[min(where.count("["), len(expected)) - 1]
        raise _invalid(f"input{where}", f"expected {wanted}, got {KINDS[kind]}") from None


def _invalid(where: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {reason}", param="input")


def _not_unicode(error: UnicodeDecodeError) -> InvalidRequest:
    return InvalidRequest(f"the body is not valid JSON: {error}")
