"""Part A and part B, and how they become one row of ids with labels."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from ..sequences import IGNORED, Example
from . import wording, world

# Half of the further subjects can be taken for the first; of the sentences that can be quoted, a
# fifth is reported.
HARDER = {"same_kind": 0.5, "reports": 0.2}


@dataclass(frozen=True)
class Blank:
    """Part A and part B as ids; `masked` says that A holds its own [MASK] or [sMASK].

    `more` are further turns, each an A and a B of its own: one passage answers many questions.
    `unforeseen` are the places in B where nobody can know what comes: they take no loss.
    """

    part_a: list[int]
    part_b: list[int]
    masked: bool = False
    more: tuple[tuple[list[int], list[int]], ...] = ()
    unforeseen: frozenset[int] = frozenset()


class Drawing:
    """One tokenizer and one split of the world: what every objective draws its examples from."""

    def __init__(self, tokenizer: Any, split: str = "pretrain") -> None:
        self.tokenizer = tokenizer
        self.split = split
        names = ("[MASK]", "[gMASK]", "[sMASK]", "sop")
        self.mask, self.gmask, self.smask, self.sop = tokenizer.convert_tokens_to_ids(list(names))
        self.pieces = list(range(259, self.mask))  # neither special nor byte
        random.Random(0).shuffle(self.pieces)
        self.alphabet = len(self.pieces)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def told(self, marked: str) -> tuple[list[int], frozenset[int]]:
        """The ids of a marked text, and the places among them that belong to names and values."""
        within, inside = [], False
        for character in marked:
            if character in (wording.OPEN, wording.CLOSE):
                inside = character == wording.OPEN
            else:
                within.append(inside)
        found = self.tokenizer(
            wording.plain(marked), add_special_tokens=False, return_offsets_mapping=True
        )
        ends = [end for _, end in found["offset_mapping"]]
        return found["input_ids"], frozenset(i for i, end in enumerate(ends) if within[end - 1])

    def assemble(self, blank: Blank, layout: str) -> Example:
        """Part A, part B and eos in a layout; labels are -100 on everything but B and eos."""
        cue = [] if layout == "chatglm2" else [self.gmask, self.sop]
        ids = [self.gmask, self.sop] if layout == "chatglm2" else []
        labels = [IGNORED] * len(ids)
        for part_a, part_b in ((blank.part_a, blank.part_b), *blank.more):
            head = part_a + (cue[1:] if blank.masked else cue)
            tail = [*part_b, self.tokenizer.eos_token_id]
            ids += head + tail
            labels += [IGNORED] * len(head) + [IGNORED if i == self.sop else i for i in tail]
        first = len(blank.part_a) + (1 if blank.masked and cue else 2)
        for place in blank.unforeseen:
            labels[first + place] = IGNORED
        return Example(ids, labels)

    def language(self, rng: random.Random) -> str:
        """Chinese seven times in ten."""
        return "zh" if rng.random() < 0.7 else "en"

    def passage(self, rng: random.Random, **kwargs: Any) -> world.Passage:
        """A passage of the split; while training, it is made harder (`HARDER`), and a few lost
        up to a quarter of their wording.
        """
        language = self.language(rng)
        harder = HARDER if self.split == "pretrain" else {}
        passage = world.passage(language, self.split, rng, **kwargs, **harder)
        return replace(passage, marked=self._damaged(passage.marked, language, rng))

    def _damaged(self, marked: str, language: str, rng: random.Random) -> str:
        if self.split != "pretrain" or rng.random() < 0.85:
            return marked
        return wording.damaged(marked, language, rng.uniform(0.0, 0.25), rng)

    def _turns(self, texts: list[str], answers: list[str]) -> Blank:
        pairs = [(self.ids(t), self.ids(a)) for t, a in zip(texts, answers, strict=True)]
        return Blank(*pairs[0], more=tuple(pairs[1:]))
