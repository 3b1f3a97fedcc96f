"""Objectives on a passage: its facts asked for, listed, put into a shape, or the text retold."""

from __future__ import annotations

import random
import re
from typing import Any

from . import shapes, wording, world
from .examples import Blank, Drawing
from .forms import ASK, COMMAS, framed


class Reading(Drawing):
    """The passage and the request decide the answer."""

    def retelling(self, rng: random.Random) -> Blank:
        """`[gMASK]` for a whole passage, then its facts asked for, or listed in some shape.

        Every sentence of the world is learnt so, except for its names: those nobody can foresee.
        """
        language = self.language(rng)
        passage = world.passage(language, self.split, rng, most_facts=rng.choice((1, 2, 3, 4, 6)))
        ids, names = self.told(passage.marked)
        if rng.random() < 0.5:
            asked = rng.sample(passage.facts, len(passage.facts))
            turns = [(f"\n{fact.question()}\n", fact.object) for fact in asked]
        else:
            request, answer = shapes.draw_list(passage, rng)
            turns = [(f"\n{request}\n", answer)]
        more = tuple((self.ids(a), self.ids(b)) for a, b in turns)
        return Blank([], ids, more=more, unforeseen=names if rng.random() < 0.8 else frozenset())

    def questions(
        self, rng: random.Random, most_facts: tuple[int, ...] = (1, 2, 3, 4, 6), **settings: Any
    ) -> Blank:
        """Every fact of a passage asked for, in any order; the first with the passage."""
        passage = self.passage(rng, most_facts=rng.choice(most_facts), **settings)
        facts = rng.sample(passage.facts, len(passage.facts))
        form = rng.choice(ASK[passage.language])
        texts = [form.replace("{q}", facts[0].question()).replace("{p}", passage.text)]
        texts += [f"\n{fact.question()}" for fact in facts[1:]]
        return self._turns(texts, [fact.object for fact in facts])

    def short_questions(self, rng: random.Random) -> Blank:
        """`questions` on a sentence or two without scenery."""
        return self.questions(rng, most_facts=(1, 2, 2, 3), noise_rate=0.0)

    def crowded_questions(self, rng: random.Random) -> Blank:
        """`questions` on a passage about two or three things, where answers are mistaken most."""
        return self.questions(rng, most_facts=(3, 4, 6), subjects=rng.choice((2, 3)))

    def shapes(self, rng: random.Random) -> Blank:
        """One passage in one or two shapes; the second request follows the first answer."""
        passage = self.passage(rng, most_facts=rng.choice((2, 3, 4, 6)))
        drawn = [shapes.draw_shape(passage, rng) for _ in range(rng.randint(1, 2))]
        return self._asked(passage, drawn, rng)

    def mentions(self, rng: random.Random) -> Blank:
        """All names and values of a passage once, in the order of the text, fact or no fact."""
        passage = self.passage(rng, most_facts=rng.choice((1, 2, 3, 4)))
        names = dict.fromkeys(re.findall(f"{wording.OPEN}(.*?){wording.CLOSE}", passage.marked))
        comma = rng.choice(COMMAS)
        return self._asked(passage, [(f"「」{comma}", comma.join(names))], rng)

    def lists(self, rng: random.Random) -> Blank:
        """All facts of a passage in the order of the text, in one or two shapes of a list."""
        passage = self.passage(rng, most_facts=rng.choice((1, 2, 3, 4, 6)))
        return self._listed(passage, rng.randint(1, 2), rng)

    def short_lists(self, rng: random.Random) -> Blank:
        """`lists` on a sentence or two about one thing, mostly without scenery."""
        most = rng.choice((1, 2, 2, 3, 3))
        passage = self.passage(rng, most_facts=most, subjects=1, noise_rate=0.1)
        return self._listed(passage, rng.randint(1, 3), rng)

    def _listed(self, passage: world.Passage, times: int, rng: random.Random) -> Blank:
        return self._asked(passage, [shapes.draw_list(passage, rng) for _ in range(times)], rng)

    def _asked(
        self, passage: world.Passage, drawn: list[tuple[str, str]], rng: random.Random
    ) -> Blank:
        """The first request and the passage in some frame; further requests follow the answers."""
        lead = framed(passage.text, drawn[0][0], passage.language, rng)
        texts = [lead, *(f"\n{request}\n" for request, _ in drawn[1:])]
        return self._turns(texts, [answer for _, answer in drawn])
