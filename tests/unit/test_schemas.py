import pytest

from launcher.embedding.model import ServedModel
from launcher.errors import ConfigError, InvalidRequest, ModelNotFound, Unauthorized
from launcher.gateway.auth import KeyCheck, read_keys
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


def test_keys_from_file_and_environment(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# team keys\nsearch: sk-1\nbatch: 'sk:2'\n")
    keys = read_keys(file, "ops:sk-3,")
    assert keys == {"search": "sk-1", "batch": "sk:2", "ops": "sk-3"}
    assert read_keys(None, None) == {}


@pytest.mark.parametrize("content", ["", "just text", "- a\n- b", "name: 5", "name:", "a: {b: c}", ":\n: -", "a: b\na: c"])
def test_a_bad_key_file_is_refused_without_showing_keys(tmp_path, content):
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"server\.api_keys_file") as refused:
        read_keys(file, None)
    assert "b: c" not in str(refused.value)


def test_bad_key_environment():
    with pytest.raises(ConfigError, match="entry 2 is not of the form name:key") as refused:
        read_keys(None, "a:b,secret")
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="the name 'search' stands twice") as refused:
        read_keys(None, "search:one,search:two")
    assert "two" not in str(refused.value)


def test_a_key_file_that_is_not_utf8(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_keys(file, None)


def test_key_check():
    check = KeyCheck({"search": "sk-1", "batch": "sk-2"})
    assert check.name_of(b"Bearer sk-2") == "batch"
    assert check.name_of(b"bearer  sk-1 ") == "search"
    assert KeyCheck({"école": "clé"}).name_of("Bearer clé".encode()) == "école"
    for header in (b"", b"Bearer", b"Bearer ", b"Basic sk-1", b"sk-1", b"Bearer sk-3", b"Bearer sk-1x", b"Bearer \xff"):
        with pytest.raises(Unauthorized):
            check.name_of(header)
