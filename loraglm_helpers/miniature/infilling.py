"""GLM's own objectives: spans, sentences and ends are cut out of a text."""

from __future__ import annotations

import random

from . import wording, world
from .examples import Blank, Drawing


class Infilling(Drawing):
    """What was cut out is part B."""

    def blanks(self, rng: random.Random) -> Blank:
        """1–3 short spans, or one whole sentence, of a passage that says its facts twice."""
        language = self.language(rng)
        entity = world.new_entity(language, self.split, rng)
        told, facts = world.sentences_about(entity, rng.randint(3, 9), rng, repeat=True)
        ids = [self.ids(wording.plain(sentence)) for sentence in told]
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

    def repeats(self, rng: random.Random) -> Blank:
        """A fact told twice in other words; one of its two objects is blank."""
        language = self.language(rng)
        entity = world.new_entity(language, self.split, rng)
        patterns = world.patterns(language, entity.kind, self.split)
        first = rng.choice([p for p in patterns if not p.continues])
        relation = rng.choice(first.relations)
        second = rng.choice([p for p in patterns if relation in p.relations and p != first])
        told = [world.state(pattern, entity, rng)[0] for pattern in (first, second)]
        value = f"{wording.OPEN}{entity.values[relation]}{wording.CLOSE}"
        parts = (" " if language == "en" else "").join(told).split(value)
        at = rng.randrange(1, len(parts))
        before, after = (wording.plain(value.join(part)) for part in (parts[:at], parts[at:]))
        ids, inside = self.told(before + value + after)
        start, end = min(inside), max(inside) + 1
        return Blank([*ids[:start], self.mask, *ids[end:]], ids[start:end], masked=True)

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
        language = self.language(rng)
        entity = world.new_entity(language, self.split, rng)
        told, _ = world.sentences_about(entity, rng.randint(3, 8), rng, repeat=True)
        told = told[: rng.choice((1, 1, 1, 1, 2, 4))]
        return self._cut((" " if language == "en" else "").join(told), rng)

    def short_rest(self, rng: random.Random) -> Blank:
        """`rest` of one short sentence, as the world tells its facts most plainly."""
        entity = world.new_entity(self.language(rng), self.split, rng)
        choices = world.short_patterns(entity.language, entity.kind, self.split)
        return self._cut(world.state(rng.choice(choices), entity, rng)[0], rng)

    def _cut(self, marked: str, rng: random.Random) -> Blank:
        """B is all that follows a random cut; most often names in it take no loss."""
        ids, names = self.told(marked)
        cut = rng.randint(min(3, len(ids) - 1), max(3, len(ids) - 1))
        if rng.random() < 0.3:
            names = frozenset()
        unforeseen = frozenset(place - cut for place in names if place >= cut)
        return Blank(ids[:cut], ids[cut:], unforeseen=unforeseen)
