"""The miniature's SentencePiece model: ChatGLM2's settings, single Chinese characters as pieces.

ChatGLM2's own vocabulary merges Chinese words. Here every character stays a piece of its own, so
that a name is copied character by character; only Latin text, digits' neighbours and JSON
punctuation are merged by BPE. Characters outside the vocabulary become their UTF-8 bytes.
"""

from __future__ import annotations

import io
import random
from pathlib import Path

import sentencepiece

from ..whole_file import whole_file
from . import world
from .pools import FOLDER
from .shapes import draw_shape

MERGES = 1100


def _characters() -> list[str]:
    """All characters above ASCII in the pattern files, in code point order."""
    text = "".join(p.read_text(encoding="utf-8") for p in sorted(FOLDER.glob("*.txt")))
    return sorted({c for c in text if ord(c) > 127})


def _latin_corpus(passages: int, seed: int) -> list[str]:
    """English passages and shapes, and the JSON punctuation of the tasks, to learn merges from."""
    rng = random.Random(seed)
    lines = []
    for _ in range(passages):
        passage = world.passage("en", "pretrain", rng, noise_rate=0.0)
        lines += [passage.text, " ".join(draw_shape(passage, rng))]
        names = (f'{{"predicate": "{f.predicate}", "subject": "' for f in passage.facts)
        lines.append("".join(names))
        lines.append('", "object": "' + '"}, {"predicate": "' + " Instruction: Input: Answer: ")
    return [
        "".join(c for c in part if ord(c) < 128) for line in lines for part in line.splitlines()
    ]


def train_tokenizer(directory: str | Path, passages: int = 6000, seed: int = 0) -> Path:
    """Write `directory`/tokenizer.model: pad = unk 0, <s> 1, </s> 2, bytes 3–258, then pieces."""
    characters = _characters()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_latin_corpus(passages, seed)),
        model_writer=model,
        model_type="bpe",
        vocab_size=259 + 95 + len(characters) + MERGES,
        required_chars="".join(characters),
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    path = Path(directory) / "tokenizer.model"
    with whole_file(path) as draft:
        draft.write_bytes(model.getvalue())
    return path
