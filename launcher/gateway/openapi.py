"""The OpenAPI 3.0 document of the routes; ``tests/gateway/test_openapi.py`` holds it to the wire types."""

from __future__ import annotations

from typing import Any

from launcher.embedding.model import ServedModel
from launcher.gateway.body import TIMEOUT_HEADER

Schema = dict[str, Any]

INPUT: Schema = {
    "description": "One text, several texts, the token ids of one text, or the token ids of several.",
    "oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
        {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
        },
    ],
}
INPUT_TYPE: Schema = {
    "type": "string",
    "nullable": True,
    "enum": ["query", "passage", "document", None],
    "description": "Puts the model's prompt for this role before each text. Without it no prompt is used.",
}
TRUNCATE: Schema = {
    "type": "string",
    "nullable": True,
    "enum": ["end", "start", "none", None],
    "description": "Which side of a text longer than the model takes is cut off; none: 400 instead.",
}

TIMEOUT: Schema = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "schema": {"type": "integer", "minimum": 1},
    "description": "How long this request may take, in milliseconds; after that 504.",
}


def openapi_document(model: ServedModel, version: str) -> Schema:
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "sgl-embed",
            "version": version,
            "description": f"OpenAI-compatible embeddings. This server serves `{model.name}`: "
            f"{model.dimensions} dimensions, at most {model.max_tokens} tokens an input.",
        },
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/embeddings": {"post": _post("Embed texts", "EmbeddingsRequest", "EmbeddingsResponse")},
            "/tokenize": {"post": _post("Token ids and counts, as the model sees them", "TokenizeRequest", "TokenizeResponse")},
            "/v1/models": {"get": _get("The served model", "ModelList")},
            "/v1/models/{id}": {"get": _model_by_id()},
            "/health": {"get": _get("Whether this server can answer", "Status", also={"503": _error("It cannot, and why")})},
            "/ready": {"get": _get("Whether new requests are taken", "Status", also={"503": _error("They are not, and why")})},
            "/live": {"get": _get("Whether the process runs", "Status")},
            "/metrics": {
                "get": {
                    "summary": "Prometheus metrics",
                    "security": [],
                    "responses": {"200": {"description": "Text exposition format", "content": {"text/plain": {}}}},
                }
            },
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(model),
        },
    }


def _post(summary: str, request: str, response: str) -> Schema:
    return {
        "summary": summary,
        "parameters": [TIMEOUT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": _ref(response)}}},
            "400": _error("The request is wrong; the message names the field"),
            "401": _error("The API key is missing or unknown"),
            "404": _error("No such model here"),
            "413": _error("The body is too large"),
            "415": _error("The body is not said to be JSON"),
            "429": _error(
                "The queue is full or too long for the deadline, or the API key has used up its limit; "
                "Retry-After says when to come back"
            ),
            "503": _error("Starting, shutting down, or no worker left"),
            "504": _error("Not finished in time"),
        },
    }


def _get(summary: str, response: str, also: Schema | None = None) -> Schema:
    content = {"application/json": {"schema": _ref(response)}}
    return {"summary": summary, "responses": {"200": {"description": "OK", "content": content}, **(also or {})}}


def _model_by_id() -> Schema:
    operation = _get("One model by name or alias", "Model", also={"404": _error("No such model here")})
    return operation | {"parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]}


def _error(description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": _ref("Error")}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Schema, required: list[str] | None = None, example: object = None) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "required": required or list(properties)}
    return schema | ({"example": example} if example else {})


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _schemas(model: ServedModel) -> Schema:
    text: Schema = {"type": "string"}
    number: Schema = {"type": "integer"}
    name = {"type": "string", "description": f"{model.name}, an alias, or one of them followed by -query or -passage."}
    sizes = sorted({*model.matryoshka_dimensions, model.dimensions})
    vector: Schema = {
        "oneOf": [_array({"type": "number"}), {"type": "string", "format": "byte"}],
        "description": "Numbers, or the base64 of little-endian float32.",
    }
    return {
        "EmbeddingsRequest": _object(
            {
                "input": INPUT,
                "model": name,
                "encoding_format": {"type": "string", "nullable": True, "enum": ["float", "base64", None]},
                "dimensions": {"type": "integer", "nullable": True, "enum": [*sizes, None]},
                "input_type": INPUT_TYPE,
                "truncate": TRUNCATE,
            },
            required=["input", "model"],
            example={"model": model.name, "input": ["今天天气真好", "The weather is lovely today"]},
        ),
        "EmbeddingsResponse": _object(
            {
                "object": text,
                "data": _array(_object({"object": text, "index": number, "embedding": vector})),
                "model": text,
                "usage": _object({"prompt_tokens": number, "total_tokens": number}),
            }
        ),
        "TokenizeRequest": _object(
            {"input": INPUT, "model": name | {"nullable": True}, "input_type": INPUT_TYPE, "truncate": TRUNCATE},
            required=["input"],
            example={"input": "今天天气真好"},
        ),
        "TokenizeResponse": _object(
            {
                "object": text,
                "data": _array(
                    _object({"index": number, "ids": _array(number), "count": number, "truncated": {"type": "boolean"}})
                ),
                "model": text,
                "total_count": number,
            }
        ),
        "Model": _object({"id": text, "object": text, "created": number, "owned_by": text, "fingerprint": text}),
        "ModelList": _object({"object": text, "data": _array(_ref("Model"))}),
        "Status": _object({"status": text}),
        "Error": _object(
            {
                "error": _object(
                    {
                        "message": text,
                        "type": text,
                        "param": {"type": "string", "nullable": True},
                        "code": {"type": "string", "nullable": True},
                    }
                )
            }
        ),
    }
