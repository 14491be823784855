"""From text to token ids, exactly as ``transformers`` does it, and the check of ids that callers send themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from launcher.config.schema import Truncate
from launcher.embedding.plain import PlainText
from launcher.embedding.slices import slice_bounds
from launcher.engines.base import TokenIds
from launcher.errors import ContextLengthExceeded, InvalidRequest, ModelError
from launcher.models.files import read_optional_object

# transformers.BertTokenizer's arguments and defaults for the special tokens; their names in a vocabulary.
SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
# The tokenizers package holds some 500 bytes for each token until a call returns: 5 million characters at once took 2 GB.
GROUP_CHARACTERS = 100_000
BERT_CLASSES = (None, "BertTokenizer", "BertTokenizerFast")


class TokenizedInput(msgspec.Struct, frozen=True):
    """``ids``: int32 [n], special tokens included; ``truncated``: whether some were left out to meet the model's limit."""

    ids: TokenIds
    truncated: bool


class Tokenizer:
    """May be called from several threads at once."""

    def __init__(self, folder: Path, max_tokens: int, vocab_size: int) -> None:
        """``max_tokens`` counts special tokens; ``vocab_size`` is how many ids the model has vectors for.

        Raises ``ModelError`` where ``folder`` holds no usable tokenizer, or one of another model.
        """
        self._tokenizer = load_tokenizer(folder)
        self._plain = PlainText(self._tokenizer)
        self.max_tokens = max_tokens
        self._vocab_size = vocab_size
        self._prefix, self._suffix = _special_ids(self._tokenizer)
        if max_tokens <= len(self._prefix) + len(self._suffix):
            raise ModelError(f"{folder}: a limit of {max_tokens} tokens leaves no room for text")
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocab_size:
            raise ModelError(
                f"{folder}: the tokenizer gives ids up to {largest}, but config.json says vocab_size {vocab_size}; "
                "it is another model's tokenizer"
            )

    def encode(self, texts: Sequence[str], truncate: Truncate) -> list[TokenizedInput]:
        """Raises ``InvalidRequest`` for a text that is not Unicode, ``ContextLengthExceeded`` for one that may not be cut."""
        plain = [self._plain.ids_of(text) if len(text) <= GROUP_CHARACTERS else None for text in texts]
        try:
            others = self._encode_others({i: texts[i] for i, ids in enumerate(plain) if ids is None}, truncate)
            return [
                self._fit(next(others) if ids is None else [*self._prefix, *ids, *self._suffix], i, truncate)
                for i, ids in enumerate(plain)
            ]
        except TypeError:
            _refuse_surrogates(texts)
            raise

    def _encode_others(self, texts: Mapping[int, str], truncate: Truncate) -> Iterator[Sequence[int]]:
        """The ids of each, special tokens included and not yet cut; ``texts`` are keyed by their place in the request."""
        for group in in_groups(list(texts.items()), GROUP_CHARACTERS):
            index, text = group[0]
            if len(text) > GROUP_CHARACTERS:
                yield self._encode_long(text, index, truncate)
            else:
                yield from (encoding.ids for encoding in self._tokenizer.encode_batch_fast([text for _, text in group]))

    def _encode_long(self, text: str, index: int, truncate: Truncate) -> Sequence[int]:
        """Slice by slice from the side that is kept, as far as the limit; "none" counts to the end for its message."""
        bounds = slice_bounds(text, GROUP_CHARACTERS)
        kept: list[int] = []
        count = 0
        for start, end in reversed(bounds) if truncate == "start" else bounds:
            # One alone by ``encode`` would hold Python's lock, and so the event loop, until it is done.
            (encoding,) = self._tokenizer.encode_batch_fast([text[start:end]], add_special_tokens=False)
            ids = encoding.ids
            count += len(ids)
            if len(kept) <= self.max_tokens:
                kept = [*ids, *kept] if truncate == "start" else [*kept, *ids]
            elif truncate != "none":
                break
        special = len(self._prefix) + len(self._suffix)
        if truncate == "none" and count + special > self.max_tokens:
            raise ContextLengthExceeded(index, count + special, self.max_tokens)
        return [*self._prefix, *kept, *self._suffix]

    def check_ids(self, ids: Sequence[int], index: int, truncate: Truncate) -> TokenizedInput:
        """Ids used as given, special tokens being the caller's affair. ``index`` is the input's place in the request."""
        if not ids:
            raise InvalidRequest(f"input[{index}]: is empty", param="input")
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise self._foreign_id(ids, index)
        return self._fit(ids, index, truncate)

    def _fit(self, ids: Sequence[int], index: int, truncate: Truncate) -> TokenizedInput:
        if not ids:
            raise InvalidRequest(f"input[{index}]: holds no tokens", param="input")
        too_many = len(ids) - self.max_tokens
        if too_many <= 0:
            return TokenizedInput(np.array(ids, np.int32), truncated=False)
        if truncate == "none":
            raise ContextLengthExceeded(index, len(ids), self.max_tokens)
        prefix, text, suffix = self._split(ids)
        text = text[too_many:] if truncate == "start" else text[:-too_many]
        return TokenizedInput(np.array([*prefix, *text, *suffix], np.int32), truncated=True)

    def _split(self, ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Special tokens at both ends, which a cut must keep, and what is between; ids from callers may have none."""
        start = len(self._prefix) if tuple(ids[: len(self._prefix)]) == self._prefix else 0
        stop = len(ids) - (len(self._suffix) if tuple(ids[len(ids) - len(self._suffix) :]) == self._suffix else 0)
        return ids[:start], ids[start:stop], ids[stop:]

    def _foreign_id(self, ids: Sequence[int], index: int) -> InvalidRequest:
        place, token = next((i, token) for i, token in enumerate(ids) if not 0 <= token < self._vocab_size)
        message = f"input[{index}][{place}]: token id {token} is outside this model's vocabulary of {self._vocab_size}"
        if token >= self._vocab_size:
            message += (
                "; these look like another tokenizer's ids, such as OpenAI's: send text instead "
                "(in LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
            )
        return InvalidRequest(message, param="input")


def in_groups(texts: Sequence[tuple[int, str]], characters: int) -> Iterator[Sequence[tuple[int, str]]]:
    """Neighbouring texts of together at most ``characters``; a longer text is a group of its own."""
    start = total = 0
    for i, (_, text) in enumerate(texts):
        if i > start and total + len(text) > characters:
            yield texts[start:i]
            start, total = i, 0
        total += len(text)
    if start < len(texts):
        yield texts[start:]


def load_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """From ``tokenizer.json``, else ``vocab.txt``. Raises ``ModelError`` naming the file that is wrong or missing."""
    whole, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
    settings = read_optional_object(folder / "tokenizer_config.json")
    source = whole if whole.exists() else vocabulary
    if not source.exists():
        raise ModelError(f"{folder}: there is neither tokenizer.json nor vocab.txt")
    try:
        if source == whole:
            tokenizer = tokenizers.Tokenizer.from_file(str(whole))
        else:
            tokenizer = _bert_tokenizer(models.WordPiece.read_file(str(vocabulary)), settings)
    except Exception as error:  # tokenizers raises nothing more specific
        raise ModelError(f"{source}: not a usable tokenizer: {error}") from error
    if settings.get("tokenizer_class") in BERT_CLASSES and isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        # transformers lets tokenizer_config.json decide these, whatever tokenizer.json says.
        tokenizer.normalizer = _bert_normalizer(settings)
    if read_optional_object(folder / "sentence_bert_config.json").get("do_lower_case"):
        # sentence-transformers' own wish, which comes before what the tokenizer does.
        rest = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _bert_tokenizer(vocabulary: Mapping[str, int], settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    special = {key: _token_text(settings.get(key, default)) for key, default in SPECIAL_TOKENS.items()}
    cls, sep = special["cls_token"], special["sep_token"]
    for token in (special["unk_token"], cls, sep):
        if token not in vocabulary:
            raise ValueError(f"the token {token} is missing")
    tokenizer = tokenizers.Tokenizer(models.WordPiece(dict(vocabulary), unk_token=special["unk_token"]))
    tokenizer.add_special_tokens([token for token in special.values() if token in vocabulary])
    tokenizer.normalizer = _bert_normalizer(settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((sep, vocabulary[sep]), (cls, vocabulary[cls]))
    return tokenizer


def _bert_normalizer(settings: Mapping[str, Any]) -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )


def _token_text(token: str | Mapping[str, Any]) -> str:
    """A special token is written as text, or as an object with its text under ``content``."""
    return token if isinstance(token, str) else str(token["content"])


def _special_ids(tokenizer: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the post-processor puts before and after a text: [CLS] and [SEP] in BERT, read off a one-letter text."""
    probe = tokenizer.encode("a")
    text = [i for i, is_special in enumerate(probe.special_tokens_mask) if not is_special]
    return tuple(probe.ids[: text[0]]), tuple(probe.ids[text[-1] + 1 :])


def _refuse_surrogates(texts: Sequence[str]) -> None:
    for i, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"input[{i}]: is not valid Unicode: half of a surrogate pair at character {error.start}", param="input"
            ) from None
