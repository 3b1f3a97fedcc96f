"""Objectives on topics: words that belong together, and texts under a newspaper's headings."""

from __future__ import annotations

import random

from . import wording, world
from .examples import Blank, Drawing
from .forms import BRACKETS, HEADINGS, framed
from .pools import read_sections


class Newspaper(Drawing):
    """What a text is about."""

    def topics(self, rng: random.Random) -> Blank:
        """Some words of one topic, then groups of words: which group do they belong to?"""
        sections = read_sections("words")
        english = rng.random() < 0.4
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

    def headings(self, rng: random.Random) -> Blank:
        """1–8 short texts of a newspaper under their sections' headings; one or all are blank."""
        language, topics, sections = self._sections(rng, rng.randint(1, 8))
        left, right = rng.choice(HEADINGS)
        gone = range(len(topics)) if rng.random() < 0.85 else [rng.randrange(len(topics))]
        above = len(topics) > 1 or rng.random() < 0.5
        part_a: list[int] = []
        part_b: list[int] = []
        for index, topic in enumerate(topics):
            body = self.ids(self._news(sections[f"pretrain.{topic}"], language, rng))
            heading, inside = self.told(f"{left}{wording.OPEN}{topic}{wording.CLOSE}{right}")
            if index in gone:
                start, end = min(inside), max(inside) + 1
                part_b += ([self.sop] if part_b else []) + heading[start:end]
                heading[start:end] = [self.mask]
            part_a += self.ids("\n") if part_a else []
            part_a += heading + body if above else body + heading
        return Blank(part_a, part_b, masked=True)

    def filing(self, rng: random.Random) -> Blank:
        """Short texts, one after the other: the section of each, in the brackets asked for."""
        language, topics, sections = self._sections(rng, rng.randint(1, 4))
        left, right = rng.choice(BRACKETS)
        news = [self._news(sections[f"pretrain.{topic}"], language, rng) for topic in topics]
        texts = [framed(news[0], f"{left}…{right}", language, rng), *(f"\n{n}\n" for n in news[1:])]
        return self._turns(texts, [f"{left}{topic}{right}" for topic in topics])

    def _sections(
        self, rng: random.Random, count: int
    ) -> tuple[str, list[str], dict[str, tuple[str, ...]]]:
        """A language, `count` topics of it and its newspaper's sections."""
        language = "zh" if rng.random() < 0.4 else "en"
        sections = read_sections(f"{language}_topics")
        names = [s.removeprefix("pretrain.") for s in sections if s.startswith("pretrain.")]
        return language, rng.choices(names, k=count), sections

    def _news(self, lines: tuple[str, ...], language: str, rng: random.Random) -> str:
        """One or two sentences of one topic, scenery beside them at times."""
        drawn = rng.sample(lines, rng.choice((1, 1, 2)))
        texts = [world.fill(line, None, language, self.split, rng) for line in drawn]
        if rng.random() < 0.25:
            texts.insert(rng.randint(0, len(texts)), world.noise(language, self.split, rng))
        text = (" " if language == "en" else "").join(texts)
        return wording.plain(self._damaged(text, language, rng))
