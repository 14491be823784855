"""Requests that the OpenAPI document allows and such as it forbids: each gets an answer, and every error says in the same way
what is wrong."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode

from launcher.errors import InvalidRequest
from launcher.gateway.schemas import EmbeddingsRequest, TokenizeRequest, parse_body, parse_input
from tests.support.server import RunningServer

# Of all requests together; make fuzz sends more.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10000"))
TIMEOUT_S = 10.0
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def document(openvino_server: RunningServer) -> schemathesis.BaseSchema:
    schema = schemathesis.openapi.from_url(f"{openvino_server.base_url}/openapi.json")
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    return schema


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


def test_every_request_gets_an_answer_by_the_contract(
    openvino_server: RunningServer, document: schemathesis.BaseSchema, session: requests.Session
) -> None:
    outcomes: Counter[str] = Counter()
    operations = [result.ok() for result in document.get_all_operations()]

    def ask(case: Case) -> None:
        # A random name would end most requests before anything else of them is looked at.
        if isinstance(case.body, dict) and sum(outcomes.values()) % 4:
            case.body["model"] = "tiny-zh"
        reply = case.call(session=session, timeout=TIMEOUT_S)
        outcomes[f"{case.operation.label} {reply.status_code}"] += 1
        check(reply.status_code, reply.content, set_deadline="x-request-timeout-ms" in reply.request.headers)

    for operation in operations:
        # A GET without parameters has little that could be varied.
        examples = settings(
            max_examples=EXAMPLES // 2 if operation.method == "post" else EXAMPLES // 100,
            deadline=None,
            suppress_health_check=QUIET,
            database=None,
        )
        examples(given(case=operation.as_strategy())(ask))()
    print(f"\n{sum(outcomes.values())} requests: {dict(outcomes)}")
    assert sum(outcomes.values()) >= EXAMPLES
    assert_well(openvino_server)


def check(status: int, content: bytes, set_deadline: bool) -> None:
    # Who asks for an answer within a millisecond is told that there was none.
    assert status < 500 or (status == 504 and set_deadline), content
    if status >= 400:
        error = json.loads(content)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert error["type"]


def assert_well(server: RunningServer) -> None:
    assert server.process.poll() is None
    reply = httpx.post(f"{server.base_url}/v1/embeddings", json={"model": "tiny-zh", "input": "你好"})
    assert reply.status_code == 200
    assert "Traceback" not in server.output()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=12,
)
INPUT = JSON | st.lists(st.integers(-5, 30000), max_size=20) | st.lists(st.lists(st.integers(0, 21127), max_size=5), max_size=5)
FIELDS = ("model", "input", "encoding_format", "dimensions", "input_type", "truncate", "user")


@settings(max_examples=1000, deadline=None, suppress_health_check=QUIET, database=None)
@given(st.dictionaries(st.sampled_from(FIELDS), INPUT) | JSON)
@pytest.mark.parametrize("schema", [EmbeddingsRequest, TokenizeRequest])
def test_the_parser_understands_or_refuses(schema: type[EmbeddingsRequest | TokenizeRequest], content: object) -> None:
    try:
        request = parse_body(json.dumps(content).encode(), schema)
        parse_input(request.input, 10, 100)
    except InvalidRequest as error:
        assert str(error)


@settings(max_examples=1000, deadline=None, suppress_health_check=QUIET, database=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f'{{"model": "m", "input": {text}}}'.encode()))
def test_bytes_that_are_no_json_are_refused(body: bytes) -> None:
    try:
        request = parse_body(body, EmbeddingsRequest)
        parse_input(request.input, 10, 100)
    except InvalidRequest as error:
        assert str(error)
