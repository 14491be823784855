"""Facts come from the checkpoint's files; what they leave open or get wrong is refused by file and key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.config.schema import Model, Prompts
from launcher.errors import ModelError
from launcher.models.checkpoint import content_sha256, read_checkpoint
from tests.support.checkpoints import Shape, write_checkpoint, write_json

SMALL = Shape(vocab_size=200, hidden_size=16, num_hidden_layers=1, intermediate_size=32, max_position_embeddings=64)
POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
    "max": "pooling_mode_max_tokens",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", SMALL)


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes the key."""
    content = json.loads(file.read_text()) if file.exists() else {}
    write_json(file, {key: value for key, value in (content | changes).items() if value is not None})


def refusal(folder: Path, overrides: Model | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        read_checkpoint(folder, overrides or Model())
    return str(caught.value)


def test_reads_what_the_files_say(folder: Path) -> None:
    checkpoint = read_checkpoint(folder, Model())

    assert checkpoint.folder == folder
    assert checkpoint.weights == folder / "model.safetensors"
    assert (checkpoint.shape.vocab_size, checkpoint.shape.num_attention_heads) == (200, 2)
    assert (checkpoint.shape.layer_norm_eps, checkpoint.shape.hidden_act) == (1e-12, "gelu")
    assert checkpoint.dimensions == 16
    assert checkpoint.pooling == "cls"
    assert checkpoint.max_tokens == 64
    assert checkpoint.prompts == {}
    assert checkpoint.matryoshka_dimensions == ()


# Configurations of published models that a BERT encoder cannot compute.
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model_type": "xlm-roberta"}, "model_type is 'xlm-roberta'"),
        ({"model_type": "new", "architectures": ["NewModel"]}, "model_type is 'new'"),
        ({"model_type": "qwen3"}, "model_type is 'qwen3'"),
        ({"architectures": ["JinaBertForMaskedLM"]}, "architectures is ['JinaBertForMaskedLM']"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"auto_map": {"AutoModel": "modeling.py--Custom"}}, "auto_map is"),
        ({"is_decoder": True}, "is_decoder is True"),
    ],
)
def test_other_architectures_are_refused(folder: Path, changes: dict[str, Any], found: str) -> None:
    edit(folder / "config.json", **changes)
    message = refusal(folder)
    assert str(folder / "config.json") in message
    assert found in message
    assert "choose another model" in message


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining"])
def test_checkpoints_with_a_head_hold_an_encoder(folder: Path, name: str) -> None:
    edit(folder / "config.json", architectures=[name])
    assert read_checkpoint(folder, Model()).dimensions == 16


def test_a_config_that_names_no_model_is_refused(folder: Path) -> None:
    edit(folder / "config.json", architectures=None)
    assert read_checkpoint(folder, Model()).dimensions == 16  # model_type alone is enough
    edit(folder / "config.json", model_type=None)
    assert "neither model_type nor architectures" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads 3"),
        ({"hidden_act": "swish9"}, "hidden_act is 'swish9'"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(folder: Path, changes: dict[str, Any], found: str) -> None:
    edit(folder / "config.json", **changes)
    message = refusal(folder)
    assert str(folder / "config.json") in message
    assert found in message


def test_layer_norm_eps_has_the_default_of_transformers(folder: Path) -> None:
    edit(folder / "config.json", layer_norm_eps=None)
    assert read_checkpoint(folder, Model()).shape.layer_norm_eps == 1e-12


def set_pooling(folder: Path, **content: Any) -> None:
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **content})


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_pooling_flags(folder: Path, pooling: str) -> None:
    set_pooling(folder, **{flag: name == pooling for name, flag in POOLING_FLAGS.items()})
    assert read_checkpoint(folder, Model()).pooling == pooling


