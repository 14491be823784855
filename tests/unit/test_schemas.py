import tracemalloc

import msgspec
import pytest

from launcher.embedding.model import ServedModel
from launcher.embedding.service import Inputs
from launcher.errors import BodyTooLarge, InvalidRequest, ModelNotFound, UnsupportedBody
from launcher.gateway.body import Head, Limits, read_head
from launcher.gateway.routes.inference import role_of
from launcher.gateway.schemas import EmbeddingsRequest, count_strings, parse_input


def served(**changes: object) -> ServedModel:
    facts: dict[str, object] = {
        "name": "bge",
        "aliases": ("BAAI/bge",),
        "fingerprint": "0",
        "revision": None,
        "dimensions": 8,
        "matryoshka_dimensions": (),
        "max_tokens": 512,
        "pooling": "cls",
        "engine": "openvino",
        "dtype": "float32",
        "weights": "dtype",
        "prompts": {},
        "created": 0,
    }
    return ServedModel(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "input_type", "role"),
    [
        ("bge", None, None),
        ("BAAI/bge", None, None),
        ("bge-query", None, "query"),
        ("BAAI/bge-passage", None, "passage"),
        ("bge", "query", "query"),
        ("bge", "document", "passage"),
        ("bge-query", "passage", "passage"),
    ],
)
def test_role_comes_from_input_type_or_else_from_the_name(name, input_type, role):
    assert role_of(EmbeddingsRequest(input=msgspec.Raw(b'"a"'), model=name, input_type=input_type), served()) == role


@pytest.mark.parametrize("name", ["query", "-query", "bge-", "bge-queries", "gte"])
def test_other_names_are_not_found(name):
    with pytest.raises(ModelNotFound, match="serves 'bge'"):
        served().role_of(name)


def test_a_model_whose_own_name_ends_in_query():
    assert served(name="my-query", aliases=()).role_of("my-query") is None
    assert served(name="my-query", aliases=()).role_of("my-query-query") == "query"


def parse(value: object, max_inputs: int, max_tokens: int) -> Inputs:
    return parse_input(msgspec.Raw(msgspec.json.encode(value)), max_inputs, max_tokens)


def test_a_list_of_ids_is_one_input_and_not_bound_by_the_number_of_inputs():
    assert parse([1] * 5, max_inputs=2, max_tokens=5) == [[1] * 5]
    with pytest.raises(InvalidRequest, match="6 token ids in one request, but this server takes at most 5"):
        parse([1] * 6, max_inputs=2, max_tokens=5)


def test_ids_of_several_lists_are_bound_together():
    assert parse([[1, 2], [3, 4, 5]], max_inputs=2, max_tokens=5) == [[1, 2], [3, 4, 5]]
    with pytest.raises(InvalidRequest, match="6 token ids in one request, but this server takes at most 5"):
        parse([[1, 2], [3, 4, 5, 6]], max_inputs=2, max_tokens=5)
    with pytest.raises(InvalidRequest, match="3 inputs in one request, but this server takes at most 2"):
        parse([[1], [2], [3]], max_inputs=2, max_tokens=5)


def test_quotes_in_texts_are_no_texts():
    texts = ['"' * 20_000, ',"', '"', "\\", '","']
    assert parse(texts, max_inputs=5, max_tokens=5) == texts
    assert count_strings(msgspec.json.encode(texts)) <= 5
    with pytest.raises(InvalidRequest, match="100000 inputs in one request"):
        parse(["a"] * 100_000, max_inputs=5, max_tokens=5)


HUGE = 16 << 20


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b",".join([b"[7]"] * (HUGE // 4)) + b"]",
        b"[" + b",".join([b"7"] * (HUGE // 2)) + b"]",
        b"[" + b",".join([b'"a"'] * (HUGE // 4)) + b"]",
        b'["a",' + b",".join([b"{}"] * (HUGE // 3)) + b"]",
        b"[" + b",".join([b"{}"] * (HUGE // 3)) + b"]",
        b"[1," + b",".join([b"{}"] * (HUGE // 3)) + b"]",
    ],
    ids=["lists", "ids", "texts", "objects behind a text", "objects", "objects behind an id"],
)
def test_a_body_of_many_small_elements_is_refused_without_making_objects_of_them(value):
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            parse_input(msgspec.Raw(value), max_inputs=2048, max_tokens=300_000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < HUGE * 1.1


LIMITS = Limits(max_body_bytes=1000, timeout_s=60.0, max_timeout_s=600.0)


def test_the_head_says_how_long_a_request_may_take():
    assert read_head([], LIMITS) == Head(60.0, 0)
    assert read_head([(b"x-request-timeout-ms", b"1500"), (b"content-length", b"7")], LIMITS) == Head(1.5, 7)
    assert read_head([(b"x-request-timeout-ms", b"600000")], LIMITS).timeout_s == 600


@pytest.mark.parametrize(
    "value", [b"0", b"-1", b"600001", b"1.5", b"1e3", b"", b"soon", b"9" * 5000, "²".encode("latin-1"), b" 5", b"+5"]
)
def test_a_deadline_that_is_none_is_refused(value):
    with pytest.raises(InvalidRequest, match=r"x-request-timeout-ms: expected a whole number .* from 1 to 600000") as refused:
        read_head([(b"x-request-timeout-ms", value)], LIMITS)
    assert refused.value.param == "x-request-timeout-ms"


def test_what_is_announced_too_large_or_as_something_else_is_not_read():
    with pytest.raises(BodyTooLarge):
        read_head([(b"content-length", b"1001")], LIMITS)
    with pytest.raises(UnsupportedBody):
        read_head([(b"content-type", b"text/plain")], LIMITS)
