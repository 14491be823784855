"""The clients that users have, unmodified, against a real server on each engine."""

from __future__ import annotations

import base64

import httpx
import litellm
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

from tests.support.server import RunningServer

MODEL = "tiny-zh"
TEXTS = ["今天天气真好", "明天会下雨吗", "embedding servers"]


@pytest.fixture(scope="module")
def expected(server: RunningServer) -> np.ndarray:
    reply = httpx.post(f"{server.base_url}/v1/embeddings", json={"model": MODEL, "input": TEXTS}, timeout=30).json()
    return np.array([item["embedding"] for item in reply["data"]])


def assert_same(vectors: object, expected: np.ndarray) -> None:
    found = np.array(vectors)
    assert found.shape == expected.shape
    assert np.min(np.sum(found * expected, axis=1)) > 0.9999


def test_openai(server, expected):
    client = openai.Client(base_url=f"{server.base_url}/v1", api_key="EMPTY")
    for options in ({}, {"encoding_format": "float"}, {"dimensions": 128}, {"user": "me"}):
        reply = client.embeddings.create(model=MODEL, input=TEXTS, **options)
        assert_same([item.embedding for item in reply.data], expected)
    one = client.embeddings.create(model=MODEL, input=TEXTS[0])
    assert_same([one.data[0].embedding], expected[:1])
    packed = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="base64")
    assert_same([np.frombuffer(base64.b64decode(item.embedding), "<f4") for item in packed.data], expected)
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    query = client.embeddings.create(model=MODEL, input="天气", extra_body={"input_type": "query", "truncate": "none"})
    assert len(query.data) == 1


def test_openai_errors(server):
    client = openai.Client(base_url=f"{server.base_url}/v1", api_key="EMPTY", max_retries=0)
    with pytest.raises(openai.BadRequestError, match=r"input\[1\]: the string is empty") as refused:
        client.embeddings.create(model=MODEL, input=["a", ""])
    assert refused.value.param == "input"
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert missing.value.code == "model_not_found"


async def test_openai_async(server, expected):
    async with openai.AsyncClient(base_url=f"{server.base_url}/v1", api_key="EMPTY") as client:
        reply = await client.embeddings.create(model=MODEL, input=TEXTS)
    assert_same([item.embedding for item in reply.data], expected)


async def test_langchain(server, expected):
    embeddings = OpenAIEmbeddings(
        base_url=f"{server.base_url}/v1", api_key="EMPTY", model=MODEL, check_embedding_ctx_length=False
    )
    assert_same(embeddings.embed_documents(TEXTS), expected)
    assert_same([embeddings.embed_query(TEXTS[0])], expected[:1])
    assert_same(await embeddings.aembed_documents(TEXTS), expected)


def test_langchain_without_the_flag_is_told_of_it(server, monkeypatch):
    """Without the flag LangChain sends another tokenizer's ids. Its encoder is fetched from a hub, so ids of it stand in."""

    class Encoder:
        def encode_ordinary(self, text: str) -> list[int]:
            return [57668, 53901, 3922, 100220]

        encode = encode_ordinary

    monkeypatch.setattr("tiktoken.encoding_for_model", lambda name: Encoder())
    monkeypatch.setattr("tiktoken.get_encoding", lambda name: Encoder())
    embeddings = OpenAIEmbeddings(base_url=f"{server.base_url}/v1", api_key="EMPTY", model=MODEL)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings.embed_documents(TEXTS)


async def test_llama_index(server, expected):
    embedding = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{server.base_url}/v1", api_key="EMPTY")
    assert_same(embedding.get_text_embedding_batch(TEXTS), expected)
    assert_same([await embedding.aget_query_embedding(TEXTS[0])], expected[:1])


async def test_litellm(server, expected):
    arguments = {"model": f"openai/{MODEL}", "input": TEXTS, "api_base": f"{server.base_url}/v1", "api_key": "EMPTY"}
    assert_same([item["embedding"] for item in litellm.embedding(**arguments).data], expected)
    assert_same([item["embedding"] for item in (await litellm.aembedding(**arguments)).data], expected)
    # What litellm sends for callers who set nothing.
    assert_same([item["embedding"] for item in litellm.embedding(**arguments, encoding_format=None).data], expected)