@pytest.mark.parametrize(("mode", "pooling"), [("cls", "cls"), ("mean", "mean"), ("lasttoken", "last"), (["mean"], "mean")])
def test_pooling_by_name(folder: Path, mode: Any, pooling: str) -> None:
    set_pooling(folder, pooling_mode=mode)
    assert read_checkpoint(folder, Model()).pooling == pooling


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "the pooling is none"),
        ({POOLING_FLAGS["cls"]: False}, "the pooling is none"),
        ({POOLING_FLAGS["max"]: True}, "the pooling is max"),
        ({POOLING_FLAGS["cls"]: True, POOLING_FLAGS["mean"]: True}, "the pooling is cls and mean"),
        ({"pooling_mode": "weightedmean"}, "the pooling is weightedmean"),
        ({"pooling_mode": ["cls", "mean"]}, "the pooling is cls and mean"),
    ],
)
def test_unknown_pooling_is_refused_unless_overridden(folder: Path, content: dict[str, Any], found: str) -> None:
    set_pooling(folder, **content)
    message = refusal(folder)
    assert str(folder / "1_Pooling" / "config.json") in message
    assert found in message
    assert "model.pooling" in message
    assert read_checkpoint(folder, Model(pooling="mean")).pooling == "mean"


def test_a_model_without_modules_needs_the_override(folder: Path) -> None:
    (folder / "modules.json").unlink()
    message = refusal(folder)
    assert str(folder / "modules.json") in message
    assert "model.pooling" in message
    assert read_checkpoint(folder, Model(pooling="last")).pooling == "last"


