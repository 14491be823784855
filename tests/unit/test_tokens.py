from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import processors
from transformers import BertTokenizerFast

from launcher.embedding.tokens import Tokenizer
from launcher.errors import ContextLengthExceeded, InvalidRequest, ModelError
from tests.support import texts
from tests.support.checkpoints import bert_tokenizer, vocabulary

VOCAB_SIZE = 21128
CLS, SEP = 101, 102
CORPUS = texts.corpus(limit=512)
# Each changes some token of the corpus.
SETTINGS = [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]


def write_tokenizer(folder: Path, settings: dict[str, object] | None = None, files: str = "both") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **(settings or {})}))
    if files != "vocab.txt":
        bert_tokenizer(VOCAB_SIZE).save(str(folder / "tokenizer.json"))
    if files != "tokenizer.json":
        (folder / "vocab.txt").write_text("\n".join(vocabulary(VOCAB_SIZE)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder, 512, VOCAB_SIZE)


def ids_of(tokenizer: Tokenizer, inputs: list[str], truncate="end") -> list[list[int]]:
    return [item.ids.tolist() for item in tokenizer.encode(inputs, truncate)]


@pytest.mark.parametrize("limit", [3, 16, 511, 512])
@pytest.mark.parametrize(("truncate", "side"), [("end", "right"), ("start", "left")])
def test_texts_are_cut_as_transformers_cuts_them(folder, limit, truncate, side):
    reference = BertTokenizerFast.from_pretrained(folder, truncation_side=side)
    expected = reference(CORPUS, truncation=True, max_length=limit)["input_ids"]
    whole = reference(CORPUS)["input_ids"]

    encoded = Tokenizer(folder, limit, VOCAB_SIZE).encode(CORPUS, truncate)

    assert [item.ids.tolist() for item in encoded] == expected
    assert [item.truncated for item in encoded] == [len(ids) > limit for ids in whole]
    assert any(item.truncated for item in encoded) and not all(item.truncated for item in encoded)
    assert {item.ids.dtype for item in encoded} == {np.dtype(np.int32)}


@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.txt", "both"])
@pytest.mark.parametrize("settings", SETTINGS, ids=json.dumps)
def test_the_settings_are_read_as_transformers_reads_them(tmp_path, files, settings):
    write_tokenizer(tmp_path, settings, files)
    expected = BertTokenizerFast.from_pretrained(tmp_path)(CORPUS, truncation=True, max_length=512)["input_ids"]
    assert ids_of(Tokenizer(tmp_path, 512, VOCAB_SIZE), CORPUS) == expected
    if settings:
        assert expected != ids_of(Tokenizer(write_tokenizer(tmp_path), 512, VOCAB_SIZE), CORPUS), "the setting changes nothing"


def test_lower_case_may_be_asked_for_by_sentence_transformers(tmp_path):
    write_tokenizer(tmp_path, {"do_lower_case": False})
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    cased = BertTokenizerFast.from_pretrained(tmp_path)
    text = "Große ÉCOLE 北京 World"
    assert ids_of(Tokenizer(tmp_path, 512, VOCAB_SIZE), [text]) == [cased(text.lower())["input_ids"]]
    assert cased(text.lower())["input_ids"] != cased(text)["input_ids"]


def test_cutting_and_padding_stored_in_the_file_are_ignored(tmp_path, tokenizer):
    write_tokenizer(tmp_path)
    stored = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    stored.enable_truncation(8)
    stored.enable_padding(length=600)
    stored.save(str(tmp_path / "tokenizer.json"))
    assert ids_of(Tokenizer(tmp_path, 512, VOCAB_SIZE), CORPUS) == ids_of(tokenizer, CORPUS)


@pytest.mark.parametrize("template", ["$A", "[CLS] [MASK] $A", "$A [SEP] [SEP]", "[CLS] $A [MASK] [SEP]"])
@pytest.mark.parametrize(("truncate", "direction"), [("end", "right"), ("start", "left")])
def test_special_tokens_are_read_off_the_tokenizer(tmp_path, template, truncate, direction):
    write_tokenizer(tmp_path)
    other = bert_tokenizer(VOCAB_SIZE)
    special = [(token, other.token_to_id(token)) for token in ("[CLS]", "[SEP]", "[MASK]")]
    other.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    other.save(str(tmp_path / "tokenizer.json"))
    other.enable_truncation(9, direction=direction)
    # Without special tokens, a text of white space holds none.
    expected = {text: encoding.ids for text, encoding in zip(CORPUS, other.encode_batch(CORPUS), strict=True) if encoding.ids}
    assert ids_of(Tokenizer(tmp_path, 9, VOCAB_SIZE), list(expected), truncate) == list(expected.values())


def test_a_text_may_be_as_long_as_the_limit_and_no_longer(tokenizer):
    (full,) = tokenizer.encode([texts.of_tokens(512)], "none")
    assert (len(full.ids), full.truncated) == (512, False)
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\] has 513 tokens.* at most 512"):
        tokenizer.encode(["short", texts.of_tokens(513)], "none")


