"""GLM's pre-training objective on the invented world: part A is read, part B is written.

Every example has a part A (seen) and a part B (the only tokens with a loss):

    copying        x [MASK]                             -> x            (random pieces)
    induction      random pieces + one or two of them   -> what followed
    questions      passage + question                   -> answer
    retelling      nothing                              -> a passage, then its facts
    blanks         passage with [MASK] or [sMASK]       -> the blanks' text, `sop` between them
    rest           the beginning of a text, [gMASK]     -> its end
    shapes         passage + a shape                    -> the facts in that shape
    lists          passage + the shape of a list        -> all facts in the text's order
    topics         words of one topic + groups          -> the group they belong to
    headings       texts under headings, some blank     -> these headings

in one of two layouts: `glm` puts the mask and `sop` between A and B, `chatglm2` puts `[gMASK] sop`
in front of A. A blank is drawn where the rest of A decides it whenever that is possible.
Source: Du et al. 2022, "GLM: General Language Model Pretraining with Autoregressive Blank
Infilling", sections 2.1 and 2.2.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..sequences import Example
from . import shapes, world
from .forms import ASK, HEADINGS
from .pools import read_sections

IGNORED = -100


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


class Objectives:
    """Draws training examples for one tokenizer; every method is a pure function of `rng`."""

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
            if character in (world.OPEN, world.CLOSE):
                inside = character == world.OPEN
            else:
                within.append(inside)
        found = self.tokenizer(
            world.plain(marked), add_special_tokens=False, return_offsets_mapping=True
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

    # --- the objectives ---

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

    def passage(self, rng: random.Random, **kwargs: Any) -> world.Passage:
        """A passage of the split; while training, half of them lost up to a quarter of wording."""
        language = "zh" if rng.random() < 0.75 else "en"
        passage = world.passage(language, self.split, rng, **kwargs)
        return replace(passage, marked=self._damaged(passage.marked, language, rng))

    def _damaged(self, marked: str, language: str, rng: random.Random) -> str:
        if self.split != "pretrain" or rng.random() < 0.5:
            return marked
        return world.damaged(marked, language, rng.uniform(0.0, 0.25), rng)

    def retelling(self, rng: random.Random) -> Blank:
        """`[gMASK]` for a whole passage, then its facts asked for, or listed in some shape.

        Every sentence of the world is learnt so, except for its names: those nobody can foresee.
        """
        language = "zh" if rng.random() < 0.75 else "en"
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

    def short_questions(self, rng: random.Random) -> Blank:
        """`questions` on a sentence or two without scenery."""
        return self.questions(rng, most_facts=(1, 2, 2, 3), noise_rate=0.0)

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

    def _turns(self, texts: list[str], answers: list[str]) -> Blank:
        pairs = [(self.ids(t), self.ids(a)) for t, a in zip(texts, answers, strict=True)]
        return Blank(*pairs[0], more=tuple(pairs[1:]))

    def blanks(self, rng: random.Random) -> Blank:
        """1–3 short spans, or one whole sentence, of a passage that says its facts twice."""
        language = "zh" if rng.random() < 0.75 else "en"
        entity = world.new_entity(language, self.split, rng)
        told, facts = world.sentences_about(entity, rng.randint(3, 9), rng, repeat=True)
        ids = [self.ids(world.plain(sentence)) for sentence in told]
        if rng.random() < 0.15:
            gone = rng.randrange(len(ids))
            before, after = sum(ids[:gone], []), sum(ids[gone + 1 :], [])
            return Blank([*before, self.smask, *after], ids[gone], masked=True)
        text = sum(ids, [])
        twice = [f.object for f in facts] + [entity.name]
        spans = self._spans(text, twice, rng)
        part_a, part_b, at = [], [], 0
        for start, end in spans:
            part_a += [*text[at:start], self.mask]
            part_b += ([self.sop] if part_b else []) + text[start:end]
            at = end
        return Blank(part_a + text[at:], part_b, masked=True)

    def _spans(
        self, text: list[int], names: list[str], rng: random.Random
    ) -> list[tuple[int, int]]:
        """Token spans to blank: occurrences of names said elsewhere, else short random spans."""
        spans: list[tuple[int, int]] = []
        rng.shuffle(names)
        for name in names[: rng.randint(1, 3)]:
            wanted = [i for i in self.ids(name) if self.tokenizer.convert_ids_to_tokens(i) != "▁"]
            found = [
                (i, i + len(wanted))
                for i in range(len(text) - len(wanted) + 1)
                if text[i : i + len(wanted)] == wanted
            ]
            if len(found) > 1:
                spans.append(rng.choice(found[1:]) if rng.random() < 0.8 else found[0])
        if not spans or rng.random() < 0.3:
            start = rng.randrange(max(1, len(text) - 4))
            spans.append((start, min(len(text), start + rng.randint(1, 4))))
        spans.sort()
        kept = spans[:1]
        for span in spans[1:]:
            if span[0] > kept[-1][1]:
                kept.append(span)
        return kept

    def rest(self, rng: random.Random) -> Blank:
        """A sentence or several about one thing, cut anywhere; B is all that follows the cut."""
        language = "zh" if rng.random() < 0.75 else "en"
        entity = world.new_entity(language, self.split, rng)
        told, _ = world.sentences_about(entity, rng.randint(3, 8), rng, repeat=True)
        told = told[: rng.choice((1, 1, 1, 1, 2, 4))]
        ids, names = self.told((" " if language == "en" else "").join(told))
        cut = rng.randint(min(3, len(ids) - 1), max(3, len(ids) - 1))
        if rng.random() < 0.3:
            names = frozenset()
        unforeseen = frozenset(place - cut for place in names if place >= cut)
        return Blank(ids[:cut], ids[cut:], unforeseen=unforeseen)

    def shapes(self, rng: random.Random) -> Blank:
        """One passage in one or two shapes; the second request follows the first answer."""
        passage = self.passage(rng, most_facts=rng.choice((2, 3, 4, 6)))
        drawn = [shapes.draw_shape(passage, rng) for _ in range(rng.randint(1, 2))]
        first = rng.random() < 0.3
        lead = (drawn[0][0], passage.text) if first else (passage.text, drawn[0][0])
        texts = ["\n".join((*lead, "")), *(f"\n{request}\n" for request, _ in drawn[1:])]
        return self._turns(texts, [answer for _, answer in drawn])

    def topics(self, rng: random.Random) -> Blank:
        """Some words of one topic, then groups of words: which group do they belong to?"""
        sections = read_sections("words")
        english = rng.random() < 0.25
        topics = [topic for topic in sections if topic.isascii() == english]
        chosen = rng.sample(topics, rng.randint(2, 4))
        words = {t: [w for line in sections[t] for w in line.split(",")] for t in chosen}
        seen = rng.sample(words[chosen[0]], rng.randint(2, 5))
        rest = [w for w in words[chosen[0]] if w not in seen]
        groups = [rng.sample(rest, 2)] + [rng.sample(words[t], 2) for t in chosen[1:]]
        answer = groups[0]
        rng.shuffle(groups)
        listed = " | ".join("，".join(g) for g in groups)
        return Blank(self.ids(f"{'，'.join(seen)} ∈ {listed}\n"), self.ids("，".join(answer)))

    def lists(self, rng: random.Random) -> Blank:
        """All facts of a passage in the order of the text, in one or two shapes of a list."""
        passage = self.passage(rng, most_facts=rng.choice((1, 2, 3, 4, 6)))
        drawn = [shapes.draw_list(passage, rng) for _ in range(rng.randint(1, 2))]
        texts = [f"{passage.text}\n{drawn[0][0]}\n", *(f"\n{ask}\n" for ask, _ in drawn[1:])]
        return self._turns(texts, [answer for _, answer in drawn])

    def headings(self, rng: random.Random) -> Blank:
        """1–8 short texts of a newspaper under their sections' headings; one or all are blank."""
        language = "zh" if rng.random() < 0.7 else "en"
        sections = read_sections(f"{language}_topics")
        names = [s.removeprefix("pretrain.") for s in sections if s.startswith("pretrain.")]
        left, right = (self.ids(part) for part in rng.choice(HEADINGS))
        topics = rng.choices(names, k=rng.randint(1, 8))
        gone = range(len(topics)) if rng.random() < 0.85 else [rng.randrange(len(topics))]
        above = len(topics) > 1 or rng.random() < 0.5
        part_a: list[int] = []
        part_b: list[int] = []
        for index, topic in enumerate(topics):
            body = self.ids(self._news(sections[f"pretrain.{topic}"], language, rng))
            heading = [*left, *([self.mask] if index in gone else self.ids(topic)), *right]
            part_a += self.ids("\n") if part_a else []
            part_a += heading + body if above else body + heading
            if index in gone:
                part_b += ([self.sop] if part_b else []) + self.ids(topic)
        return Blank(part_a, part_b, masked=True)

    def _news(self, lines: tuple[str, ...], language: str, rng: random.Random) -> str:
        """One or two sentences of one topic, scenery beside them at times."""
        drawn = rng.sample(lines, rng.choice((1, 1, 2)))
        texts = [world.fill(line, None, language, self.split, rng) for line in drawn]
        if rng.random() < 0.25:
            texts.insert(rng.randint(0, len(texts)), world.noise(language, self.split, rng))
        text = (" " if language == "en" else "").join(texts)
        return world.plain(self._damaged(text, language, rng))

    def draw(self, mixture: dict[str, float], rng: random.Random) -> Example:
        """One example of an objective drawn by the weights of `mixture`, in a random layout."""
        name = rng.choices(list(mixture), list(mixture.values()))[0]
        objective: Callable[[random.Random], Blank] = getattr(self, name)
        return self.assemble(objective(rng), "glm" if rng.random() < 0.5 else "chatglm2")
