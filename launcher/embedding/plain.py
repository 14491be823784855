"""BERT's tokenization of plain Chinese by lookup; the tokenizers package takes a microsecond for each character.

In BERT's tokenization (Devlin et al. 2018, ``BasicTokenizer``) nothing reaches across a Chinese character, a punctuation mark
or white space, so each of them, and each word of ASCII letters and digits, has its ids once and for all.
"""

from __future__ import annotations

import re
import string

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

# CJK Unified Ideographs. The extensions and the compatibility ideographs, some of which normalisation changes, are rare.
IDEOGRAPHS = range(0x4E00, 0xA000)
PUNCTUATION = string.punctuation + "，。、；：？！…—·（）《》〈〉「」『』【】〔〕“”‘’"
PIECE = re.compile(r"[0-9A-Za-z]+|[^ \t\n\r0-9A-Za-z]")
# With their ids some 300 bytes each.
MAX_WORDS = 50_000
MAX_WORD_CHARACTERS = 32


class PlainText:
    """Gives the ids that ``tokenizer`` would; ``None`` for a text that holds anything but what is named above."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._characters = _character_ids(tokenizer) if _is_bert(tokenizer) else {}
        self._words: dict[str, tuple[int, ...]] = {}

    def ids_of(self, text: str) -> list[int] | None:
        """Without special tokens."""
        try:
            return list(map(self._characters.__getitem__, text))
        except KeyError:
            return self._ids_of_pieces(text) if self._characters else None

    def _ids_of_pieces(self, text: str) -> list[int] | None:
        ids: list[int] = []
        for piece in PIECE.findall(text):
            known = self._characters.get(piece)
            if known is not None:
                ids.append(known)
            elif piece.isascii() and piece.isalnum():
                ids += self._words.get(piece) or self._learn(piece)
            else:
                return None
        return ids

    def _learn(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._tokenizer.encode(word, add_special_tokens=False).ids)
        if len(word) <= MAX_WORD_CHARACTERS:
            if len(self._words) >= MAX_WORDS:
                self._words.clear()
            self._words[word] = ids
        return ids


def _is_bert(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether it keeps Chinese characters apart, and has no tokens of its own that a plain word or white space begins."""
    normalizer = tokenizer.normalizer
    steps = list(normalizer) if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    *before, last = steps or [None]
    model = tokenizer.model
    return (
        all(isinstance(step, normalizers.Lowercase) for step in before)
        and isinstance(last, normalizers.BertNormalizer)
        and last.handle_chinese_chars
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(model, models.WordPiece)
        and model.max_input_chars_per_word >= 1
        and model.unk_token in tokenizer.get_vocab(with_added_tokens=False)
        and not any(first.isspace() or (first.isascii() and first.isalnum()) for first in _first_of_added(tokenizer))
    )


def _character_ids(tokenizer: tokenizers.Tokenizer) -> dict[str, int]:
    model = tokenizer.model
    assert isinstance(model, models.WordPiece)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    unknown = vocabulary[model.unk_token]
    plain = {*map(chr, IDEOGRAPHS), *PUNCTUATION} - _first_of_added(tokenizer)
    return {character: vocabulary.get(character, unknown) for character in plain}


def _first_of_added(tokenizer: tokenizers.Tokenizer) -> set[str]:
    """What a token such as [MASK], which is found before all else, may begin with, in a text and in a normalized one."""
    contents = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    # The normalizer itself puts a space before each Chinese character.
    normalized = [tokenizer.normalizer.normalize_str(content).strip() for content in contents] if tokenizer.normalizer else []
    return {text[0] for text in (*contents, *normalized) if text}
