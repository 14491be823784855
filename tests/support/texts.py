"""The texts that every engine must encode like the reference: each length, each oddity, and mixed batches of them."""

from __future__ import annotations

import numpy as np

# A Chinese character is one token of every BERT vocabulary, known or [UNK], so a text's length can be chosen.
COMMON = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方"
)
# Real sentences of different meaning.
SENTENCES = (
    "北京是中华人民共和国的首都。",
    "今天的天气非常好，适合出去散步。",
    "机器学习模型需要大量的训练数据。",
    "The quick brown fox jumps over the lazy dog.",
    "How do I reset my password?",
    "这家餐厅的川菜很正宗，就是有点辣。",
    "Kubernetes schedules containers across a cluster of machines.",
    "他昨天晚上看了一部关于宇宙的纪录片。",
    "股票市场今日大幅下跌，投资者损失惨重。",
    "A vector database stores embeddings and finds the nearest ones.",
    "请问从这里到火车站怎么走？",
    "春眠不觉晓，处处闻啼鸟。",
)
SHARED_PREFIX = "向量数据库把文本变成数字之后存起来，查询的时候再比较它们之间的距离，这样就能找到意思相近的内容。" * 4
ODDITIES = {
    "one space": " ",
    "many spaces": " \t \n   ",
    "one character": "好",
    "one letter": "x",
    "emoji": "👍🎉 很好 👩‍👩‍👧‍👦 🇨🇳",
    "only emoji": "😀😃😄",
    "control characters": "控制\x00字\x07符\x1b[31m\u200b零宽\ufeff字节序",
    "literal special tokens": "请忽略 [CLS] 和 [SEP] 以及 [PAD] [MASK] [UNK]",
    "only a literal [CLS]": "[CLS]",
    "traditional characters": "臺灣繁體中文：機器學習與自然語言處理，憂鬱的烏龜。",
    "rare characters": "龘靐齉㐀㐁𠀀𠮷𪚥 彧翀喆",
    "accents and capitals": "Café ÉCOLE naïve Ünïcödé İstanbul ß ﬁ ǅ",
    "full-width": "ＡＢＣ１２３！？（全角）",
    "right to left": "שלום עולم مرحبا",
    "combining marks": "e\u0301 a\u0308 ก็ नमस्ते",
    "mixed languages": "用 OpenAI SDK 调用 /v1/embeddings 接口，返回 1024 维 float32 向量。",
    "numbers and punctuation": "3.14159,2.71828;1e-12%%##@@!!——……《》",
    "a word beyond the limit of 100 characters": "a" * 101 + " 结束",
    "a web address": "https://example.com/a/very/long/path?query=值&x=1#fragment",
}


def of_tokens(count: int, seed: int = 0) -> str:
    """A text of ``count`` tokens, [CLS] and [SEP] included; from 3 on."""
    rng = np.random.default_rng([seed, count])
    return "".join(rng.choice(list(COMMON), count - 2))


def all_different(count: int, characters: int) -> list[str]:
    """Texts for a request that is to take its time: equal ones would be encoded once."""
    first = ord("一")
    return [chr(first + i // 100) + chr(first + i % 100) + "很" * (characters - 2) for i in range(count)]


def of_all_lengths(limit: int) -> list[str]:
    """Texts of 3 to ``limit`` tokens: all short ones, then in steps, and what lies around the limit and powers of two."""
    counts = {*range(3, 24), *range(24, limit, 29), 31, 32, 33, 63, 64, 65, 127, 128, 129, limit - 1, limit}
    return [of_tokens(count) for count in sorted(counts) if count <= limit]


def over_long(limit: int) -> list[str]:
    """Texts that must be cut to ``limit`` tokens, by one token and by many."""
    return [of_tokens(limit + 1), of_tokens(limit + 2), of_tokens(3 * limit), "长文本 long text " * limit]


def sharing_a_prefix() -> list[str]:
    """Long texts that differ only at their end, and one that is the beginning of the others."""
    return [SHARED_PREFIX, *(SHARED_PREFIX + sentence for sentence in SENTENCES[:6])]


def corpus(limit: int) -> list[str]:
    return [*SENTENCES, *ODDITIES.values(), *of_all_lengths(limit), *over_long(limit), *sharing_a_prefix()]


def mixed_batch(size: int, limit: int, seed: int = 0) -> list[str]:
    """``size`` texts in random order: the corpus, filled up with random ones, most of them short."""
    rng = np.random.default_rng(seed)
    counts = np.minimum(3 + rng.geometric(1 / 40, size), limit + 8)
    fill = [of_tokens(int(count), seed + i) for i, count in enumerate(counts)]
    texts = [*corpus(limit), *fill][:size]
    return [texts[i] for i in rng.permutation(size)]
