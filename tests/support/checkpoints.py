"""Seeded random BERT checkpoints in the layout of the published ones: no weights can be downloaded in tests.

The usual initializer (0.02) gives all texts nearly the same vector, so that parity on it would prove nothing; these are
wider, and ``test_parity`` first asserts that different texts fall below a cosine of 0.95.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CJK_START, CJK_END = 0x4E00, 0x9FA6


@dataclass(frozen=True)
class Shape:
    """The keys of a BERT ``config.json``; the defaults make the tiny model of the tests."""

    vocab_size: int = 21128
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 512
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"


TINY = Shape()
# https://huggingface.co/BAAI/bge-large-zh-v1.5/blob/main/config.json
BGE_LARGE = Shape(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def vocabulary(size: int) -> list[str]:
    """BERT's Chinese layout: [PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103, then characters and ## pieces."""
    tokens = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ascii_characters = [chr(c) for c in range(0x21, 0x7F) if not chr(c).isupper()]
    tokens += ascii_characters
    tokens += ["##" + c for c in ascii_characters if c.isalnum()]
    tokens += list("，。！？、：；（）《》“”‘’—…·￥")
    tokens += [chr(c) for c in range(CJK_START, CJK_END)]
    return tokens[:size] + [f"[filler{i}]" for i in range(size - len(tokens))]


def bert_tokenizer(vocab_size: int) -> Tokenizer:
    vocab = {token: i for i, token in enumerate(vocabulary(vocab_size))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return tokenizer


def random_weights(shape: Shape, initializer_range: float, seed: int, prefix: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    hidden, inner = shape.hidden_size, shape.intermediate_size

    def normal(name: str, *size: int) -> None:
        weights[prefix + name] = rng.standard_normal(size, np.float32) * np.float32(initializer_range)

    def linear(name: str, rows: int, columns: int) -> None:
        normal(f"{name}.weight", rows, columns)
        normal(f"{name}.bias", rows)

    def norm(name: str) -> None:
        weights[f"{prefix}{name}.weight"] = 1 + rng.standard_normal(hidden).astype(np.float32) * np.float32(0.1)
        normal(f"{name}.bias", hidden)

    normal("embeddings.word_embeddings.weight", shape.vocab_size, hidden)
    normal("embeddings.position_embeddings.weight", shape.max_position_embeddings, hidden)
    normal("embeddings.token_type_embeddings.weight", shape.type_vocab_size, hidden)
    norm("embeddings.LayerNorm")
    for i in range(shape.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", inner, hidden)
        linear(f"{layer}.output.dense", hidden, inner)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", hidden, hidden)
    return weights


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def write_checkpoint(
    folder: Path, shape: Shape = TINY, *, pooling: str = "cls", initializer_range: float = 0.18, seed: int = 0
) -> Path:
    """Write a sentence-transformers folder of this shape; ``pooling`` is "cls" or "mean"."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "initializer_range": initializer_range,
        "pad_token_id": 0,
        "torch_dtype": "float32",
        **asdict(shape),
    }
    write_json(folder / "config.json", config)
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": shape.hidden_size,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": shape.max_position_embeddings, "do_lower_case": True})
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "model_max_length": shape.max_position_embeddings,
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
        },
    )
    bert_tokenizer(shape.vocab_size).save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(vocabulary(shape.vocab_size)) + "\n", encoding="utf-8")
    save_file(random_weights(shape, initializer_range, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
