"""Lengths of rows as training would see them, tokenised many at a time."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from .data import Row

CHUNK = 16384  # rows tokenised together


class Lengths:
    """Source and target lengths of rows, in their order: 8 bytes a row.

    Without a tokenizer they are characters. With one they are tokens, special ones included, and
    before any truncation: ``len(build_prompt(...))`` and the target with its eos. Of a dialogue,
    each of whose answers is learnt, they are the longest prompt and the longest target.
    """

    def __init__(self, tokenizer: Any = None, layout: str = "glm") -> None:
        self.tokenizer, self.layout = tokenizer, layout
        self.unit = "characters" if tokenizer is None else "tokens"
        self.sources, self.targets = array("i"), array("i")
        self.waiting: list[Row | tuple[int, int]] = []  # dialogues are measured already
        self.frame = (0, 0) if tokenizer is None else _frame(tokenizer, layout)

    def add(self, row: Row) -> None:
        """Note a row; ValueError for a dialogue that the layout cannot hold."""
        if self.tokenizer is None:
            turns = (row.messages or ())[:-1]
            self.sources.append(len(row.context) + sum(len(turn["content"]) for turn in turns))
            self.targets.append(len(row.target))
            return
        self.waiting.append(self._dialogue(row) if row.messages else row)
        if len(self.waiting) == CHUNK:
            self._tokenise()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Source and target lengths of every row so far, int32."""
        if self.waiting:
            self._tokenise()
        return np.array(self.sources, np.int32), np.array(self.targets, np.int32)

    def _tokenise(self) -> None:
        from .tokenizer import encode_many

        waiting, self.waiting = self.waiting, []
        plain = [row for row in waiting if isinstance(row, Row)]
        texts = [row.context for row in plain] + [row.target for row in plain]
        counts = [len(ids) for ids in encode_many(self.tokenizer, texts)]
        pairs = zip(counts[: len(plain)], counts[len(plain) :], strict=True)
        for row in waiting:
            source, target = self._framed(next(pairs)) if isinstance(row, Row) else row
            self.sources.append(source)
            self.targets.append(target)

    def _framed(self, counts: tuple[int, int]) -> tuple[int, int]:
        return counts[0] + self.frame[0], counts[1] + self.frame[1]

    def _dialogue(self, row: Row) -> tuple[int, int]:
        from .sequences import answered_turns, build_prompt, build_target

        contexts, answers = zip(*answered_turns(row), strict=True)
        prompts = (build_prompt(context, self.tokenizer, self.layout) for context in contexts)
        targets = (build_target(answer, self.tokenizer, self.layout) for answer in answers)
        return max(map(len, prompts)), max(map(len, targets))


def _frame(tokenizer: Any, layout: str) -> tuple[int, int]:
    """Tokens that a layout adds to a context and to a target: the same for every text."""
    from .chat_layouts import encode
    from .sequences import build_prompt, build_target

    alone = len(encode("?", tokenizer))
    prompt, target = build_prompt("?", tokenizer, layout), build_target("?", tokenizer, layout)
    return len(prompt) - alone, len(target) - alone
