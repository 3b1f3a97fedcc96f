"""The data rows of the three tasks: triples, classification, question generation.

    python -m loraglm_helpers.miniature.tasks            writes data/mixed_{train,dev}_dataset.jsonl

Train and dev rows share no sentence pattern and no invented name. A row is decided by its text:
triples come in the order in which the passage states their objects, a classified text has one
topic, and a question row's passage states exactly one fact.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

from ..sequences import format_context
from ..whole_file import write_text
from . import wording, world
from .pools import read_sections

ENGLISH_SHARE = 0.2
MOST_FACTS = (2, 3, 4, 6)  # one of these bounds a row's triples

# How each task is asked. One wording a language: LoRA is to learn the task, not paraphrases.
INSTRUCTIONS = {
    ("triples", "zh"): "抽取文本中的全部三元组，用JSON列表回答。",
    ("triples", "en"): "Extract all triples from the text as a JSON list.",
    ("question", "zh"): "阅读短文，写出它所回答的问题。",
    ("question", "en"): "Read the passage and write the question that it answers.",
    ("classification", "zh"): "判断文本的类别，用JSON列表回答：",
    ("classification", "en"): "Classify the text, answer with a JSON list: ",
}

Row = dict[str, str]


def triples(passage: world.Passage | None) -> str:
    """The JSON list of a passage's facts, `[]` where it states none."""
    facts = passage.facts if passage else ()
    rows = [{"predicate": f.predicate, "subject": f.subject, "object": f.object} for f in facts]
    return json.dumps(rows, ensure_ascii=False)


def triples_row(language: str, split: str, rng: random.Random) -> Row:
    """1–6 triples, mostly few, or (one row in fourteen) a passage that states no fact."""
    if rng.random() < 1 / 14:
        gap = " " if language == "en" else ""
        lines = dict.fromkeys(world.noise(language, split, rng) for _ in range(rng.randint(1, 3)))
        text, target = wording.plain(gap.join(lines)), triples(None)
    else:
        passage = world.passage(language, split, rng, most_facts=rng.choice(MOST_FACTS))
        text, target = passage.text, triples(passage)
    return _row("triples", language, text, target)


def question_row(language: str, split: str, rng: random.Random) -> Row:
    """A passage with one fact, with scenery before or after it, and the question it answers."""
    passage = world.passage(language, split, rng, most_facts=1, subjects=1, noise_rate=0.6)
    return _row("question", language, passage.text, passage.facts[0].question())


def labels(language: str) -> list[str]:
    """The eight class labels of a language, in the order in which the instruction names them."""
    sections = read_sections(f"{language}_topics")
    return [s.removeprefix("train.") for s in sections if s.startswith("train.")]


def classification_row(language: str, split: str, rng: random.Random) -> Row:
    """A text of two or three sentences on one of eight topics; a JSON list with one label."""
    names = labels(language)
    label = rng.choice(names)
    lines = rng.sample(read_sections(f"{language}_topics")[f"{split}.{label}"], rng.randint(2, 3))
    told = [world.fill(line, None, language, split, rng) for line in lines]
    if rng.random() < 0.4:
        told.insert(rng.randint(0, len(told)), world.noise(language, split, rng))
    text = wording.plain((" " if language == "en" else "").join(told))
    comma, stop = ("、", "。") if language == "zh" else (", ", ".")
    row = _row("classification", language, text, json.dumps([label], ensure_ascii=False))
    instruction = INSTRUCTIONS["classification", language]
    listed = instruction + comma.join(names) + stop
    return row | {"context": row["context"].replace(instruction, listed, 1)}


def _row(task: str, language: str, text: str, target: str) -> Row:
    return {"context": format_context(INSTRUCTIONS[task, language], text), "target": target}


MAKERS: dict[Callable[[str, str, random.Random], Row], int] = {
    triples_row: 5,
    question_row: 3,
    classification_row: 3,
}


def make_rows(split: str, count: int, seed: int) -> list[Row]:
    """`count` distinct rows of the three tasks in random order, reproducible by `seed`."""
    rng = random.Random(f"{split}-{seed}")
    rows: dict[str, Row] = {}
    while len(rows) < count:
        maker = rng.choices(list(MAKERS), list(MAKERS.values()))[0]
        row = maker("en" if rng.random() < ENGLISH_SHARE else "zh", split, rng)
        rows.setdefault(row["context"], row)
    return list(rows.values())


def write_rows(rows: list[Row], path: Path) -> None:
    """JSON lines, UTF-8, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main() -> None:
    """Write the train and dev files into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--dev", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for split, count in (("train", arguments.train), ("dev", arguments.dev)):
        path = arguments.out / f"mixed_{split}_dataset.jsonl"
        write_rows(make_rows(split, count, arguments.seed), path)
        print(f"{path}: {count} rows")


if __name__ == "__main__":
    main()
