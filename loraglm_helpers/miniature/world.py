"""Passages of the invented world: sentence patterns filled with names, and the facts they state.

A pattern is a line of patterns/zh_film.txt and its like: `{S}` the subject, `{导演}` an object (a
fact), `{?person}` a name that makes no fact, `<directed|made>` one of these, drawn anew each time,
`+ ` in front a continuation that needs a subject named before it. The slots that were filled are
the facts: no second pass could disagree with the text. Texts are marked, see `wording`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from .names import NEW_NAMES, draw
from .pools import read_sections
from .schema import KINDS, RELATIONS, Relation
from .wording import CLOSE, OPEN, choices, chosen, plain, reportable, reported

# Whose sentence patterns a split takes, where it has none of its own.
WORDING = {"probe": "dev", NEW_NAMES: "pretrain"}
_SLOT = re.compile(r"\{([^}]+)\}")
_SUBJECT_FIRST = re.compile(r"(《|The |\")?\{S\}")


@dataclass(frozen=True)
class Pattern:
    """One sentence pattern; `relations` are its object slots in order of appearance.

    All alternatives of a choice have the same slots in the same order.
    """

    text: str
    relations: tuple[str, ...]
    continues: bool


@dataclass(frozen=True)
class Fact:
    """(predicate, subject, object) as stated, with the relation it instantiates."""

    predicate: str
    subject: str
    object: str
    relation: Relation

    def question(self) -> str:
        """The question to which this fact's object is the answer."""
        return self.relation.question.replace("{S}", self.subject)


@dataclass
class Entity:
    """One subject; an object is drawn once and kept, so that repeated sentences agree."""

    kind: str
    language: str
    split: str
    name: str
    values: dict[str, str] = field(default_factory=dict)

    def value(self, relation: str, rng: random.Random) -> str:
        if relation not in self.values:
            objects = RELATIONS[self.language, self.kind, relation].objects
            self.values[relation] = draw(objects, self.language, self.split, rng)
        return self.values[relation]


@dataclass(frozen=True)
class Passage:
    """A marked text, the facts it states in order of appearance, and its language."""

    marked: str
    facts: tuple[Fact, ...]
    language: str  # "zh" or "en"

    @property
    def text(self) -> str:
        return plain(self.marked)


@cache
def patterns(language: str, kind: str, split: str) -> tuple[Pattern, ...]:
    """The patterns of one kind for one split, each once more for every choice that it leaves."""
    lines = read_sections(f"{language}_{kind}")[WORDING.get(split, split)]
    found = []
    for line in lines:
        text = line.removeprefix("+ ")
        slots = _SLOT.findall(chosen(text, lambda options: options[0]))
        names = tuple(s for s in slots if s != "S" and not s.startswith("?"))
        unknown = [n for n in names if (language, kind, n) not in RELATIONS]
        if unknown:
            raise ValueError(f"{language}_{kind}.txt: unknown relation {unknown} in {line!r}")
        pattern = Pattern(text, names, line.startswith("+ "))
        found += [pattern] * (1 + choices(text))
    return tuple(found)


@cache
def short_patterns(language: str, kind: str, split: str) -> tuple[Pattern, ...]:
    """The short patterns among them: one fact, the subject in front, few words, no other name."""
    longest = 45 if language == "en" else 18

    def short(pattern: Pattern) -> bool:
        words = _SLOT.sub("", pattern.text)
        alone = len(pattern.relations) == 1 and "{?" not in pattern.text and "<" not in words
        return alone and len(words) <= longest and bool(_SUBJECT_FIRST.match(pattern.text))

    found = patterns(language, kind, split)
    return tuple(pattern for pattern in found if not pattern.continues and short(pattern))


def new_entity(language: str, split: str, rng: random.Random, kind: str | None = None) -> Entity:
    """A fresh subject of `kind` (any kind when None) with a name that belongs to `split`."""
    kind = kind or rng.choice(list(KINDS))
    return Entity(kind, language, split, draw(KINDS[kind][0], language, split, rng))


def fill(pattern: str, entity: Entity | None, language: str, split: str, rng: random.Random) -> str:
    """The marked sentence: each slot becomes the subject, its object, or a name without a fact."""

    def slot(match: re.Match[str]) -> str:
        name = match.group(1)
        if name.startswith("?"):
            value = draw(name[1:], language, split, rng)
        elif entity is None:
            raise ValueError(f"{{{name}}} needs a subject, in {pattern!r}")
        else:
            value = entity.name if name == "S" else entity.value(name, rng)
        return f"{OPEN}{value}{CLOSE}"

    return _SLOT.sub(slot, chosen(pattern, rng.choice))


