import pytest

from launcher.embedding.model import ServedModel
from launcher.errors import InvalidRequest, ModelNotFound
from launcher.gateway.routes.inference import role_of
from launcher.gateway.schemas import EmbeddingsRequest, parse_input


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
    assert role_of(EmbeddingsRequest(input="a", model=name, input_type=input_type), served()) == role


@pytest.mark.parametrize("name", ["query", "-query", "bge-", "bge-queries", "gte"])
def test_other_names_are_not_found(name):
    with pytest.raises(ModelNotFound, match="serves 'bge'"):
        served().role_of(name)


def test_a_model_whose_own_name_ends_in_query():
    assert served(name="my-query", aliases=()).role_of("my-query") is None
    assert served(name="my-query", aliases=()).role_of("my-query-query") == "query"


def test_a_list_of_ids_is_one_input_and_not_bound_by_the_number_of_inputs():
    assert parse_input([1] * 5, max_inputs=2, max_tokens=5) == [[1] * 5]
    with pytest.raises(InvalidRequest, match="6 token ids in one request, but this server takes at most 5"):
        parse_input([1] * 6, max_inputs=2, max_tokens=5)