def test_the_pooling_folder_is_where_modules_say(folder: Path) -> None:
    (folder / "1_Pooling").rename(folder / "pool")
    assert str(folder / "1_Pooling" / "config.json") in refusal(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "pool"
    modules[1]["type"] = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    write_json(folder / "modules.json", modules)
    assert read_checkpoint(folder, Model()).pooling == "cls"


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ({"path": "2_Dense", "type": "sentence_transformers.models.Dense"}, "models.Dense"),
        ({"path": "2_Pooling", "type": "sentence_transformers.models.Pooling"}, "2_Pooling"),
        ({"path": "", "type": "custom_st.Transformer"}, "custom_st.Transformer"),
        ({"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}, "0_Transformer"),
    ],
)
def test_a_step_that_would_be_left_out_is_refused(folder: Path, module: dict[str, str], found: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [*modules, module])
    for overrides in (Model(), Model(pooling="cls")):
        message = refusal(folder, overrides)
        assert str(folder / "modules.json") in message
        assert found in message


def test_a_model_that_pools_without_its_prompt_is_refused(folder: Path) -> None:
    set_pooling(folder, pooling_mode="mean", include_prompt=False)
    assert "include_prompt" in refusal(folder)


def test_pooling_of_another_width_is_refused(folder: Path) -> None:
    set_pooling(folder, pooling_mode="cls", word_embedding_dimension=768)
    assert "768" in refusal(folder)


def test_the_smallest_limit_counts(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", model_max_length=48)
    assert read_checkpoint(folder, Model()).max_tokens == 48
    edit(folder / "sentence_bert_config.json", max_seq_length=32)
    assert read_checkpoint(folder, Model()).max_tokens == 32
    assert read_checkpoint(folder, Model(max_tokens=16)).max_tokens == 16
    assert read_checkpoint(folder, Model(max_tokens=64)).max_tokens == 64


def test_a_tokenizer_without_limit(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", model_max_length=10**30)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": None})
    assert read_checkpoint(folder, Model()).max_tokens == 64


@pytest.mark.parametrize("override", [65, 2])
def test_an_impossible_max_tokens_is_refused(folder: Path, override: int) -> None:
    message = refusal(folder, Model(max_tokens=override))
    assert "model.max_tokens" in message
    assert "64" in message


def test_a_length_that_is_none_is_refused(folder: Path) -> None:
    edit(folder / "sentence_bert_config.json", max_seq_length="long")
    assert "max_seq_length is 'long'" in refusal(folder)


def test_prompts_of_the_checkpoint(folder: Path) -> None:
    file = folder / "config_sentence_transformers.json"
    write_json(file, {"prompts": {"query": "query: ", "document": "", "clustering": "cluster: "}})
    assert read_checkpoint(folder, Model()).prompts == {"query": "query: "}
    write_json(file, {"prompts": {"query": "q: ", "document": "d: "}})
    assert read_checkpoint(folder, Model()).prompts == {"query": "q: ", "passage": "d: "}
    write_json(file, {"prompts": {"passage": "p: "}})
    assert read_checkpoint(folder, Model()).prompts == {"passage": "p: "}


def test_prompts_of_the_configuration_win(folder: Path) -> None:
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": "passage: "}})
    overrides = Model(prompts=Prompts(query="问：", passage=""))
    assert read_checkpoint(folder, overrides).prompts == {"query": "问："}


@pytest.mark.parametrize("name", ["config_sentence_transformers.json", "config.json"])
def test_matryoshka_sizes_of_the_checkpoint(folder: Path, name: str) -> None:
    edit(folder / name, matryoshka_dimensions=[16, 8, 4])
    assert read_checkpoint(folder, Model()).matryoshka_dimensions == (4, 8)
    assert read_checkpoint(folder, Model(matryoshka_dimensions=(2,))).matryoshka_dimensions == (2,)
    assert read_checkpoint(folder, Model(matryoshka_dimensions=())).matryoshka_dimensions == ()


@pytest.mark.parametrize("sizes", [[0], [-4], [17], ["8"], [8.5], 32])
def test_impossible_matryoshka_sizes_are_refused(folder: Path, sizes: Any) -> None:
    edit(folder / "config.json", matryoshka_dimensions=sizes)
    assert "matryoshka_dimensions" in refusal(folder)


def test_an_impossible_matryoshka_override_is_refused_by_its_key(folder: Path) -> None:
    assert "model.matryoshka_dimensions" in refusal(folder, Model(matryoshka_dimensions=(17,)))


def test_bad_json_is_named_by_file_and_line(folder: Path) -> None:
    (folder / "config.json").write_text('{\n  "hidden_size": 16,\n  "vocab_size" 200\n}')
    message = refusal(folder)
    assert f"{folder / 'config.json'}: line 3" in message


@pytest.mark.parametrize("content", [b"[1, 2]", b"\xff\xfe"])
def test_a_config_that_is_no_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert str(folder / "config.json") in refusal(folder)


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    (folder / "model.safetensors").rename(folder / "kept")
    assert "no model.safetensors" in refusal(folder)
    (folder / "pytorch_model.bin").touch()
    assert "model.allow_pickle" in refusal(folder)
    (folder / "model.safetensors.index.json").touch()
    assert "split over several files" in refusal(folder)
    (folder / "kept").rename(folder / "model.safetensors")
    (folder / "vocab.txt").unlink()
    assert read_checkpoint(folder, Model()).dimensions == 16
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in refusal(folder)
    (folder / "config.json").unlink()
    assert f"{folder / 'config.json'}: no such file" in refusal(folder)


def test_weights_that_are_not_whole_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    os.truncate(weights, len(whole) - 1)
    assert "damaged" in refusal(folder)
    weights.write_bytes(whole + b"\0")
    assert "damaged" in refusal(folder)
    weights.write_bytes(whole[:5])
    assert "not a safetensors file" in refusal(folder)
    for start in (b"PK\x03\x04", b"\xff" * 8):
        weights.write_bytes(start + bytes(100))
        assert "not a safetensors file" in refusal(folder)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1302134568\n")
    assert "git lfs pull" in refusal(folder)


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_digest_covers_what_decides_a_vector(folder: Path) -> None:
    def digest() -> str:
        return content_sha256(read_checkpoint(folder, Model()))

    first = digest()
    assert first == digest()
    assert len(bytes.fromhex(first)) == hashlib.sha256().digest_size
    (folder / "README.md").write_text("words")
    assert digest() == first

    seen = {first}
    changes: list[Callable[[], None]] = [
        lambda: edit(folder / "config.json", layer_norm_eps=1e-5),
        lambda: edit(folder / "tokenizer.json", version="1.1"),
        lambda: edit(folder / "tokenizer_config.json", do_lower_case=False),
        lambda: edit(folder / "sentence_bert_config.json", max_seq_length=30),
        lambda: set_pooling(folder, pooling_mode="mean"),
        lambda: flip_last_byte(folder / "model.safetensors"),
    ]
    for change in changes:
        change()
        seen.add(digest())
    assert len(seen) == 7


def test_weights_that_cannot_be_read_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.unlink()
    # Root, as whom tests may run, can read any file.
    weights.mkdir()
    assert refusal(folder) == f"{weights}: cannot be read: Is a directory"
