"""Structured text for pre-training: facts of a passage as keys, tables, tags, lists, objects.

Each shape returns (request, answer); the request shows the wanted shape, so that the passage and
the request together decide every token of the answer. None of them is one of the three tasks'
formats: those are left for LoRA to teach.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from .forms import words
from .world import Fact, Passage

Shape = Callable[[Passage, random.Random], tuple[str, str]]

_KEY_NAMES = (
    ("item", "field", "value"), ("名称", "项", "值"), ("about", "what", "is"), ("s", "k", "v"),
    ("主体", "属性", "内容"), ("who", "attr", "data"), ("头", "边", "尾"), ("name", "key", "text"),
)  # fmt: skip

_TASKS_KEYS = {"predicate", "subject", "object"}
_DATA_WORDS = """name title kind type label entity relation attribute property head tail source
target slot role key value field item text content topic answer number person place thing word part
left right first second from to node edge row column cell record entry fact note info detail term
concept verb noun subject predicate object cause effect owner member group class""".split()


def dumps(value: object) -> str:
    """JSON on one line, Chinese characters as themselves."""
    return json.dumps(value, ensure_ascii=False)


def _one_subject(passage: Passage, rng: random.Random) -> list[Fact]:
    subject = rng.choice(passage.facts).subject
    facts = [fact for fact in passage.facts if fact.subject == subject]
    rng.shuffle(facts)
    return facts[: rng.randint(1, len(facts))]


def quoted_answer(passage: Passage, rng: random.Random) -> tuple[str, str]:
    fact = rng.choice(passage.facts)
    left, right = rng.choice(('""', "「」", "[]", "<>", "()", "【】"))
    return f"{fact.question()} {left}{right}", f"{left}{fact.object}{right}"


def key_values(passage: Passage, rng: random.Random) -> tuple[str, str]:
    facts = _one_subject(passage, rng)
    equals, comma = rng.choice(("=", ": ", "：", " -> ")), rng.choice((", ", "；", "\n", " | "))
    request = comma.join(f"{f.predicate}{equals}?" for f in facts)
    return f"{facts[0].subject} {request}", comma.join(
        f"{f.predicate}{equals}{f.object}" for f in facts
    )


def json_object(passage: Passage, rng: random.Random) -> tuple[str, str]:
    facts = _one_subject(passage, rng)
    blank = dumps({f.predicate: "" for f in facts})
    return f"{facts[0].subject} {blank}", dumps({f.predicate: f.object for f in facts})


def tags(passage: Passage, rng: random.Random) -> tuple[str, str]:
    facts = _one_subject(passage, rng)
    request = "".join(f"<{f.predicate}></{f.predicate}>" for f in facts)
    answer = "".join(f"<{f.predicate}>{f.object}</{f.predicate}>" for f in facts)
    return f"{facts[0].subject} {request}", answer


def _order(rng: random.Random) -> list[int]:
    """Subject 0, predicate 1, object 2 in any order; three times in four the object is last.

    What it is an object of is said then, so that there is one thing to look for at a time.
    """
    order = rng.sample(range(3), 3)  # a third of these end with the object anyway
    return order if rng.random() < 0.375 else [*(part for part in order if part != 2), 2]


def _columns(passage: Passage, rng: random.Random) -> tuple[list[str], list[list[str]]]:
    """Subject 1, predicate 2, object 3 in any order: the numbers to show, and every fact so."""
    order = _order(rng)
    rows = [(f.subject, f.predicate, f.object) for f in passage.facts]
    return [str(i + 1) for i in order], [[row[i] for i in order] for row in rows]


def table(passage: Passage, rng: random.Random) -> tuple[str, str]:
    shown, rows = _columns(passage, rng)
    lines = [f"| {' | '.join(row)} |" for row in (shown, *rows)]
    return lines[0], "\n".join(lines[1:])


def relation_names(passage: Passage, rng: random.Random) -> tuple[str, str]:
    comma = rng.choice(("、", ", ", " / "))
    return f"有哪些项{comma}？", comma.join(f.predicate for f in passage.facts)


def subjects(passage: Passage, rng: random.Random) -> tuple[str, str]:
    names = list(dict.fromkeys(f.subject for f in passage.facts))
    return "主体 {1}{2}", "".join(f"{{{name}}}" for name in names)


def nested_lists(passage: Passage, rng: random.Random) -> tuple[str, str]:
    shown, rows = _columns(passage, rng)
    return dumps([shown]), dumps(rows)


def _new_keys(rng: random.Random) -> tuple[str, ...]:
    """Three words that nothing else connects: random ones of either language, or data's own.

    Of the tasks' three keys no two meet: LoRA has them to teach, and finds each known as a word.
    """
    source = rng.choice(("zh", "en", "data", "data"))
    while True:
        if source == "data":
            names = tuple(rng.sample(_DATA_WORDS, 3))
        else:
            names = tuple(words(source, rng, 2 if source == "zh" else 1) for _ in range(3))
        if len(set(names)) == 3 and len(_TASKS_KEYS & set(names)) < 2:
            return names


def objects_with_keys(passage: Passage, rng: random.Random) -> tuple[str, str]:
    """A list of small objects whose three keys, drawn anew, are shown in the request."""
    parts = ("subject", "predicate", "object")
    names = rng.choice(_KEY_NAMES) if rng.random() < 0.4 else _new_keys(rng)
    order = [(names[index], parts[index]) for index in _order(rng)]
    shown = dumps([{key: str(names.index(key) + 1) for key, _ in order}])
    rows = [{key: getattr(fact, attribute) for key, attribute in order} for fact in passage.facts]
    return shown, dumps(rows)


def arrows(passage: Passage, rng: random.Random) -> tuple[str, str]:
    shown, rows = _columns(passage, rng)
    lines = ["{} --{}--> {}".format(*row) for row in (shown, *rows)]
    return lines[0], "\n".join(lines[1:])


def interview(passage: Passage, rng: random.Random) -> tuple[str, str]:
    """Every fact as a question and its answer, in the passage's order."""
    ask, reply = rng.choice((("问：", "答："), ("Q: ", "A: "), ("甲：", "乙：")))
    rows = [f"{ask}{f.question()}\n{reply}{f.object}" for f in passage.facts]
    return f"{ask}…{reply}…", "\n".join(rows)


def count(passage: Passage, rng: random.Random) -> tuple[str, str]:
    return "有几项？", str(len(passage.facts))


SHAPES: tuple[tuple[Shape, int], ...] = (
    (quoted_answer, 3), (key_values, 3), (json_object, 3), (tags, 2), (table, 2),
    (relation_names, 2), (subjects, 1), (nested_lists, 3), (objects_with_keys, 4), (arrows, 2),
    (interview, 4), (count, 1),
)  # fmt: skip


# Shapes that hold every fact of the passage, in the order of the text.
LISTS: tuple[Shape, ...] = (table, nested_lists, objects_with_keys, objects_with_keys, arrows,
                            interview, relation_names)  # fmt: skip


def draw_list(passage: Passage, rng: random.Random) -> tuple[str, str]:
    """A request and its answer in a random shape of LISTS."""
    return rng.choice(LISTS)(passage, rng)


def draw_shape(passage: Passage, rng: random.Random) -> tuple[str, str]:
    """A request and its answer in a random shape."""
    shapes, weights = zip(*SHAPES, strict=True)
    return rng.choices(shapes, weights)[0](passage, rng)
