"""Trains SentencePiece models of ChatGLM2's kind, small enough for a test."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

CORPUS = """年基准利率是百分之四点三五，从实际看，贷款的基本条件是什么？
小说《风的来信》由林一舟写成，一九八七年在海城出版，讲一个少年离家又回家的故事。
The film was written by Ann Lee, and it came out in 1987; the book came later, in 1992.
Instruction: 找出文中的三元组。 Input: 白石大学在青州。 Answer: [{"predicate": "所在地"}]
def add(a, b):    return a + b    # two numbers, one answer
这家公司的新产品卖一百二十元，上一代卖九十八元，大家都说值得。
What is the price of the new bicycle?  It is 120 yuan;  the old one was 98 yuan.
"""


def train_tokenizer(folder: Path, pieces: int = 500, **changes: object) -> Path:
    """Write ``folder/tokenizer.model`` with that many pieces and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "corpus.txt"
    text.write_text(CORPUS, encoding="utf-8")
    settings = {
        "model_type": "bpe",
        "normalization_rule_name": "identity",
        "add_dummy_prefix": True,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "character_coverage": 1.0,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=pieces,
        **(settings | changes),
    )
    return folder / "tokenizer.model"
