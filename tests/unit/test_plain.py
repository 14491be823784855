"""The lookup gives what the tokenizers package gives, or nothing."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from launcher.embedding import plain
from launcher.embedding.plain import IDEOGRAPHS, PUNCTUATION, PlainText
from tests.support.checkpoints import bert_tokenizer

VOCAB_SIZE = 21128
ODD = [
    "é",
    "Ａ",
    "㐀",
    "\u3000",
    "\x00",
    "👍",
    "e\u0301",
    "ß",
    "İ",
    "～",
    "[CLS]",
    "[MASK]",
    "\u200b",
    "\ufffd",
    "\uf900",
    "𠀀",
    "½",
]
SETTINGS = [{}, {"lowercase": False}, {"strip_accents": False}, {"clean_text": False}]


def library(**settings: bool) -> tokenizers.Tokenizer:
    made = bert_tokenizer(VOCAB_SIZE)
    made.normalizer = normalizers.BertNormalizer(**settings)
    return made


def expected(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def lowercased_first() -> tokenizers.Tokenizer:
    made = library()
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.BertNormalizer(lowercase=False)])
    return made


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_each_character_has_the_ids_that_the_library_gives_it_between_others(settings: dict[str, bool]) -> None:
    tokenizer = library(**settings)
    characters = [*map(chr, IDEOGRAPHS), *sorted(set(PUNCTUATION) - {"["})]
    text = "a".join(characters)
    assert PlainText(tokenizer).ids_of(text) == expected(tokenizer, text)
    assert PlainText(tokenizer).ids_of("".join(characters)) == expected(tokenizer, "".join(characters))


@pytest.mark.parametrize("tokenizer", [*(library(**settings) for settings in SETTINGS), lowercased_first()])
def test_random_texts_get_what_the_library_gives_them(tokenizer: tokenizers.Tokenizer) -> None:
    chance = random.Random(7)
    lookup = PlainText(tokenizer)
    words = ["2024", "iPhone", "GPU", "a", "unbelievable", "x" * 120, "3", "HELLO", "tokenization"]
    known = 0
    for _ in range(5000):
        odd = chance.random() < 0.3
        pieces = [chr(chance.choice(IDEOGRAPHS)), chance.choice(PUNCTUATION), chance.choice(words), chance.choice(" \t\n\r")]
        text = "".join(chance.choices(pieces + ODD * odd, k=chance.randrange(1, 12)))
        ids = lookup.ids_of(text)
        assert ids is None or ids == expected(tokenizer, text), repr(text)
        known += ids is not None
    assert known > 3000


@pytest.mark.parametrize("text", [*ODD, "[", "好[CLS]好", "naïve", "tab\x0b"])
def test_whatever_is_not_plain_is_left_to_the_library(text: str) -> None:
    assert PlainText(library()).ids_of(text) is None


def with_added(content: str) -> tokenizers.Tokenizer:
    made = library()
    made.add_tokens([AddedToken(content)])
    return made


def without_bert(part: str) -> tokenizers.Tokenizer:
    made = library()
    if part == "model":
        made.model = models.BPE()
    elif part == "pre-tokenizer":
        made.pre_tokenizer = pre_tokenizers.Whitespace()
    elif part == "unknown token":
        made.model = models.WordPiece(made.get_vocab(with_added_tokens=False), unk_token="<unk>")
    elif part == "word limit":
        made.model = models.WordPiece(made.get_vocab(with_added_tokens=False), unk_token="[UNK]", max_input_chars_per_word=0)
    elif part == "empty sequence":
        made.normalizer = normalizers.Sequence([])
    elif part == "normalizer":
        made.normalizer = normalizers.NFKC()
    else:
        made.normalizer = None
    return made


@pytest.mark.parametrize(
    "tokenizer",
    [
        library(handle_chinese_chars=False),
        with_added("hello"),
        *map(
            without_bert,
            ("model", "pre-tokenizer", "normalizer", "no normalizer", "unknown token", "word limit", "empty sequence"),
        ),
    ],
)
def test_a_tokenizer_of_another_kind_is_never_stood_in_for(tokenizer: tokenizers.Tokenizer) -> None:
    assert [PlainText(tokenizer).ids_of(text) for text in ("好", "hello", "，")] == [None] * 3


def test_a_character_that_an_added_token_begins_with_is_left_to_the_library() -> None:
    tokenizer = with_added("好的")
    assert PlainText(tokenizer).ids_of("好的") is None
    assert PlainText(tokenizer).ids_of("不的") == expected(tokenizer, "不的")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\n", "好\n好"),
        (" x", "好 x好"),
        ("   ", "好   x好"),
        ("É,a", "好e,a好"),
        ("İstanbul 5", "istanbul 5"),
        ("\uf900好", "\uf900好"),
        ("\u200b好的", "好的"),
    ],
)
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_an_added_token_is_found_where_the_library_finds_it(content: str, text: str, normalized: bool, special: bool) -> None:
    tokenizer = library()
    added = AddedToken(content, normalized=normalized, special=special)
    tokenizer.add_special_tokens([added]) if special else tokenizer.add_tokens([added])
    assert PlainText(tokenizer).ids_of(text) in (None, expected(tokenizer, text))


def test_a_long_word_is_not_kept() -> None:
    tokenizer = library()
    lookup = PlainText(tokenizer)
    word = "a" * 5000
    assert lookup.ids_of(word) == expected(tokenizer, word)
    assert lookup._words == {}


def test_words_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "MAX_WORDS", 10)
    tokenizer = library()
    lookup = PlainText(tokenizer)
    for number in range(100):
        assert lookup.ids_of(f"第{number}页") == expected(tokenizer, f"第{number}页")
    assert len(lookup._words) <= 10
