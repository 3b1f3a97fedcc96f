"""Objectives without meaning: what is to be carried, found again, or told in order is random."""

from __future__ import annotations

import random

from .examples import Blank, Drawing
from .forms import BRACKETS, COMMAS


class RandomPieces(Drawing):
    """Part A alone decides part B, and nothing can be learnt by heart."""

    def copying(self, rng: random.Random, longest: int = 20) -> Blank:
        """Random pieces and the same again, of the first `alphabet` pieces of a fixed shuffle."""
        word = rng.choices(self.pieces[: self.alphabet], k=rng.randint(3, longest))
        return Blank([*word, self.mask], word, masked=True)

    def induction(self, rng: random.Random) -> Blank:
        """Random pieces, then one or two of them again: what followed them?

        Unlike `copying`, no fixed distance leads to the answer: the pieces must be found again.
        """
        word = rng.sample(self.pieces[: self.alphabet], rng.randint(8, 32))
        turns = []
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(len(word) - 4)
            middle = start + rng.randint(1, 2)
            end = middle + rng.randint(2, 5)
            turns.append(([self.mask, *word[start:middle]], word[middle:end]))
        return Blank(word + turns[0][0], turns[0][1], masked=True, more=tuple(turns[1:]))

    def marked(self, rng: random.Random) -> Blank:
        """Random pieces, some of them in brackets: these again, in order, with a comma between.

        After each item the next one must be found: what every list asks for.
        """
        left, right = rng.choice(BRACKETS)
        comma = self.ids(rng.choice(COMMAS))
        part_a: list[int] = []
        part_b: list[int] = []
        for _ in range(rng.randint(1, 6)):
            part_a += rng.choices(self.pieces, k=rng.randint(0, 8))
            item = rng.choices(self.pieces, k=rng.randint(1, 4))
            part_a += [*self.ids(left), *item, *self.ids(right)]
            part_b += (comma if part_b else []) + item
        part_a += rng.choices(self.pieces, k=rng.randint(0, 8))
        return Blank(part_a + self.ids(f"\n{left}{right}") + comma + self.ids("\n"), part_b)