def state(pattern: Pattern, entity: Entity, rng: random.Random) -> tuple[str, list[Fact]]:
    """One marked sentence about `entity` and the facts in it."""
    sentence = fill(pattern.text, entity, entity.language, entity.split, rng)
    facts = [
        Fact(name, entity.name, entity.values[name], RELATIONS[entity.language, entity.kind, name])
        for name in pattern.relations
    ]
    return sentence, facts


def noise(language: str, split: str, rng: random.Random) -> str:
    """A marked sentence that states no fact."""
    line = rng.choice(read_sections(f"{language}_noise")[WORDING.get(split, split)])
    return fill(line, None, language, split, rng)


def report(marked: str, language: str, split: str, rng: random.Random) -> str:
    """The sentence in reported speech; as it is where it cannot be quoted whole."""
    if not reportable(marked):
        return marked
    frame = rng.choice(read_sections(f"{language}_reports")[WORDING.get(split, split)])
    return reported(frame, marked, lambda part: fill(part, None, language, split, rng))


def in_random_order(known: Sequence[Pattern], rng: random.Random) -> Iterator[Pattern]:
    """Each pattern once, in random order.

    Of thousands only the first few are read, so they are drawn as they are asked for. A few hundred
    are shuffled first: the rows were drawn so.
    """
    left = list(known)
    if len(left) < 500:
        rng.shuffle(left)
        yield from left
        return
    while left:
        at = rng.randrange(len(left))
        left[at], left[-1] = left[-1], left[at]
        yield left.pop()


def sentences_about(
    entity: Entity, most_facts: int, rng: random.Random, repeat: bool = False, reports: float = 0.0
) -> tuple[list[str], list[Fact]]:
    """Up to `most_facts` facts of one subject in as many marked sentences as that takes.

    Without `repeat` no relation is stated twice; with it the same facts may come back in other
    words, which is what blank infilling learns from. `reports` is the share of reported speech
    among the sentences that name their subject and can be quoted whole. (A share of 0 draws no
    random number, here and in `passage`: the rows were drawn without.)
    """
    known = patterns(entity.language, entity.kind, entity.split)
    sentences: list[str] = []
    facts: list[Fact] = []
    for pattern in in_random_order(known, rng):
        if pattern.continues and not sentences:
            continue
        stated = {fact.predicate for fact in facts}
        if not repeat and stated & set(pattern.relations):
            continue
        if len(facts) + len(pattern.relations) > most_facts:
            continue
        sentence, new = state(pattern, entity, rng)
        if reports and not pattern.continues and rng.random() < reports:
            sentence = report(sentence, entity.language, entity.split, rng)
        sentences.append(sentence)
        facts += new
        if len(facts) >= most_facts or rng.random() < 0.15:
            break
    return sentences, facts


def passage(
    language: str,
    split: str,
    rng: random.Random,
    most_facts: int = 6,
    most_chars: int = 200,
    subjects: int | None = None,
    noise_rate: float = 0.35,
    same_kind: float = 0.0,
    reports: float = 0.0,
) -> Passage:
    """A passage of 1–3 subjects with 1–`most_facts` facts, noise between the sentences at times.

    `same_kind` is the share of further subjects that take the first one's kind, so that the same
    may be said of both; `reports` as in `sentences_about`.
    """
    gap = " " if language == "en" else ""
    limit = most_chars * (2 if language == "en" else 1)  # an English letter carries less
    while True:
        count = subjects or rng.choices((1, 2, 3), (6, 3, 1))[0]
        sentences, facts, first = [], [], None
        wanted = rng.randint(count, max(count, most_facts))
        for index in range(count):
            alike = first and same_kind and rng.random() < same_kind
            entity = new_entity(language, split, rng, first.kind if alike else None)
            first = first or entity
            share = (wanted - len(facts)) // (count - index)
            told, new = sentences_about(entity, max(1, share), rng, reports=reports)
            if rng.random() < noise_rate:
                # never inside a run of continuations, whose "it" must stay clear
                above = rng.random() < 0.5
                scenery = [noise(language, split, rng)]
                told = scenery + told if above else told + scenery
            sentences += told
            facts += new
        text = gap.join(sentences)
        distinct = {(f.predicate, f.subject) for f in facts}
        if facts and len(plain(text)) <= limit and len(distinct) == len(facts):
            return Passage(text, tuple(facts), language)
