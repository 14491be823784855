"""A text cut into slices tokenizes as the whole does, and a long one costs no more memory than a slice."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.embedding import tokens
from launcher.embedding.slices import slice_bounds
from launcher.embedding.tokens import Tokenizer, in_groups
from launcher.errors import ContextLengthExceeded
from tests.support import texts


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return Tokenizer(tiny_checkpoint, 512, 21128)


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_slices_cover_the_text_and_give_its_tokens(tokenizer: Tokenizer, size: int) -> None:
    whole = "".join([*texts.SENTENCES, *texts.ODDITIES.values()])
    bounds = slice_bounds(whole, size)
    assert "".join(whole[start:end] for start, end in bounds) == whole
    assert len(bounds) > 3
    encoded = tokenizer._tokenizer.encode(whole, add_special_tokens=False).ids
    parts = [tokenizer._tokenizer.encode(whole[start:end], add_special_tokens=False).ids for start, end in bounds]
    assert [i for part in parts for i in part] == encoded


def test_a_word_is_never_cut() -> None:
    assert slice_bounds("abc def", 2) == [(0, 4), (4, 7)]
    assert slice_bounds("abcdef", 2) == [(0, 6)]
    assert slice_bounds("", 2) == []


@pytest.mark.parametrize("truncate", ["end", "start"])
@pytest.mark.parametrize(
    "text",
    [
        *texts.over_long(512),
        "长" * 5000 + "短" * 5000,
        "word " * 3000,
        "x" * 20_000,
        " " * 20_000,
        "好 " + "x" * 20_000 + " 坏",
    ],
    ids=lambda text: text[:12],
)
def test_long_texts_are_cut_as_if_whole(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, text: str, truncate: str
) -> None:
    (whole,) = tokenizer.encode([text], truncate)
    monkeypatch.setattr(tokens, "GROUP_CHARACTERS", 100)
    (sliced,) = tokenizer.encode([text], truncate)
    assert sliced.ids.tolist() == whole.ids.tolist()
    assert sliced.truncated == whole.truncated


def test_a_long_text_that_may_not_be_cut_is_counted_to_its_end(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "GROUP_CHARACTERS", 100)
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\] has 5002 tokens"):
        tokenizer.encode(["短", "长" * 5000], "none")
    (kept,) = tokenizer.encode(["字" * 500], "none")
    assert len(kept.ids) == 502


def test_groups_keep_the_order_and_bound_the_characters() -> None:
    texts = list(enumerate(["aa", "b", "cccc", "d", "ee"]))
    groups = [[text for _, text in group] for group in in_groups(texts, 3)]
    assert groups == [["aa", "b"], ["cccc"], ["d", "ee"]]
    assert list(in_groups([], 3)) == []