def test_half_a_surrogate_pair_is_the_callers_fault(tokenizer):
    with pytest.raises(InvalidRequest, match=r"^input\[2\]: .*surrogate pair at character 1") as error:
        tokenizer.encode(["a", "b", "x\ud83d", "\udc00"], "end")
    assert error.value.param == "input"


def test_threads_may_share_it(tokenizer):
    expected = ids_of(tokenizer, CORPUS)
    with ThreadPoolExecutor(4) as pool:
        assert all(ids == expected for ids in pool.map(lambda _: ids_of(tokenizer, CORPUS), range(8)))


@pytest.mark.parametrize(
    ("ids", "limit", "truncate", "kept"),
    [
        ([CLS, 200, SEP], 8, "end", [CLS, 200, SEP]),
        ([0, VOCAB_SIZE - 1], 8, "none", [0, VOCAB_SIZE - 1]),
        ([CLS, 1, 2, 3, 4, SEP], 4, "end", [CLS, 1, 2, SEP]),
        ([CLS, 1, 2, 3, 4, SEP], 4, "start", [CLS, 3, 4, SEP]),
        ([1, 2, 3, 4, 5, 6], 4, "end", [1, 2, 3, 4]),
        ([1, 2, 3, 4, 5, 6], 4, "start", [3, 4, 5, 6]),
        ([CLS, 1, 2, 3, 4, 5], 4, "end", [CLS, 1, 2, 3]),
        ([1, 2, 3, 4, 5, SEP], 4, "end", [1, 2, 3, SEP]),
    ],
)
def test_ids_are_used_as_given_and_cut_like_texts(folder, ids, limit, truncate, kept):
    item = Tokenizer(folder, limit, VOCAB_SIZE).check_ids(ids, 0, truncate)
    assert (item.ids.tolist(), item.truncated) == (kept, len(kept) < len(ids))
    assert item.ids.dtype == np.int32


@pytest.mark.parametrize("foreign", [VOCAB_SIZE, 99999, 2**31, 2**80])
def test_ids_of_another_tokenizer_are_recognised(tokenizer, foreign):
    with pytest.raises(InvalidRequest, match=rf"^input\[3\]\[2\]: .*{foreign}.*{VOCAB_SIZE}.*check_embedding_ctx_length=False"):
        tokenizer.check_ids([CLS, 5, foreign, 6], 3, "end")


@pytest.mark.parametrize("after", [5, 99999])
def test_a_negative_id_is_just_wrong(tokenizer, after):
    with pytest.raises(InvalidRequest, match=rf"^input\[0\]\[1\]: token id -1 is outside .* {VOCAB_SIZE}$"):
        tokenizer.check_ids([CLS, -1, after], 0, "end")


def test_no_ids_are_no_input(tokenizer):
    with pytest.raises(InvalidRequest, match=r"^input\[7\]"):
        tokenizer.check_ids([], 7, "end")


def test_too_many_ids_may_not_be_cut_either(tokenizer):
    with pytest.raises(ContextLengthExceeded, match=r"input\[4\] has 600 tokens"):
        tokenizer.check_ids([5] * 600, 4, "none")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"neither tokenizer\.json nor vocab\.txt"):
        Tokenizer(tmp_path, 512, VOCAB_SIZE)


@pytest.mark.parametrize(
    ("file", "content"), [("tokenizer.json", "{}"), ("tokenizer.json", "not json"), ("vocab.txt", "only\n")]
)
def test_a_broken_file_is_named(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelError, match=file):
        Tokenizer(tmp_path, 512, VOCAB_SIZE)


def test_another_models_tokenizer_is_refused(folder):
    with pytest.raises(ModelError, match=rf"ids up to {VOCAB_SIZE - 1}, but config\.json says vocab_size 1000"):
        Tokenizer(folder, 512, 1000)


def test_a_limit_without_room_for_text_is_refused(folder):
    with pytest.raises(ModelError, match="no room"):
        Tokenizer(folder, 2, VOCAB_SIZE)


def test_a_text_that_holds_no_tokens_is_refused(tmp_path):
    folder = write_tokenizer(tmp_path / "bare", files="tokenizer.json")
    bare = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    bare.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    bare.save(str(folder / "tokenizer.json"))
    with pytest.raises(InvalidRequest, match=r"^input\[1\]: holds no tokens"):
        Tokenizer(folder, 512, VOCAB_SIZE).encode(["好", " "], "end")
